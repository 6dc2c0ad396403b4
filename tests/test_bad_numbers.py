"""Numbers that are not finite stop a run; nothing that was saved is lost."""

import contextlib
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avjax import train as train_command
from avjax.config import RunConfig
from avjax.data.ravdess_dataset_builder import write_dataset
from avjax.data.records import ClipRecord, DatasetMetadata, PreparedClip
from avjax.errors import InputError
from avjax.runs.checkpoints import RunCheckpoints
from avjax.runs.saved_model import load_model
from avjax.train_vmapped import train_vmapped
from avjax.training.loop import FiniteCheck
from avjax.training.step import StepSums
from tests.sound_dataset import audio_config, write_sounds
from tests.training_runs import lines, train_run


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    return write_sounds(tmp_path_factory.mktemp("sounds"))


@contextlib.contextmanager
def nan_after(step, monkeypatch):
    """Makes the parameters NaN at one step; an epoch has two."""
    original = train_command.train_step

    def poisoned(state, batch, key, axis_name=None, **settings):
        state, sums = original(state, batch, key, axis_name, **settings)
        params = jax.tree.map(lambda x: jnp.where(state.step == step, jnp.nan, x), state.params)
        return dataclasses.replace(state, params=params), sums

    with monkeypatch.context() as patch:
        patch.setattr(train_command, "train_step", poisoned)
        yield


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (
            3,
            r"step 4: the mean loss is nan and the largest gradient nan \(one step before \d",
        ),
        (4, r"the training state holds numbers that are not finite, in \.state\.params"),
    ],
)
def test_run_stops_and_keeps_what_was_good(sounds, tmp_path, monkeypatch, step, message):
    """NaN within the second epoch, and at its end."""
    with nan_after(step, monkeypatch), pytest.raises(InputError, match=message):
        train_run(audio_config(sounds), tmp_path)
    assert len(lines(tmp_path)) == 2
    assert load_model(tmp_path)[1].epoch == 1
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["2"]
    assert not (tmp_path / "evaluation.json").exists()


def test_message_names_the_clips_and_the_command_fails(sounds, tmp_path, capsys):
    settings = [f"--config.data.dir={sounds}", "--config.batch_size=4"]
    settings += ["--config.optimizer.learning_rate=1e30", f"--workdir={tmp_path}"]
    assert train_command.main(["train", "--config=configs/audio_only.py", *settings]) == 1
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error: ")]
    assert "on the clips clip-01-0" in line
    assert "lower config.optimizer.learning_rate" in line
    assert not (tmp_path / "best").exists()


def test_damaged_clip_is_named(tmp_path):
    records = [
        ClipRecord(f"clip-{a}-{k}", f"actor_{a:02d}", k % 2, a, 1, 1, 1, "x", has_video=False)
        for a in (1, 5, 11)
        for k in range(4)
    ]
    blank = np.zeros((0, 64, 64, 3), np.uint8)
    mfccs = np.random.default_rng(0).normal(size=(12, 16, 10)).astype(np.float32)
    mfccs[2, 3, 4] = np.nan
    clips = [PreparedClip(blank, mfcc, True, False) for mfcc in mfccs]
    metadata = DatasetMetadata("reference", ("low", "high"), 0, 64, 16, {})
    data = write_dataset(tmp_path / "data", metadata, records, clips)
    with pytest.raises(InputError, match=r"step 1: .*clip-1-2"):
        train_run(audio_config(data), tmp_path / "run")


def test_one_of_several_runs_is_named(sounds, tmp_path):
    config = audio_config(sounds)
    config.optimizer.learning_rate = 1e30
    configs = {
        tmp_path / str(s): RunConfig.from_tree(config).with_fold("published", s) for s in (0, 1)
    }
    with pytest.raises(InputError, match=r"step \d: the mean loss is"):
        train_vmapped(configs)
    assert not list(tmp_path.glob("*/best"))


def test_check_finds_the_step_and_the_model():
    """Two models; the second one idles in the first step."""
    rows = np.array([[[0, -1], [1, -1]], [[2, 3], [3, 2]]], np.int32)
    loss = np.array([[1.0, 0.0], [1.0, np.inf], [0.0, 0.0]])
    ones = np.ones((3, 2))
    sums = StepSums(loss, ones, np.ones((3, 2, 2, 2)), 2 * ones)
    check = FiniteCheck(["a", "b", "c", "d"], np.array([10, 20], np.int32))
    with pytest.raises(InputError, match=r"step 21: the mean loss is inf .* 2 .* clips d, c;"):
        check(rows, sums)


def test_state_that_is_not_finite_is_not_saved(tmp_path):
    with RunCheckpoints(tmp_path) as run:
        run.save(1, {"x": jnp.ones(3)})
        with pytest.raises(InputError, match=r"not finite, in \['x'\]"):
            run.save(2, {"x": jnp.array([1.0, jnp.inf])})
        assert run.restore({"x": jnp.zeros(3)})["x"].tolist() == [1, 1, 1]
