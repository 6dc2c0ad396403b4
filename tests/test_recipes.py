"""The recipes in docs/data.md write manifests of other corpora from made-up trees."""

import re
import sys
from collections import Counter

import pytest

from avjax.preparation.manifest import read_manifest

MELD_HEADER = "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode"
TREES = {
    "crema_d": """
        VideoFlash/1001_DFA_ANG_XX.flv VideoFlash/1002_IEO_SAD_HI.flv
        VideoFlash/1040_ITH_SAD_X.flv AudioWAV/1001_DFA_ANG_XX.wav
    """,
    "tess": """
        OAF_Fear/OAF_back_fear.wav OAF_neutral/OA_bite_neutral.wav
        YAF_pleasant_surprised/YAF_dog_ps.wav again/OAF_Fear/OAF_back_fear.wav
    """,
    "savee": """
        AudioData/DC/sa03.wav AudioData/DC/a01.wav ALL/KL_su12.wav Info/x.wav
        AudioVisualClip/JE/h2.avi
    """,
    "meld": """
        train/train_splits/dia0_utt0.mp4 train/train_splits/dia0_utt1.mp4
        dev/dev_splits_complete/dia0_utt0.mp4 dev/dev_splits_complete/._dia0_utt0.mp4
        test/output_repeated_splits_test/dia3_utt14.mp4
    """,
}
TREES = {corpus: names.split() for corpus, names in TREES.items()}


@pytest.fixture
def run_recipe(root_dir, tmp_path, monkeypatch):
    """Makes a corpus's tree, runs its recipe, and returns the clips by class, group and file."""
    text = (root_dir / "docs" / "data.md").read_text(encoding="utf-8")
    recipes = dict(re.findall(r"^```python\n# (\w+)\.py(.*?)^```$", text, re.M | re.S))
    assert set(recipes) == set(TREES)

    def run(corpus, *arguments):
        for name in TREES[corpus]:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        monkeypatch.setattr(sys, "argv", [corpus, str(tmp_path), *arguments])
        exec(compile("#" + recipes[corpus], corpus, "exec"), {})
        clips, skipped, classes, notes = read_manifest(tmp_path / "manifest.csv")
        assert (skipped, notes) == ({}, [])
        return Counter(
            (
                classes[clip.record.label],
                clip.record.group,
                clip.record.subset,
                (clip.video or clip.audio).relative_to(tmp_path).as_posix(),
                clip.video is not None,
            )
            for clip in clips
        )

    return run


def test_crema_d(run_recipe):
    angry, sad, unspecified, sound = TREES["crema_d"]
    assert run_recipe("crema_d", "flv") == Counter(
        [
            ("angry", "1001", "", angry, True),
            ("sad", "1002", "", sad, True),
            ("sad", "1040", "", unspecified, True),
        ]
    )
    assert run_recipe("crema_d", "wav") == Counter([("angry", "1001", "", sound, False)])


def test_tess(run_recipe):
    _, neutral, surprise, again = TREES["tess"]
    assert run_recipe("tess") == Counter(
        [
            ("fear", "OA", "", again, False),
            ("neutral", "OA", "", neutral, False),
            ("ps", "YA", "", surprise, False),
        ]
    )


def test_savee(run_recipe):
    sad, angry, surprised, _, happy = TREES["savee"]
    assert run_recipe("savee", "wav") == Counter(
        [
            ("sad", "DC", "", sad, False),
            ("angry", "DC", "", angry, False),
            ("surprised", "KL", "", surprised, False),
        ]
    )
    assert run_recipe("savee", "avi") == Counter([("happy", "JE", "", happy, True)])


def test_meld(run_recipe, tmp_path):
    lines = {
        "train": ['1,"Oh, no",Chandler,surprise,negative,0,0,8,21', "2,x,All,joy,x,0,1,8,21"],
        "dev": ["1,It\x92s,Dr. Green,neutral,neutral,0,0,4,7"],
        "test": ["1,why,Mark,anger,negative,3,14,3,19"],
    }
    for part, listed in lines.items():
        text = "\n".join([MELD_HEADER, *listed]) + "\n"
        encoding = "cp1252" if part == "train" else "utf-8"
        (tmp_path / f"{part}_sent_emo.csv").write_text(text, encoding=encoding)
    first, second, validation, _, test = TREES["meld"]
    assert run_recipe("meld") == Counter(
        [
            ("surprise", "Chandler", "train", first, True),
            ("joy", "All", "train", second, True),
            ("neutral", "Dr. Green", "validation", validation, True),
            ("anger", "Mark", "test", test, True),
        ]
    )
