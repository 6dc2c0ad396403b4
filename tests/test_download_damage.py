"""Archives of a download that are damaged, or made to do harm."""

import io
import os
import zipfile

import pytest

from avjax import download as module
from avjax.data.ravdess import AUDIO_ONLY, speech_clips
from avjax.errors import InputError
from avjax.preparation.transfer import RemoteFile
from avjax.preparation.zenodo import Record
from tests import web

CLIP = "Actor_01/01-01-01-01-01-01-01.mp4"


def one_clip(
    method=zipfile.ZIP_DEFLATED,
    data=bytes(range(256)) * 4,
    mode=0o100644,
    names=(CLIP,),
):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as zip_file:
        for name in names:
            info = zipfile.ZipInfo(name)
            info.compress_type, info.external_attr = method, mode << 16
            zip_file.writestr(info, data)
    return buffer.getvalue()


def patched(content, signature, offset, value):
    """Overwrites bytes of the record of an archive that begins with a signature."""
    start = content.index(signature) + offset
    return content[:start] + value + content[start + len(value) :]


LOCAL, CENTRAL = b"PK\x03\x04", b"PK\x01\x02"
DAMAGED = {
    "truncated": (one_clip()[:-30], "is damaged"),
    "wrong checksum": (patched(one_clip(), CENTRAL, 16, b"1234"), "is damaged"),
    "wrong deflate stream": (
        patched(one_clip(), LOCAL, 30 + len(CLIP), b"\xff\xff\xff\xff"),
        r"is damaged \(Error -3",
    ),
    "wrong offset": (patched(one_clip(), CENTRAL, 42, b"\xff\xff\xff\x7f"), "is damaged"),
    "wrong name": (
        patched(patched(one_clip(), CENTRAL, 8, b"\x00\x08"), CENTRAL, 46, b"\xff"),
        "is damaged",
    ),
    "later version": (patched(one_clip(), CENTRAL, 6, b"\x7f"), r"is damaged \(zip file version"),
    "encrypted": (patched(one_clip(), CENTRAL, 8, b"\x01"), "is damaged .*password required"),
    "longer than told": (
        patched(one_clip(data=bytes(1 << 20)), CENTRAL, 24, b"\x10\0\0\0"),
        "is damaged",
    ),
    "twice": (one_clip(names=(CLIP, CLIP[9:])), "is damaged"),
    "lzma": (one_clip(zipfile.ZIP_LZMA), "unlike the published one"),
    "bzip2": (one_clip(zipfile.ZIP_BZIP2), "unlike the published one"),
    "link": (one_clip(data=b"/etc/passwd", mode=0o120777), "as a link"),
    "folder": (one_clip(names=(CLIP + "/",)), "holds no clips"),
    "bomb": (one_clip(data=bytes(1 << 20)), r"would unpack to 1\.0 MB"),
    "absurd size": (
        patched(one_clip(), CENTRAL, 24, b"\xfe\xff\xff\xff"),
        r"would unpack to 4295\.0 MB",
    ),
}


@pytest.fixture
def out(tmp_path):
    """A folder with all sounds of actor 1, so that only the videos are fetched."""
    folder = tmp_path / "RAVDESS" / "Actor_01"
    folder.mkdir(parents=True)
    for clip in speech_clips(1, AUDIO_ONLY):
        (folder / f"{clip.clip_id}.wav").touch()
    return folder.parent


@pytest.mark.parametrize("fault", DAMAGED)
def test_damaged_archives_are_refused(out, fault, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(os, "fsync", lambda number: None)
    content, message = DAMAGED[fault]
    with web.Server() as server:
        record = Record(RemoteFile("audio.zip", "", 1, ""), 1, {1: server.add("v.zip", content)})
        with pytest.raises(InputError, match=rf"v\.zip.*{message}") as caught:
            module.download(out, [1], record, patience=web.QUICK)
    assert "\n" not in str(caught.value)
    assert not list(out.rglob("*.mp4"))
    assert sorted(path.name for path in out.iterdir()) == ["Actor_01", "zips"]
    assert [path.name for path in (out / "zips").iterdir()] == ["v.zip.part"]
