"""Tables in every dialect that spreadsheets write give the same clips."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avjax.errors import InputError
from avjax.preparation.manifest import read_manifest

ROWS = [
    {"video": "a, b.mp4", "label": "joy", "group": 'Ann "Bo" Smith', "start": "0.5", "end": "1.25"},
    {"video": "c;d.mp4", "label": "fear", "group": "Zoë", "start": "", "end": ""},
    {"video": "e\tf.mp4", "label": "joy", "group": "", "start": "2", "end": ""},
]
MARKS = {
    "utf-8": b"\xef\xbb\xbf",
    "utf-16-le": b"\xff\xfe",
    "utf-16-be": b"\xfe\xff",
    "cp1252": b"",
}


@st.composite
def dialects(draw):
    """Draws how a program writes a table: order of columns, delimiter, ends of lines, encoding."""
    encoding = draw(st.sampled_from(list(MARKS)))
    return {
        "columns": draw(st.permutations(list(ROWS[0]))),
        "delimiter": draw(st.sampled_from(",;\t")),
        "ends": draw(st.sampled_from(["\n", "\r\n", "\r"])),
        "quoting": draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])),
        "upper": draw(st.booleans()),
        "blanks": draw(st.integers(0, 2)),
        "extra": draw(st.integers(0, 2)),
        "separator": draw(st.booleans()),
        "comma": draw(st.booleans()),
        "encoding": encoding,
        "mark": draw(st.booleans()) and bool(MARKS[encoding]),
    }


def written(
    columns, delimiter, ends, quoting, upper, blanks, extra, separator, comma, encoding, mark
):
    buffer = io.StringIO()
    if separator:
        buffer.write(f"sep={delimiter}{ends}")
    writer = csv.writer(buffer, delimiter=delimiter, lineterminator=ends, quoting=quoting)
    writer.writerow([name.upper() if upper else name for name in columns] + [""] * extra)
    for row in ROWS:
        fields = [row[name] for name in columns]
        if comma:  # as in German
            fields = [
                field.replace(".", ",") if name in ("start", "end") else field
                for name, field in zip(columns, fields, strict=True)
            ]
        writer.writerow(fields + [""] * extra)
        for _ in range(blanks):
            writer.writerow([""] * (len(columns) + extra))
    return (MARKS[encoding] if mark else b"") + buffer.getvalue().encode(encoding)


@given(dialect=dialects())
def test_every_dialect_gives_the_same_clips(tmp_path_factory, dialect):
    folder = tmp_path_factory.mktemp("dialect")
    for row in ROWS:
        (folder / row["video"]).touch()
    path = folder / "clips.csv"
    path.write_bytes(written(**dialect))
    manifest = read_manifest(path)
    assert manifest.classes == ("fear", "joy") and not manifest.skipped
    clips = {
        (c.video.name, manifest.classes[c.record.label], c.record.group, c.start, c.end)
        for c in manifest.clips
    }
    assert clips == {
        ("a, b.mp4", "joy", 'Ann "Bo" Smith', 0.5, 1.25),
        ("c;d.mp4", "fear", "Zoë", 0.0, None),
        ("e\tf.mp4", "joy", "", 2.0, None),
    }
    assert bool(manifest.notes) == (dialect["encoding"] == "cp1252")


def test_a_pointer_of_git_lfs_is_no_table(tmp_path):
    path = tmp_path / "clips.csv"
    path.write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(InputError, match=r"clips\.csv is a pointer of Git LFS"):
        read_manifest(path)
