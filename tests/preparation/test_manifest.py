"""Own clips from a CSV file."""

import unicodedata

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
    found, skipped, classes, _ = read_manifest(path)
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
    (clip,), _, classes, _ = read_manifest(path, ["sorrow", "joy", "anger"])
    assert (clip.record.label, classes) == (1, ("sorrow", "joy", "anger"))


def test_a_name_that_no_disk_takes_is_an_absent_file(tmp_path):
    path = write(tmp_path, f"video,label\n{'x' * 5000}.mp4,a\ny.mp4,a\n", "y.mp4")
    found, skipped, *_ = read_manifest(path)
    assert [clip.record.clip_id for clip in found] == ["y"]
    assert "line 2: there is no file" in skipped["x" * 5000]


def test_absent_files_are_skipped_with_their_line(tmp_path):
    path = write(tmp_path, "video,audio,label\nx.mp4,,a\ny.mp4,y.wav,a\n", "x.mp4", "y.mp4")
    found, skipped, *_ = read_manifest(path)
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
        ("video,label\nx.mp4,a,b\n", "line 2: has more fields than the header"),
        (
            "video,label\nx.mp4,a\nx.mp4,b\n",
            "line 3: clip 'x' is labelled 'b' here and 'a' in line 2",
        ),
        ("video,label\nx.mp4,a\nx.mp4,a\n", r"line 3: clip 'x' was listed before \(line 2\)"),
        ("video,label,label\nx.mp4,a,a\n", "names a column twice"),
        ("video,label\nx.mp4,NaN\n", "line 2: label 'NaN' means that there is none"),
        ("video,label\nx.mp4,Joy\ny.mp4,joy \nz.mp4,jo y\n", "line 4: label 'jo y' differs from"),
        ('video,label\nx.mp4,\'a\n"y"z,b\n', "line 3 cannot be read as CSV"),
        ("video,label,start\nx.mp4,a,soon\n", "line 2: start 'soon' is not a time"),
        ("video,label,start\nx.mp4,a,-1\n", "line 2: start '-1' is not a time"),
        ("video,label,end\nx.mp4,a,inf\n", "line 2: end 'inf' is not a time"),
        ("video,label,start,end\nx.mp4,a,2,2\n", "line 2: end 2 is not after start 2"),
        ('video,label,face\nx.mp4,a,"12"\n', "line 2: face '12' is neither a point nor a box"),
        ('video,label,face\nx.mp4,a,"1,2,3"\n', "line 2: face '1,2,3' is neither"),
        ('video,label,face\nx.mp4,a,"1,2,0,3"\n', "line 2: face '1,2,0,3' is neither"),
        ('video,label,face\nx.mp4,a,"-1,2"\n', "line 2: face '-1,2' is neither"),
        ('video,label,face\nx.mp4,a,"1,inf"\n', "line 2: face '1,inf' is neither.*write x,y or"),
        ("video,label,face\nx.mp4,a,left\n", "line 2: face 'left' is neither"),
        ('audio,label,face\nx.wav,a,"1,2"\n', "line 2: face '1,2' without a video"),
        ('video,label,face\nx.mp4,a,"1,2"\nx.mp4,b,1 2\n', "line 3: clip 'x#1,2' is labelled"),
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
    for content in (b"PK\x03\x04\x14\0\x06\0", b"\xd0\xcf\x11\xe0\xa1\xb1"):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"clips\.csv is a spreadsheet.*save it as CSV"):
            read_manifest(path)
    for content in (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", b"\xff\xfeabc"):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"clips\.csv is no text"):
            read_manifest(path)


LINES = ("video,label,group,start", "x.mp4,très bien,Zoë,1.5", "y.mp4,joy,Max,")


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "cp1252"])
def test_tables_of_spreadsheets(tmp_path, separator, encoding):
    write(tmp_path, "", "x.mp4", "y.mp4")
    path = tmp_path / "clips.csv"
    header, *lines = (line.replace(",", separator) for line in LINES)
    decimal = [line.replace("1.5", "1.5" if separator == "," else "1,5") for line in lines]
    rows = [header + 2 * separator, "", 3 * separator, *(f"{line}{separator}" for line in decimal)]
    path.write_bytes(("\r\n".join(rows) + "\r\n").encode(encoding))
    found, skipped, classes, notes = read_manifest(path)
    assert [known(clip) for clip in found] == [
        ("x@1.5-", 1, "Zoë", ""),
        ("y", 0, "Max", ""),
    ]
    assert (skipped, classes) == ({}, ("joy", "très bien"))
    assert found[0].start == 1.5
    assert [note for note in notes if "Windows-1252" in note] == notes
    assert bool(notes) == (encoding == "cp1252")


