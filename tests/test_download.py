"""Downloads: from archives on a server to folders that `prepare` finds, and all that may fail."""

import errno
import functools
import io
import itertools
import os
import shutil
import signal
import time
import zipfile
from collections import namedtuple

import pytest

from avjax import download as module
from avjax.data.ravdess import AUDIO_ONLY, AUDIO_VIDEO, VIDEO_ONLY, ClipName, speech_clips
from avjax.download import Summary
from avjax.errors import InputError
from avjax.preparation import zenodo
from avjax.preparation.ravdess_files import find_raw
from avjax.preparation.zenodo import Record
from tests import web

AUDIO, ACTORS = "audio.zip", (1, 2, 3)
Usage = namedtuple("Usage", "total used free")


def content(clip):
    return clip.clip_id.encode() * 50


def archive(clips, **members):
    """A zip of clips, in folders as published, and of what else is named."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as opened:
        for clip in clips:
            suffix = ".wav" if clip.modality == AUDIO_ONLY else ".mp4"
            opened.writestr(f"Actor_{clip.actor}/{clip.clip_id}{suffix}", content(clip))
        for name, bytes_ in members.items():
            opened.writestr(name, bytes_)
    return buffer.getvalue()


def video_name(actor):
    return f"video_{actor}.zip"


def video_clips(actor):
    return [
        clip for modality in (AUDIO_VIDEO, VIDEO_ONLY) for clip in speech_clips(actor, modality)
    ]


@functools.cache
def archives():
    found = {video_name(actor): archive(video_clips(actor)) for actor in ACTORS}
    wavs = [clip for actor in ACTORS for clip in speech_clips(actor, AUDIO_ONLY)]
    return found | {AUDIO: archive(wavs)}


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with web.Server() as running:
        yield running


@pytest.fixture(autouse=True)
def unsafe_but_quick(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda number: None)


@pytest.fixture
def record(server):
    files = {name: server.add(name, bytes_) for name, bytes_ in archives().items()}
    return Record(files[AUDIO], 1000, {actor: files[video_name(actor)] for actor in ACTORS})


@pytest.fixture
def out(tmp_path):
    return tmp_path / "RAVDESS"


@pytest.fixture
def download(record, out):
    """Downloads from the server, impatiently."""
    return functools.partial(module.download, out, ACTORS, record, patience=web.QUICK)


@pytest.fixture
def command(download, monkeypatch):
    """The command line against the server; returns its status."""
    record = download.args[2]

    def from_server(out, actors, **settings):
        return download.func(out, actors, record, patience=web.QUICK, **settings)

    monkeypatch.setattr(module, "download", from_server)
    monkeypatch.setattr(module, "ACTORS", ACTORS)
    return lambda *arguments: module.main(["download", *map(str, arguments)])


def check_whole(out, actors):
    """All clips of these actors are there, as published, and nothing of other actors."""
    folders = {path.name for path in out.glob("Actor*")}
    assert folders == {f"Actor_{actor:02d}" for actor in actors}
    for folder in folders:
        files = list((out / folder).iterdir())
        assert len(files) == 180
        assert all(path.read_bytes() == content(ClipName.parse(path.name)) for path in files)


def test_all_of_a_record(download, server, out):
    assert download() == Summary(ACTORS, ACTORS)
    check_whole(out, ACTORS)
    assert sorted(path.name for path in out.iterdir()) == ["Actor_01", "Actor_02", "Actor_03"]
    assert sorted(server.requests) == sorted((name, None) for name in archives())


def test_prepare_finds_every_clip_with_its_sound(download, out):
    download()
    found, skipped, _ = find_raw(out, pair_video_only=True)
    assert skipped == {}
    assert len(found) == 120 * len(ACTORS)
    assert all(clip.audio.name == f"03-{clip.record.clip_id[3:]}.wav" for clip in found)


def test_nothing_is_fetched_again(download, server, out):
    download()
    server.requests.clear()
    assert download() == Summary(ACTORS, ())
    assert server.requests == []


def test_zips_may_be_kept(download, server, out):
    download(keep_zips=True)
    zips = {path.name: path.read_bytes() for path in (out / "zips").iterdir()}
    assert zips == archives()
    shutil.rmtree(out / "Actor_02")
    server.requests.clear()
    download()
    check_whole(out, ACTORS)
    assert server.requests == []


def test_chosen_actors_then_the_others(record, download, server, out):
    chosen = functools.partial(module.download, out, record=record, patience=web.QUICK)
    assert chosen(actors=[3]) == Summary((3,), (3,))
    check_whole(out, [3])
    assert [path.name for path in (out / "zips").iterdir()] == [AUDIO]  # others will need it
    assert {name for name, _ in server.requests} == {AUDIO, "video_3.zip"}
    assert download() == Summary(ACTORS, (1, 2))
    check_whole(out, ACTORS)
    assert not (out / "zips").exists()
    assert server.ranges(AUDIO) == [None]


@pytest.mark.parametrize(("lost", "fetched"), [("01-*.mp4", "video_2.zip"), ("*.wav", AUDIO)])
def test_a_folder_that_lacks_clips_is_completed(download, server, out, lost, fetched):
    download()
    for path in (out / "Actor_02").glob(lost):
        path.unlink()
    note = out / "Actor_02" / "notes.txt"
    note.write_text("mine")
    server.requests.clear()
    assert download() == Summary(ACTORS, (2,))
    assert server.requests == [(fetched, None)]
    assert note.read_text() == "mine"
    note.unlink()
    check_whole(out, ACTORS)


def test_a_start_that_was_killed_is_cleaned_up(download, out):
    stage = out / "zips" / "Actor_02.unpacking"
    stage.mkdir(parents=True)
    (stage / "01-01-01-01-01-01-02.mp4").write_bytes(b"half")
    download()
    check_whole(out, ACTORS)
    assert not (out / "zips").exists()


def test_bad_lines_and_servers(download, server, out):
    server.faults[AUDIO] = iter([500, web.CUT, web.WRONG])
    server.faults["video_1.zip"] = iter([404, web.CUT, web.NO_RANGE])
    server.faults["video_2.zip"] = iter([web.SHORT, web.QUIET_SHORT])
    download(parallel=4)
    check_whole(out, ACTORS)


def test_one_bad_file_does_not_keep_the_others_away(download, server, out):
    server.faults["video_2.zip"] = itertools.repeat(web.WRONG)
    with pytest.raises(InputError, match=r"video_2\.zip came twice with wrong bytes"):
        download()
    check_whole(out, [1, 3])
    del server.faults["video_2.zip"]
    assert download() == Summary(ACTORS, (2,))
    check_whole(out, ACTORS)


def test_several_bad_files_are_counted(download, server):
    for actor in (1, 2):
        server.faults[video_name(actor)] = itertools.repeat(404)
    with pytest.raises(InputError, match=r"404 Not Found.*\(1 more files failed\)"):
        download()


def test_without_the_sound_nothing_is_finished(download, server, out):
    server.faults[AUDIO] = itertools.repeat(503)
    with pytest.raises(InputError, match=r"audio\.zip \(the server answers 503"):
        download()
    check_whole(out, [])


def test_too_little_space(download, server, out, monkeypatch):
    sizes = {name: len(bytes_) for name, bytes_ in archives().items()}
    largest = sorted(sizes[video_name(actor)] for actor in ACTORS)[1:]
    unpacked = 1.05 * sum(sizes[video_name(actor)] for actor in ACTORS) + 1000
    needed = unpacked + sizes[AUDIO] + sum(largest)
    asked = []

    def usage(free):
        monkeypatch.setattr(
            shutil, "disk_usage", lambda path: asked.append(path) or Usage(0, 0, free)
        )

    usage(needed - 1)
    with pytest.raises(InputError, match=r"needs 0\.0 GB for 3 actors.* --out or name fewer"):
        download()
    assert server.requests == []
    assert asked == [out.parent]
    assert not out.exists()
    usage(needed + 1)
    with pytest.raises(InputError, match="or leave out --keep_zips"):
        download(keep_zips=True)
    download()
    check_whole(out, ACTORS)


def test_space_that_parts_take_already_is_not_asked_for(download, out, monkeypatch):
    sizes = {name: len(bytes_) for name, bytes_ in archives().items()}
    unpacked = 1.05 * sum(sizes[video_name(actor)] for actor in ACTORS) + 1000
    (out / "zips").mkdir(parents=True)
    for name, bytes_ in archives().items():
        (out / "zips" / f"{name}.part").write_bytes(bytes_[:-1])
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, unpacked + 4))
    download()
    check_whole(out, ACTORS)


@pytest.mark.parametrize(
    "name",
    [
        "../01-01-01-01-01-01-01.mp4",
        "/tmp/01-01-01-01-01-01-01.mp4",
        "Actor_01/../../../evil.sh",
        "..\\01-01-01-01-01-01-01.mp4",
        "C:\\01-01-01-01-01-01-01.mp4",
    ],
)
def test_members_that_lead_elsewhere(record, server, out, name):
    file = server.add("video_1.zip", archive(video_clips(1), **{name: b"evil"}))
    record = record._replace(videos={1: file})
    with pytest.raises(InputError, match="leads out of its folder"):
        module.download(out, [1], record, patience=web.QUICK)
    assert sorted(path.name for path in out.iterdir()) == ["zips"]
    assert sorted(path.name for path in out.parent.iterdir()) == ["RAVDESS"]
    assert sorted(path.name for path in (out / "zips").iterdir()) == [AUDIO, "video_1.zip"]


def test_only_the_actors_clips_are_unpacked(record, server, out):
    junk = {"Actor_01/.DS_Store": b"", "__MACOSX/Actor_01/._01-01-01-01-01-01-01.mp4": b"x"}
    junk |= {"01-01-01-01-01-01-02.mp4": b"of actor 2", "01-01-01-01-01-01-01.mp4.sh": b"x"}
    file = server.add("video_1.zip", archive(video_clips(1), **junk))
    module.download(out, [1], record._replace(videos={1: file}), patience=web.QUICK)
    check_whole(out, [1])


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"<html>", "is damaged"), (archive(video_clips(2)), "holds no clips of actor 1")],
)
def test_archives_of_something_else(record, server, out, content, message):
    file = server.add("video_1.zip", content)
    with pytest.raises(InputError, match=message):
        module.download(out, [1], record._replace(videos={1: file}), patience=web.QUICK)
    assert not (out / "Actor_01").exists()


def test_command(command, out, capsys):
    assert command("--out", out, "--actors", "3,1-2", "--parallel=1") == 0
    check_whole(out, ACTORS)
    assert capsys.readouterr().out == f"{out}: 3 actors, 3 of them brought now\n"
    assert command(f"--out={out}", "--keep-zips") == 0
    assert "3 actors, 0 of them" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--out is missing"),
        (["--out=x", "more"], "unexpected argument 'more'"),
        (["--out=x", "--actors=0-3"], "'0' is no actor"),
        (["--out=x", "--actors="], "'' is no actor"),
        (["--out=x", "--actors=5-2"], "'5-2' is empty; write 2-5"),
        ([f"--out={__file__}"], "is no folder"),
    ],
)
def test_commands_that_cannot_be_done(command, server, arguments, message, capsys):
    assert command(*arguments) == 1
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert server.requests == []


def test_offline(command, record, out, capsys):
    address = "http://127.0.0.1:9/x.zip"  # where nothing listens
    for name in list(record.videos):
        record.videos[name] = record.videos[name]._replace(url=address)
    assert command("--out", out, "--actors=1") == 1
    *_, line = capsys.readouterr().err.strip().splitlines()
    assert f"error: cannot reach {address} (" in line
    assert str(out / "zips" / "video_1.zip") in line
    assert "check the connection" in line


def test_a_full_disk_is_one_line_and_loses_nothing(command, server, out, capsys, monkeypatch):
    def full(source, target):
        target.write(b"x")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfileobj", full)
        assert command("--out", out, "--actors=1") == 1
    *_, line = capsys.readouterr().err.strip().splitlines()
    assert "error: No space left on device" in line
    assert sorted(path.name for path in out.rglob("*")) == [AUDIO, "video_1.zip", "zips"]
    assert command("--out", out, "--actors=1") == 0
    check_whole(out, [1])
    assert server.ranges("video_1.zip") == [None]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_and_the_next_start_goes_on(command, record, server, out, number, capsys):
    part = out / "zips" / "video_2.zip.part"
    large = archive(video_clips(2), **{"notes.bin": bytes(8_000_000)})
    record.videos[2] = server.add("video_2.zip", large)

    def interrupt():
        deadline = time.monotonic() + 10
        while not (part.exists() and part.stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    server.faults["video_2.zip"] = iter([interrupt])
    assert command("--out", out, "--parallel=1") == 128 + number
    assert "the same command again goes on from here" in capsys.readouterr().err
    check_whole(out, [1])
    held = part.stat().st_size
    assert 0 < held < len(large)
    part.write_bytes(large[:held])  # without what dripped after the first half
    assert command("--out", out) == 0
    check_whole(out, ACTORS)
    assert server.ranges("video_2.zip") == [None, f"bytes={held}-"]


def test_zenodos_record():
    """The published total; addresses by name."""
    audio, videos = zenodo.RAVDESS.audio, zenodo.RAVDESS.videos
    assert sum(file.size for file in videos.values()) == 13_357_344_723
    assert len({file.md5 for file in [audio, *videos.values()]}) == 25
    assert videos[5].url == (
        "https://zenodo.org/records/1188976/files/Video_Speech_Actor_05.zip?download=1"
    )
