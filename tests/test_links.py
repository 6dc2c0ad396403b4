"""Folders that are links to other disks, or mount points, in the way of commands."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from avjax.data.pipeline import open_dataset
from avjax.preparation.settings import PreparationSettings
from avjax.prepare import prepare
from avjax.runs.saved_model import load_model
from avjax.runtime.files import filled, is_occupied
from tests.clips import read_files, tone, write_sound
from tests.sound_dataset import audio_config, write_sounds
from tests.training_runs import lines, stopped_at, train_run

SETTINGS = PreparationSettings("fixed", 2, 64, pair_video_only=False, seconds=1.0)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    root = tmp_path_factory.mktemp("RAVDESS")
    for emotion in (1, 2, 3):
        write_sound(root / "Actor_01" / f"03-01-0{emotion}-01-01-01-01.wav", tone(0.3 * emotion))
    return root


@pytest.fixture(scope="module")
def prepared(source, tmp_path_factory):
    out = tmp_path_factory.mktemp("prepared") / "DATA"
    prepare(source, out, SETTINGS)
    return read_files(out)


# ---------------------------------------------------------------------------------- preparation


def test_clips_in_hand_on_another_disk(source, prepared, other_disk, tmp_path):
    """The link may lead to a whole disk, where other files stay."""
    (other_disk / "thesis.tex").write_text("precious")
    out = tmp_path / "DATA"
    out.with_name("DATA.partial").symlink_to(other_disk)
    prepare(source, out, SETTINGS)
    assert read_files(out) == prepared
    assert [path.name for path in tmp_path.iterdir()] == ["DATA"]
    assert [path.name for path in other_disk.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("exists", [True, False])
def test_dataset_on_another_disk(source, prepared, other_disk, tmp_path, exists):
    out, target = tmp_path / "DATA", other_disk / "on" / "scratch"
    if exists:
        target.mkdir(parents=True)
    out.symlink_to(target)
    prepare(source, out, SETTINGS)
    assert read_files(target) == prepared
    assert [path.name for path in tmp_path.iterdir()] == ["DATA"] and out.is_symlink()
    assert len(open_dataset(out).records) == 3
    assert prepare(source, out, SETTINGS).prepared_now == 0


def test_clips_left_by_a_kill_after_publishing_are_removed(source, prepared, tmp_path):
    out, partial = tmp_path / "DATA", tmp_path / "DATA.partial"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("avjax.preparation.clip_store.ClipStore.remove", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            prepare(source, out, SETTINGS)
    assert read_files(out) == prepared and partial.exists()
    assert prepare(source, out, SETTINGS).prepared_now == 0
    assert not partial.exists()


def _interrupt(*_):
    raise KeyboardInterrupt


@pytest.mark.slow
@pytest.mark.parametrize("mounted", ["DATA", "DATA.partial"])
def test_mount_points(source, prepared, tmp_path, root_dir, mounted):
    """In a namespace of mounts, where the system lets users have one."""
    out, place = tmp_path / "DATA", tmp_path / mounted
    place.mkdir()
    command = f"{sys.executable} -m avjax.prepare --source={source} --out={out} --num_frames=2"
    script = f"mount -t tmpfs tmpfs {place} && {command} --image_size=64 --seconds=1.0 && "
    script += f"{command} --image_size=64 --seconds=1.0 && cp -r {out} {tmp_path / 'copy'}"
    environment = {**os.environ, "PYTHONPATH": str(root_dir)}
    unshare = ["unshare", "--user", "--map-root-user", "--mount"]
    if not shutil.which("unshare") or subprocess.run([*unshare, "true"]).returncode:
        pytest.skip("the system gives users no namespaces")
    subprocess.run([*unshare, "sh", "-c", script], env=environment, check=True)
    assert read_files(tmp_path / "copy") == prepared


# -------------------------------------------------------------------------------------- folders


def test_existing_folder_is_unfinished_until_its_last_file(tmp_path, monkeypatch):
    """Killed between two files, it counts as empty, and the next call fills it."""
    folder = tmp_path / "folder"
    folder.mkdir()

    def fill():
        with filled(folder, last=("end",)) as staged:
            for name in ("end", "a", "b"):
                (staged / name).write_text(name)

    replace = Path.replace
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            Path, "replace", lambda a, b: _interrupt() if a.name == "b" else replace(a, b)
        )
        with pytest.raises(KeyboardInterrupt):
            fill()
    assert (folder / "a").exists() and not (folder / "end").exists()
    assert not is_occupied(folder)
    fill()
    assert sorted(path.name for path in folder.iterdir()) == ["a", "b", "end"]
    assert is_occupied(folder)


def test_failed_folder_leaves_nothing(tmp_path):
    def fail():
        with filled(tmp_path / "folder") as staged:
            (staged / "a").write_text("a")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not any(tmp_path.iterdir())


# -------------------------------------------------------------------------------------- training


def test_parts_of_a_run_on_another_disk(other_disk, tmp_path):
    """The run's folder, its best model and its states are links; stopped and resumed."""
    data = write_sounds(tmp_path / "sounds")
    config = audio_config(data)
    train_run(config, tmp_path / "plain")
    run = tmp_path / "run"
    (other_disk / "run").mkdir()
    run.symlink_to(other_disk / "run")
    for name in ("best", "checkpoints"):
        (tmp_path / name).mkdir()
        (run / name).symlink_to(tmp_path / name)
    with stopped_at(5):
        train_run(config, run)
    train_run(config, run)
    assert lines(run) == lines(tmp_path / "plain")
    (actual, card), (expected, expected_card) = map(load_model, (run, tmp_path / "plain"))
    assert card == expected_card
    jax.tree.map(np.testing.assert_array_equal, actual, expected)
    assert (run / "best").is_symlink() and (run / "checkpoints").is_symlink()