def test_a_first_line_may_name_the_delimiter(tmp_path):
    path = write(tmp_path, "sep=|\nVideo|Label\nx.mp4|joy\n|joy\n", "x.mp4")
    with pytest.raises(InputError, match="line 4: neither video nor audio"):
        read_manifest(path)


def test_all_faults_are_told_at_once(tmp_path):
    lines = ["video,label,start", "x.mp4,,soon", "x.mp4,joy,", "y.mp4,nan,", "x.mp4,grief,"]
    path = write(tmp_path, "\n".join(lines), "x.mp4")
    with pytest.raises(InputError) as error:
        read_manifest(path)
    message = str(error.value)
    assert message.startswith(f"{path} has 4 faults: line 2: the label is empty;")
    assert "; line 2: start 'soon' is not a time" in message
    assert "; line 4: label 'nan' means" in message
    assert "; line 5: clip 'x' is labelled 'grief' here and 'joy' in line 3" in message
    path.write_text("video,label\n" + ",joy\n" * 25, encoding="utf-8")
    with pytest.raises(InputError, match=r"25 faults: .* line 21: [^;]*; name a file; and 5 more$"):
        read_manifest(path)


def test_one_cut_has_one_label_whatever_its_id(tmp_path):
    header = "video,label,start,end,id\n"
    cuts = "x.mp4,joy,0,2,a\n./x.mp4,grief,,2.0,b\n"
    with pytest.raises(InputError, match="line 3: clip 'b' is labelled 'grief' here and 'joy' in"):
        read_manifest(write(tmp_path, header + cuts, "x.mp4"))
    others = "x.mp4,joy,0,2,a\nx.mp4,grief,2,4,b\nx.mp4,joy,0,2,c\n"
    assert len(read_manifest(write(tmp_path, header + others)).clips) == 3


def test_a_face_tells_clips_of_one_file_apart(tmp_path):
    header, cut = "video;label;face;start;end\n", "x.mp4;joy;;1;2\n"
    rows = "x.mp4;joy;320,180;;\nx.mp4;grief;40.5, 60,80 , 100;1;2\nx.mp4;joy;640 180;;\n"
    clips = read_manifest(write(tmp_path, header + cut + rows, "x.mp4")).clips
    assert {clip.record.clip_id: clip.face for clip in clips} == {
        "x@1-2": None,
        "x#320,180": (320.0, 180.0),
        "x@1-2#40.5,60,80,100": (40.5, 60.0, 80.0, 100.0),
        "x#640,180": (640.0, 180.0),
    }
    assert len({clip.key for clip in clips}) == 4
    (alone,) = read_manifest(write(tmp_path, "video;label;start;end\nx.mp4;joy;1;2\n")).clips
    assert alone.key in {clip.key for clip in clips}  # other clips keep theirs


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_names_may_differ_by_their_unicode_form(tmp_path, form):
    other = {"NFC": "NFD", "NFD": "NFC"}[form]
    on_disk = unicodedata.normalize(form, "Zoë/très bien.mp4")
    text = f"video,label,group\nZoë/très bien.mp4,é,Zoë\n{on_disk},é,Zoë\nZoë/é.mp4,é,Zoë\n"
    lines = unicodedata.normalize(other, text).splitlines()
    lines[2] = unicodedata.normalize(form, lines[2]) + ",own"
    lines[0] += ",id"
    path = write(tmp_path, "\n".join(lines), on_disk)
    found, skipped, classes, _ = read_manifest(path)
    assert {clip.video for clip in found} == {tmp_path / on_disk}
    assert len(found) == 2 and classes == ("é",)
    assert {clip.record.group for clip in found} == {"Zoë"}
    assert "line 4: there is no file" in next(iter(skipped.values()))
