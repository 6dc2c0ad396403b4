"""The extensions in docs/extending.md work as they stand there."""

import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avjax.config import RunConfig
from avjax.crossval import SUMMARY_FILE, cross_validate
from avjax.data.folds import resolve_fold
from avjax.data.pipeline import open_dataset
from avjax.errors import InputError
from avjax.models import audio_visual
from avjax.models.audio_visual import FUSIONS
from avjax.models.networks import ModelConfig, build_network
from avjax.models.variables import init_variables
from avjax.preparation.clip_store import PreparationSettings
from avjax.prepare import prepare
from avjax.training import augment
from avjax.weights.key_maps import network_layers
from tests.clips import WholeFrame, tone, write_video
from tests.sound_dataset import audio_config, write_sounds


@pytest.fixture(scope="module")
def files(root_dir):
    """The files in the docs, compiled, by path."""
    text = (root_dir / "docs" / "extending.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n# (\S+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return {path: compile(code, path, "exec") for path, code in blocks}


def read_config(code):
    namespace = {}
    exec(code, namespace)
    return RunConfig.from_tree(namespace["get_config"]())


@pytest.fixture
def gated(files, monkeypatch):
    monkeypatch.setitem(FUSIONS, "gated", None)  # removed again after the test
    exec(files["avjax/models/audio_visual.py"], {**vars(audio_visual)})
    return read_config(files["configs/gated.py"])


def test_a_fusion_has_variables_beside_the_branches_and_learns(gated):
    net = build_network(gated.model.describe(num_classes=3)).clone(stage_repeats=(1, 1, 1))
    variables = init_variables(net, jax.random.key(0))
    assert {"audio_gate", "video_gate", "audio_model"} < set(variables["params"])
    rng = np.random.default_rng(0)
    mfcc = jnp.asarray(rng.standard_normal((2, 16, 10)), jnp.float32)
    frames = jnp.asarray(rng.random((2, 1, 64, 64, 3)), jnp.float32)

    @jax.jit
    def gradients(params):
        def loss(params):
            state = {**variables, "params": params}
            outputs, _ = net.apply(state, mfcc, frames, True, mutable="batch_stats")
            return net.losses(outputs, jnp.array([0, 2])).sum()

        return jax.grad(loss)(params)

    reached = gradients(variables["params"])
    for name in ("audio_gate", "video_gate"):
        assert np.any(reached[name]["kernel"] != 0)
        assert net.trained(variables["params"])[name]["kernel"]


@pytest.mark.usefixtures("gated")
def test_a_fusion_without_parts_has_no_names_in_pytorch():
    with pytest.raises(InputError, match="no map to PyTorch for fusion 'gated'"):
        network_layers({"kind": "audio_visual", "fusion": "gated"})


@pytest.mark.parametrize("name", FUSIONS)
def test_heads_must_divide_the_widths_of_a_fusion(name):
    with pytest.raises(InputError, match="num_heads=3 does not divide the attention width"):
        ModelConfig(fusion=name, num_heads=3)


def test_a_corpus_has_names_and_folds_of_its_own(files, tmp_path, monkeypatch):
    config = read_config(files["configs/crema_d.py"])
    clips = {
        f"{actor}_DFA_{emotion}_XX" for actor in (1001, 1002, 1003) for emotion in ("ANG", "SAD")
    }
    for name in clips:
        video = write_video(tmp_path / f"{name}.mp4", 8, sound=tone(0.3))
        (tmp_path / "VideoFlash").mkdir(exist_ok=True)
        video.rename(tmp_path / "VideoFlash" / f"{name}.flv")
    monkeypatch.setattr(sys, "argv", ["crema_d.py", str(tmp_path)])
    exec(files["tools/crema_d.py"], {})
    settings = PreparationSettings("fixed", 2, 64, pair_video_only=False)
    manifest = tmp_path / "manifest.csv"
    prepare(None, tmp_path / "DATA", settings, manifest=manifest, make_detector=WholeFrame)
    dataset = open_dataset(tmp_path / "DATA")
    assert dataset.metadata.classes == ("angry", "sad")
    tested = []
    for fold in config.data.folds:
        filters = resolve_fold(fold)
        actors = [set().union(*f.terms.values()) for f in filters.values()]
        assert [len(part) for part in actors] == pytest.approx([91 * 3 / 5, 91 / 5, 91 / 5], abs=1)
        assert sum(map(len, actors)) == len(set().union(*actors)) == 91
        tested += filters["test"].terms["group"]
    assert len(tested) == len(set(tested)) == 91
    test = dataset.select(resolve_fold(config.data.fold)["test"])
    assert {record.group for record in test.records} == {"1001"}


def test_crossval_takes_the_folds_of_the_config(tmp_path):
    config = audio_config(write_sounds(tmp_path / "DATA"))
    config.num_epochs = 1
    config.data.folds = (
        "train: actor=1; validation: actor=11; test: actor=5",
        "train: actor=1; validation: actor=11; test: actor=10",
    )
    summary = cross_validate(RunConfig.from_tree(config), tmp_path / "RUN", "config")
    assert [run["fold"] for run in summary["runs"]] == ["config/0", "config/1"]
    assert list(summary["actors"]) == ["5", "10"]
    assert (tmp_path / "RUN" / SUMMARY_FILE).is_file()
    with pytest.raises(InputError, match="the config lists no folds; set "):
        cross_validate(RunConfig(), tmp_path / "RUN", "config")


def test_an_augmentation_of_frames(files, monkeypatch):
    monkeypatch.setitem(augment.AUGMENTATIONS, "erase", None)
    exec(files["avjax/training/augment.py"], {**vars(augment)})
    config = read_config(files["configs/erase.py"])
    assert config.step.augment == "flip_rotate,erase"
    clips = jnp.full((6, 2, 30, 24, 3), 9, jnp.uint8)
    erased = np.asarray(augment.augment("erase", jax.random.key(0), clips))
    assert erased.dtype == np.uint8
    np.testing.assert_array_equal((erased == 0).sum((2, 3)), 10 * 10)
    assert len({clip.tobytes() for clip in erased}) > 3
    np.testing.assert_array_equal(erased[:, 0], erased[:, 1])
