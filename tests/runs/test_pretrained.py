"""Initial variables from a checkpoint of the whole network or of the face backbone."""

import jax
import numpy as np
import pytest

from avjax.errors import InputError
from avjax.models.audio_visual import AudioVisualNet
from avjax.models.networks import BACKBONE_KIND
from avjax.runs.pretrained import initial_variables
from avjax.runs.saved_model import ModelCard, save_model

NET = AudioVisualNet(num_classes=3, stage_repeats=(1, 1, 1))
BACKBONE = ("conv1", "stage", "local", "modulator", "conv5")


@pytest.fixture(scope="module")
def pretrained():
    """Variables that differ from initial ones."""
    return jax.tree.map(lambda x: np.asarray(x) + 1, initial_variables(NET, seed=0))


def save(directory, variables, kind):
    card = ModelCard({"kind": kind}, ["a", "b", "c"], "fixed", 2, 64, 16)
    save_model(directory, variables, card)
    return str(directory)


def test_whole_network_is_loaded(tmp_path, pretrained):
    path = save(tmp_path / "model", pretrained, "audio_visual")
    jax.tree.map(np.testing.assert_array_equal, initial_variables(NET, 1, path), pretrained)


def test_backbone_replaces_only_its_variables(tmp_path, pretrained):
    initial = initial_variables(NET, 1)
    backbone = {
        collection: {
            name: tree
            for name, tree in pretrained[collection]["visual_model"].items()
            if name.startswith(BACKBONE)
        }
        for collection in pretrained
    }
    path = save(tmp_path / "backbone", backbone, BACKBONE_KIND)
    merged = initial_variables(NET, 1, path)
    for collection, tree in merged.items():
        for name, part in tree["visual_model"].items():
            source = pretrained if name.startswith(BACKBONE) else initial
            expected = source[collection]["visual_model"][name]
            jax.tree.map(np.testing.assert_array_equal, part, expected)
        audio = initial[collection]["audio_model"]
        jax.tree.map(np.testing.assert_array_equal, tree["audio_model"], audio)


def test_variables_that_do_not_fit_are_listed(tmp_path, pretrained):
    path = save(tmp_path / "model", pretrained, "audio_visual")
    net = AudioVisualNet(num_classes=4, fusion="lt", stage_repeats=(1, 1, 1))
    with pytest.raises(InputError, match="does not fit") as error:
        initial_variables(net, 1, path)
    assert "unexpected params/av1" in str(error.value)
    assert "params/classifier_1/kernel has shape (256, 3) instead of (256, 4)" in str(error.value)


def test_another_profile_is_refused(tmp_path, pretrained):
    path = save(tmp_path / "model", pretrained, "audio_visual")
    initial_variables(NET, 1, path, "fixed")
    with pytest.raises(InputError, match=r"expects clips of profile 'fixed'.* is 'reference'"):
        initial_variables(NET, 1, path, "reference")
