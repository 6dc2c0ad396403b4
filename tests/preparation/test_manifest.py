"""Own clips from a CSV file."""

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


def known(clip):
    return clip.record.clip_id, clip.record.label, clip.record.group, clip.record.subset


def test_all_columns(tmp_path):
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
    found, skipped, classes = read_manifest(path)
    assert (skipped, classes) == ({}, ("anger", "joy"))
    whole, cut, sound = found
    assert known(whole) == ("b/x", 1, "Zoë", "train")
    assert (whole.video, whole.audio) == (tmp_path / "b/x.mp4",) * 2
    assert (whole.start, whole.end) == (0.0, None)
    assert known(cut) == ("b/x@1.5-4", 0, "Zoë", "test")
    assert (cut.audio, cut.start, cut.end) == (tmp_path / "a b.wav", 1.5, 4.0)
    assert known(sound) == ("own", 1, "Max", "")
    assert {clip.record.split for clip in found} == {"group_zo_", "group_max"}
    assert len({clip.key for clip in found}) == 3
    assert (sound.video, sound.end) == (None, 2.0)


def test_classes_keep_the_order_they_are_given_in(tmp_path):
    path = write(tmp_path, "video,label\nx.mp4,joy\n", "x.mp4")
    (clip,), _, classes = read_manifest(path, ["sorrow", "joy", "anger"])
    assert (clip.record.label, classes) == (1, ("sorrow", "joy", "anger"))


def test_absent_files_are_skipped_with_their_line(tmp_path):
    path = write(tmp_path, "video,audio,label\nx.mp4,,a\ny.mp4,y.wav,a\n", "x.mp4", "y.mp4")
    found, skipped, _ = read_manifest(path)
    assert [clip.record.clip_id for clip in found] == ["x"]
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
def test_faults_are_named_with_their_line(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        read_manifest(write(tmp_path, text, "x.mp4"))


def test_labels_outside_the_named_classes(tmp_path):
    path = write(tmp_path, "video,label\nx.mp4,joy\n", "x.mp4")
    with pytest.raises(InputError, match=r"line 2: label 'joy' is none of the classes a, b"):
        read_manifest(path, ["a", "b"])
    with pytest.raises(InputError, match="not all different"):
        read_manifest(path, ["joy", "joy"])


def test_what_is_no_csv(tmp_path):
    path = tmp_path / "clips.csv"
    with pytest.raises(InputError, match=r"clips\.csv cannot be read"):
        read_manifest(path)
    path.write_bytes(b"video,label\n\xff\xfe,a\n")
    with pytest.raises(InputError, match=r"clips\.csv cannot be read as CSV in UTF-8"):
        read_manifest(path)
