"""Starting from a checkpoint: of the whole network, or of the face backbone alone."""

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
def other():
    """Variables that training from seed 1 would not draw."""
    return jax.tree.map(lambda x: np.asarray(x) + 1, initial_variables(NET, seed=0))


def saved(directory, variables, kind):
    card = ModelCard({"kind": kind}, ["a", "b", "c"], "fixed", 2, 64, 16)
    save_model(directory, variables, card)
    return str(directory)


def test_a_whole_network_is_taken_over(tmp_path, other):
    path = saved(tmp_path / "model", other, "audio_visual")
    jax.tree.map(np.testing.assert_array_equal, initial_variables(NET, 1, path), other)


def test_a_backbone_fills_its_part_and_leaves_the_rest_fresh(tmp_path, other):
    fresh = initial_variables(NET, 1)
    backbone = {
        collection: {
            name: tree
            for name, tree in other[collection]["visual_model"].items()
            if name.startswith(BACKBONE)
        }
        for collection in other
    }
    path = saved(tmp_path / "backbone", backbone, BACKBONE_KIND)
    merged = initial_variables(NET, 1, path)
    for collection, tree in merged.items():
        for name, part in tree["visual_model"].items():
            source = other if name.startswith(BACKBONE) else fresh
            expected = source[collection]["visual_model"][name]
            jax.tree.map(np.testing.assert_array_equal, part, expected)
        audio = fresh[collection]["audio_model"]
        jax.tree.map(np.testing.assert_array_equal, tree["audio_model"], audio)


def test_what_does_not_fit_is_listed(tmp_path, other):
    path = saved(tmp_path / "model", other, "audio_visual")
    net = AudioVisualNet(num_classes=4, fusion="lt", stage_repeats=(1, 1, 1))
    with pytest.raises(InputError, match="does not fit") as caught:
        initial_variables(net, 1, path)
    assert "unexpected params/av1" in str(caught.value)
    assert "params/classifier_1/kernel has shape (256, 3) instead of (256, 4)" in str(caught.value)


def test_another_profile_is_refused(tmp_path, other):
    path = saved(tmp_path / "model", other, "audio_visual")
    initial_variables(NET, 1, path, "fixed")
    with pytest.raises(InputError, match=r"expects clips of profile 'fixed'.* is 'reference'"):
        initial_variables(NET, 1, path, "reference")
