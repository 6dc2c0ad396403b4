"""Clips from a CSV manifest."""

import pytest

from avjax.errors import InputError
from avjax.preparation.manifest import read_manifest


def write(folder, text, *files):
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    path = folder / "clips.csv"
    path.write_text(text, encoding="utf-8")
    return path


def facts(clip):
    return clip.record.clip_id, clip.record.label, clip.record.group, clip.record.subset


def test_all_columns_are_read(tmp_path):
    path = write(
        tmp_path,
        "\ufeffvideo,audio,label,group,start,end,split,id\n"
        "b/x.mp4,,joy,Zoë,,,train,\n"
        "\n"
        'b/x.mp4,"a b.wav",anger,Zoë,1.5,4,test,\n'
        ",a b.wav,joy,Max,,2,,own\n",
        "b/x.mp4",
        "a b.wav",
    )
    clips, skipped, classes = read_manifest(path)
    assert (skipped, classes) == ({}, ("anger", "joy"))
    full, segment, sound = clips
    assert facts(full) == ("b/x", 1, "Zoë", "train")
    assert (full.video, full.audio) == (tmp_path / "b/x.mp4",) * 2
    assert (full.start, full.end) == (0.0, None)
    assert facts(segment) == ("b/x@1.5-4", 0, "Zoë", "test")
    assert (segment.audio, segment.start, segment.end) == (tmp_path / "a b.wav", 1.5, 4.0)
    assert facts(sound) == ("own", 1, "Max", "")
    assert {clip.record.split for clip in clips} == {"group_zo_", "group_max"}
    assert len({clip.key for clip in clips}) == 3
    assert (sound.video, sound.end) == (None, 2.0)


def test_classes_keep_the_given_order(tmp_path):
    path = write(tmp_path, "video,label\nx.mp4,joy\n", "x.mp4")
    (clip,), _, classes = read_manifest(path, ["sorrow", "joy", "anger"])
    assert (clip.record.label, classes) == (1, ("sorrow", "joy", "anger"))


def test_clips_with_missing_files_are_skipped_with_their_line(tmp_path):
    path = write(tmp_path, "video,audio,label\nx.mp4,,a\ny.mp4,y.wav,a\n", "x.mp4", "y.mp4")
    clips, skipped, _ = read_manifest(path)
    assert [clip.record.clip_id for clip in clips] == ["x"]
    assert skipped == {"y": f"{path} line 3: there is no file {tmp_path / 'y.wav'}"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "first line must name the columns"),
        ("video,emotion\nx.mp4,a\n", "first line must name the columns.*it has video, emotion"),
        ("label\na\n", "first line must name the columns"),
        ("video,label\n", "lists no clips"),
        ("video,label\nx.mp4,\n", "line 2: the label is empty"),
        ("video,label\nx.mp4,a\n,a\n", "line 3: neither video nor audio"),
        ("video,label\nx.mp4,a,b\n", "line 2 has more fields than the header"),
        ("video,label\nx.mp4,a\nx.mp4,b\n", r"line 3: clip 'x' was listed before \(.* line 2\)"),
        ("video,label,start\nx.mp4,a,soon\n", "line 2: start 'soon' is not a time"),
        ("video,label,start\nx.mp4,a,-1\n", "line 2: start '-1' is not a time"),
        ("video,label,end\nx.mp4,a,inf\n", "line 2: end 'inf' is not a time"),
        ("video,label,start,end\nx.mp4,a,2,2\n", "line 2: end 2 is not after start 2"),
        ("video,label,split\nx.mp4,a,dev\n", "line 2: unknown split 'dev'; write train"),
    ],
)
def test_errors_name_the_line(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        read_manifest(write(tmp_path, text, "x.mp4"))


def test_unknown_labels_and_repeated_classes_are_refused(tmp_path):
    path = write(tmp_path, "video,label\nx.mp4,joy\n", "x.mp4")
    with pytest.raises(InputError, match=r"line 2: label 'joy' is none of the classes a, b"):
        read_manifest(path, ["a", "b"])
    with pytest.raises(InputError, match="not all different"):
        read_manifest(path, ["joy", "joy"])


def test_unreadable_file_is_refused(tmp_path):
    path = tmp_path / "clips.csv"
    with pytest.raises(InputError, match=r"clips\.csv cannot be read"):
        read_manifest(path)
    path.write_bytes(b"video,label\n\xff\xfe,a\n")
    with pytest.raises(InputError, match=r"clips\.csv cannot be read as CSV in UTF-8"):
        read_manifest(path)
