"""The report's sections that need every clip's answers, or the prepared clips."""

import html
import re

import numpy as np
import pytest

from avjax.data.pipeline import open_dataset
from avjax.data.ravdess import EMOTIONS
from avjax.data.ravdess_dataset_builder import write_dataset
from avjax.data.records import ClipRecord, DatasetMetadata, PreparedClip
from avjax.runs.evaluation_file import answered, striking_clips
from avjax.runs.report.about import settings_section
from avjax.runs.report.classes import classes_section, confusion_table, speakers_section
from avjax.runs.report.clips import clips_section
from avjax.runs.report.conditions import (
    conditions_figure,
    conditions_section,
    intervals,
    paper_accuracies,
    streams_section,
)

BOTH, SOUND, VIDEO = "audiovisual", "audio_only/zeros", "video_only/zeros"
NOISE = "audio_only/noise"
CLASSES = ["low", "high"]
# By clip: truth, and whether both streams, sound alone and video alone are right.
HITS = {
    "a1": (0, 1, 1, 1),
    "a2": (0, 1, 1, 0),
    "a3": (1, 0, 1, 0),
    "b1": (1, 1, 0, 1),
    "b2": (1, 0, 0, 0),
}


def evaluation(**changes):
    """Returns an evaluation of `HITS`; "a3" is more confidently wrong than "b2"."""
    clips, confusion = {}, {name: np.zeros((2, 2), int) for name in (BOTH, SOUND, VIDEO, NOISE)}
    for name, (label, *hits) in HITS.items():
        clip = {"speaker": name[0], "truth": CLASSES[label], "predicted": {}, "probabilities": {}}
        for condition, hit in zip(confusion, (*hits, hits[0]), strict=True):
            answer = label if hit else 1 - label
            clip["predicted"][condition] = CLASSES[answer]
            confusion[condition][label, answer] += 1
            if condition != NOISE:
                sure = 0.9 if name < "b" else 0.6
                clip["probabilities"][condition] = [sure, 1 - sure][:: -1 if answer else 1]
        clips[name] = clip
    conditions = {
        name: {
            "accuracy": float(np.trace(counts) / 5),
            "macro_f1": 0.5,
            "loss": 1.0,
            "confusion": counts.tolist(),
        }
        for name, counts in confusion.items()
    }
    actors = {"a": {"num_clips": 3, "accuracy": 2 / 3}, "b": {"num_clips": 2, "accuracy": 0.5}}
    content = {"split": "test", "num_clips": 5, "classes": CLASSES, "conditions": conditions}
    return content | {"actors": actors, "clips": clips, "temperatures": {}} | changes


def rows(section):
    """Returns the cells of a section's tables by row."""
    lines = re.findall("<tr>(.*?)</tr>", section)
    cells = (re.findall(r"<t[dh][^>]*>(?:<span>)?(.*?)(?:</span>)?</t[dh]>", x) for x in lines)
    return [[html.unescape(cell) for cell in row] for row in cells]


def test_streams_alone_are_counted():
    table = rows(streams_section(evaluation()))
    assert table[1:] == [
        ["both, each alone", "1", "20.0%", "1"],
        ["only sound alone", "2", "40.0%", "1"],
        ["only video alone", "1", "20.0%", "1"],
        ["neither", "1", "20.0%", "0"],
    ]
    assert "sound alone gets 3 right, video alone 2, both together 3" in streams_section(
        evaluation()
    )


def test_network_of_one_stream_has_no_table_of_streams():
    content = evaluation()
    for part in (content["conditions"], *(c["predicted"] for c in content["clips"].values())):
        del part[BOTH], part[VIDEO]
    for clip in content["clips"].values():
        del clip["probabilities"][VIDEO]
    assert streams_section(content) == ""


def test_accuracies_have_intervals_also_under_noise():
    content = evaluation()
    for name, (low, high) in intervals(content).items():
        assert 0 <= low <= content["conditions"][name]["accuracy"] <= high <= 1
    table = rows(conditions_section({}, content))
    assert table[0] == ["condition", "accuracy", "95 % interval", "macro F1", "loss"]
    assert [row[0] for row in table[1:]] == [BOTH, SOUND, VIDEO, NOISE]
    low, high = intervals(content)[NOISE]
    assert table[4][1:3] == ["60.0%", f"{100 * low:.1f} to {high:.1%}"]
    assert "with 2 speakers they are rough" in conditions_section({}, content)
    spread = [line.get_xdata() for line in conditions_figure(content).axes[0].lines]
    assert tuple(spread[3]) == (low, high)


def test_clips_are_counted_where_conditions_have_different_ones():
    content = evaluation()
    for number, figures in enumerate(content["conditions"].values()):
        figures["num_clips"] = 5 - number
    table = rows(conditions_section({}, content))
    assert [row[1] for row in table] == ["clips", "5", "4", "3", "2"]


def test_answers_of_earlier_versions_follow_from_probabilities():
    content = evaluation()
    expected = answered(content, SOUND)
    for clip in content["clips"].values():
        del clip["predicted"]
    assert answered(content, SOUND) == expected == {x: bool(hits[2]) for x, hits in HITS.items()}
    assert answered(content, NOISE) == {}
    assert set(intervals(content)) == {BOTH, SOUND, VIDEO}


def test_paper_stands_beside_runs_on_ravdess_only():
    config = {"model": {"kind": "audio_visual", "fusion": "ia"}, "data": {"fold": "msaf6/2"}}
    content = evaluation(classes=list(EMOTIONS))
    assert paper_accuracies(config, content) == {BOTH: 0.8158}
    for key, value in (("fusion", "lt"), ("kind", "audio")):
        assert paper_accuracies(config | {"model": config["model"] | {key: value}}, content) == {}
    assert paper_accuracies(config | {"data": {"fold": "train: actor=1"}}, content) == {}
    assert paper_accuracies(config, evaluation()) == {}
    table = rows(conditions_section(config, content))
    assert [row[3] for row in table] == ["paper", "81.6%", "", "", ""]


