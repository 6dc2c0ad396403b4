"""avjax as a library: public names, representations, docs/library.md."""

import dataclasses
import pkgutil
import re
import subprocess
import sys
import types

import pytest

import avjax
from avjax.data.folds import Filter
from avjax.data.pipeline import open_dataset
from avjax.models.network import Inputs
from avjax.runs.saved_model import ModelCard
from configs import audio_only, audio_only_strong, ia_softhard
from tests.clips import tone, write_video
from tests.sound_dataset import write_sounds


def test_package_exports_exactly_its_public_names():
    assert dir(avjax) == sorted(avjax.__all__)
    with pytest.raises(AttributeError, match="module 'avjax' has no attribute 'fit'"):
        avjax.fit  # noqa: B018


def test_names_in_the_docs_need_no_other_import(root_dir):
    text = (root_dir / "docs" / "library.md").read_text(encoding="utf-8")
    names = sorted(set(re.findall(r"`(avjax(?:\.\w+)+)", text)))
    assert {"avjax.load", "avjax.report.report_run", "avjax.compare.compare_runs"} <= set(names)
    script = f"import avjax\nfor name in {names}: eval(name)"
    subprocess.run([sys.executable, "-c", script], check=True, cwd=root_dir)


def test_names_of_modules_are_modules():
    """Independent of the import order: submodules replace attributes of the same name."""
    modules = {module.name for module in pkgutil.iter_modules(avjax.__path__)}
    shared = modules & set(avjax.__all__)
    assert {"train", "evaluate", "crossval"} <= shared
    for name in shared:
        assert isinstance(getattr(avjax, name), types.ModuleType)
        assert callable(getattr(avjax, name).main)


def test_script_in_the_docs_runs(root_dir, tmp_path, monkeypatch, capsys):
    text = (root_dir / "docs" / "library.md").read_text(encoding="utf-8")
    (script,) = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    dataset = write_sounds(tmp_path / "written", dict.fromkeys((1, 5, 9, 10), 6))
    (tmp_path / "data").mkdir()
    dataset.rename("data/ravdess")
    write_video(tmp_path / "clip.mp4", 30, sound=tone(1.0))
    exec(compile(script, "docs/library.md", "exec"), {})
    printed = capsys.readouterr().out
    for part in (
        "<PreparedDataset data/ravdess: 24 clips of low, high;",
        "{'train': 12, 'validation': 6, 'test': 6}",
        "test split, 6 clips",
        "<Model audio: low, high; profile reference, epoch",
    ):
        assert part in printed


def test_repr_of_dataset_clips_and_filter(tmp_path):
    dataset = open_dataset(write_sounds(tmp_path, {1: 3, 11: 2}, log_mels=8))
    assert repr(dataset) == (
        f"<PreparedDataset {dataset.directory}: 5 clips of low, high; profile reference, 3.6 s: "
        "mfcc [16, 10], log_mel [16, 8]>"
    )
    clips = dataset.select("actor=1")
    assert repr(clips) == "<Clips: 3 (2 low, 1 high), 3 with audio, 0 with video: mfcc [16, 10]>"
    clips = dataset.select("label=1", Inputs(audio="log_mel", audio_width=8), num_frames=2)
    assert repr(clips) == (
        "<Clips: 2 (2 high), 2 with audio, 0 with video: frames [2, 64, 64, 3], log_mel [16, 8]>"
    )
    clip_filter = Filter.parse("actor=1-3,07 intensity=2")
    assert repr(clip_filter) == "Filter.parse('actor=1,2,3,7 intensity=2')"
    assert eval(repr(clip_filter)) == clip_filter


def test_filter_may_be_text(tmp_path):
    dataset = open_dataset(write_sounds(tmp_path, {1: 3, 11: 2}))
    assert dataset.select("actor=11").clip_ids == dataset.select(Filter.parse("actor=11")).clip_ids
    assert len(dataset.select()) == 5
    with pytest.raises(avjax.InputError, match="cannot read 'actr=1' in the fold"):
        dataset.select("actr=1")


@pytest.mark.parametrize("file", [ia_softhard, audio_only, audio_only_strong])
def test_repr_of_a_config_omits_defaults(file):
    config = avjax.RunConfig.from_tree(file.get_config()).with_fold("five/3", seed=7)
    text = repr(config)
    assert eval(text, {"RunConfig": avjax.RunConfig}) == config
    assert "'data.fold': 'five/3'" in text
    assert "dampening" not in text


def test_config_keys_may_be_joined_by_dots():
    tree = {"model.kind": "audio", "mask": "nodropout", "optimizer": {"milestones": (2, 3)}}
    config = avjax.RunConfig.from_tree(tree)
    assert (config.model.kind, config.optimizer.milestones) == ("audio", (2, 3))
    assert repr(config) == (
        "RunConfig.from_tree({'model.kind': 'audio', 'mask': 'nodropout', "
        "'optimizer.milestones': (2, 3)})"
    )


def test_repr_of_a_model():
    network = {"kind": "audio_visual", "fusion": "it", "num_heads": 4, "num_classes": 2}
    card = ModelCard(network, ["calm", "sad"], "fixed", 15, 224, 156)
    assert repr(avjax.Model({}, card)) == (
        "<Model audio_visual fusion=it num_heads=4: calm, sad; profile fixed>"
    )
    card = dataclasses.replace(card, epoch=35, metrics={"accuracy": 0.7708})
    assert repr(avjax.Model({}, card)).endswith(
        "profile fixed, epoch 35, validation accuracy 77.1%>"
    )