def test_confusion_matrix_of_any_condition_can_be_chosen():
    section = classes_section(evaluation())
    inputs = re.findall(r'<input type="radio" name="condition" id="(.*?)"( checked)?>', section)
    labels = re.findall(r'<label for="(.*?)">(.*?)</label>', section)
    assert [checked for _, checked in inputs] == [" checked", "", "", ""]
    assert labels == [
        (key, name) for (key, _), name in zip(inputs, (BOTH, SOUND, VIDEO, NOISE), strict=True)
    ]
    table = rows(section)
    assert table[:3] == [["true, predicted", *CLASSES], ["low", "2", "0"], ["high", "2", "1"]]
    assert table[3:6] == [
        ["class", "clips", "precision", "recall", "F1", "mostly taken for"],
        ["low", "2", "50.0%", "100.0%", "66.7%", ""],
        ["high", "3", "100.0%", "33.3%", "50.0%", "low (2)"],
    ]


def test_class_without_clips_has_no_recall():
    content = evaluation()
    content["conditions"] = {BOTH: {"confusion": [[2, 0], [0, 0]]}}
    assert rows(classes_section(content))[-1] == ["high", "0", "-", "-", "-", ""]


def test_shares_of_a_row_shade_its_cells():
    shares = re.findall(r"--share:([\d.]+)", confusion_table(CLASSES, [[3, 1], [0, 0]]))
    assert shares == ["0.75", "0.25", "0.00", "0.00"]


def test_speakers_are_scored_by_stream():
    assert rows(speakers_section(evaluation())) == [
        ["actor or group", "clips", BOTH, SOUND, VIDEO],
        ["a", "3", "66.7%", "100.0%", "33.3%"],
        ["b", "2", "50.0%", "0.0%", "50.0%"],
    ]
    assert rows(speakers_section(evaluation(clips={})))[1] == ["a", "3", "66.7%"]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Clips "a3" with both streams and "b2" with sound alone, of RGB frames."""
    frames = np.zeros((3, 64, 64, 3), np.uint8)
    frames[..., 0] = 200
    mfcc = np.random.default_rng(0).normal(size=(16, 10)).astype(np.float32)
    records = [
        ClipRecord("a3", "clips", 1, group="a"),
        ClipRecord("b2", "clips", 1, group="b", has_video=False),
    ]
    prepared = [PreparedClip(frames, mfcc, True, has_video) for has_video in (True, False)]
    metadata = DatasetMetadata("fixed", tuple(CLASSES), 3, 64, 16, {})
    return open_dataset(write_dataset(tmp_path_factory.mktemp("data"), metadata, records, prepared))


def test_most_confident_errors_come_first():
    assert striking_clips(evaluation(), wrong=2, right=1) == (["a3", "b2"], ["a1"])
    calibrated = evaluation()
    calibrated["clips"]["b2"]["calibrated"] = {BOTH: [0.95, 0.05]}
    assert striking_clips(calibrated, wrong=1)[0] == ["b2"]


def test_wrong_clips_are_seen_and_heard_with_their_attention(dataset):
    attention = {"a3": {"audio": [0.5, 1.5, 1.0], "video": [1.25, 0.75]}}
    section = clips_section(evaluation(attention=attention), dataset)
    first, second, *right = section.split('<div class="clip">')[1:]
    assert len(right) == 2
    assert "a3, a: high, taken for low" in first
    assert first.count("data:image/jpeg;base64,") == first.count("data:image/png;base64,") == 1
    assert first.count("<svg") == 2
    assert "attention to the voice from the face: 0.50 to 1.50 even shares" in first
    assert 'd="M0 0V-0.250H1V0.250H2V0Z"' in first
    assert rows(first)[1:] == [
        [BOTH, "low 90.0%, high 10.0%", "10.0%"],
        [SOUND, "high 90.0%, low 10.0%", "90.0%"],
        [VIDEO, "low 90.0%, high 10.0%", "10.0%"],
    ]
    assert "no face" in second
    assert "image/jpeg" not in second
    assert "<svg" not in second


def test_without_the_dataset_pictures_are_left_out():
    section = clips_section(evaluation(), None)
    assert "pictures are left out" in section
    assert "<img" not in section
    assert section.count('<div class="clip">') == 4


def test_changed_settings_come_first():
    defaults = {"seed": 1, "optimizer": {"milestones": (4, 6), "name": "sgd"}}
    config = {"seed": 2, "optimizer": {"milestones": [4, 6], "name": "adamw"}, "digest": "x"}
    section = settings_section(config, defaults)
    assert rows(section) == [
        ["setting", "value", "default"],
        ["seed", "2", "1"],
        ["optimizer.name", "adamw", "sgd"],
        ["seed", "2"],
        ["optimizer.milestones", "[4, 6]"],
        ["optimizer.name", "adamw"],
    ]
    assert "Changed from the defaults" not in settings_section(defaults, defaults)


@pytest.mark.parametrize(
    ("name", "changed"),
    [("it_noise", ["mask"]), ("mine", ["name", "mask"]), ("ia", ["name", "mask"])],
)
def test_name_that_follows_from_the_settings_is_no_change(name, changed):
    model = {"model": {"kind": "audio_visual", "fusion": "it"}}
    section = settings_section(
        {"name": name, **model, "mask": "noise"}, {"name": "run", **model, "mask": "softhard"}
    )
    table = section.split("</table>")[0]
    assert [row[0] for row in rows(table)] == ["setting", *changed]
