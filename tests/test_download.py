"""Downloads: from archives on a server to folders for `prepare`, and their errors."""

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
    """Returns a zip of clips, in folders as published, and of other members."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as zip_file:
        for clip in clips:
            suffix = ".wav" if clip.modality == AUDIO_ONLY else ".mp4"
            zip_file.writestr(f"Actor_{clip.actor}/{clip.clip_id}{suffix}", content(clip))
        for name, bytes_ in members.items():
            zip_file.writestr(name, bytes_)
    return buffer.getvalue()


def video_name(actor):
    return f"video_{actor}.zip"


def video_clips(actor):
    return [
        clip for modality in (AUDIO_VIDEO, VIDEO_ONLY) for clip in speech_clips(actor, modality)
    ]


@functools.cache
def archives():
    videos = {video_name(actor): archive(video_clips(actor)) for actor in ACTORS}
    wavs = [clip for actor in ACTORS for clip in speech_clips(actor, AUDIO_ONLY)]
    return videos | {AUDIO: archive(wavs)}


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with web.Server() as running:
        yield running


@pytest.fixture(autouse=True)
def skip_fsync(monkeypatch):
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
    """Downloads from the server with few retries."""
    return functools.partial(module.download, out, ACTORS, record, patience=web.QUICK)


@pytest.fixture
def command(download, monkeypatch):
    """Runs the command line against the server; returns its exit status."""
    record = download.args[2]

    def from_server(out, actors, **settings):
        return download.func(out, actors, record, patience=web.QUICK, **settings)

    monkeypatch.setattr(module, "download", from_server)
    monkeypatch.setattr(module, "ACTORS", ACTORS)
    return lambda *arguments: module.main(["download", *map(str, arguments)])


def check_complete(out, actors):
    """Checks that exactly these actors are complete."""
    folders = {path.name for path in out.glob("Actor*")}
    assert folders == {f"Actor_{actor:02d}" for actor in actors}
    for folder in folders:
        files = list((out / folder).iterdir())
        assert len(files) == 180
        assert all(path.read_bytes() == content(ClipName.parse(path.name)) for path in files)


def test_all_actors_are_downloaded(download, server, out):
    assert download() == Summary(ACTORS, ACTORS)
    check_complete(out, ACTORS)
    assert sorted(path.name for path in out.iterdir()) == ["Actor_01", "Actor_02", "Actor_03"]
    assert sorted(server.requests) == sorted((name, None) for name in archives())


def test_prepare_finds_every_clip_with_its_sound(download, out):
    download()
    clips, skipped, _ = find_raw(out, pair_video_only=True)
    assert skipped == {}
    assert len(clips) == 120 * len(ACTORS)
    assert all(clip.audio.name == f"03-{clip.record.clip_id[3:]}.wav" for clip in clips)


def test_complete_folders_are_not_fetched_again(download, server, out):
    download()
    server.requests.clear()
    assert download() == Summary(ACTORS, ())
    assert server.requests == []


def test_keep_zips_keeps_the_archives(download, server, out):
    download(keep_zips=True)
    zips = {path.name: path.read_bytes() for path in (out / "zips").iterdir()}
    assert zips == archives()
    shutil.rmtree(out / "Actor_02")
    server.requests.clear()
    download()
    check_complete(out, ACTORS)
    assert server.requests == []


def test_some_actors_first_and_the_others_later(record, download, server, out):
    download_some = functools.partial(module.download, out, record=record, patience=web.QUICK)
    assert download_some(actors=[3]) == Summary((3,), (3,))
    check_complete(out, [3])
    assert [path.name for path in (out / "zips").iterdir()] == [AUDIO]  # needed for other actors
    assert {name for name, _ in server.requests} == {AUDIO, "video_3.zip"}
    assert download() == Summary(ACTORS, (1, 2))
    check_complete(out, ACTORS)
    assert not (out / "zips").exists()
    assert server.ranges(AUDIO) == [None]


def test_sound_alone_first_and_videos_later(command, server, out):
    assert command("--out", out, "--sound_only") == 0
    assert server.requests == [(AUDIO, None)]
    assert sorted(path.name for path in out.iterdir()) == ["Actor_01", "Actor_02", "Actor_03"]
    clips, skipped, _ = find_raw(out, pair_video_only=False)
    assert (len(clips), skipped) == (60 * len(ACTORS), {})
    assert all(clip.video is None for clip in clips)
    server.requests.clear()
    assert command("--out", out, "--sound_only") == 0
    assert server.requests == []
    assert command("--out", out) == 0
    check_complete(out, ACTORS)
    assert server.ranges(AUDIO) == []


@pytest.mark.parametrize(("lost", "fetched"), [("01-*.mp4", "video_2.zip"), ("*.wav", AUDIO)])
def test_incomplete_folder_is_completed(download, server, out, lost, fetched):
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
    check_complete(out, ACTORS)


def test_killed_download_is_cleaned_up(download, out):
    stage = out / "zips" / "Actor_02.unpacking"
    stage.mkdir(parents=True)
    (stage / "01-01-01-01-01-01-02.mp4").write_bytes(b"half")
    download()
    check_complete(out, ACTORS)
    assert not (out / "zips").exists()


def test_faults_of_connection_and_server_are_retried(download, server, out):
    server.faults[AUDIO] = iter([500, web.CUT, web.WRONG])
    server.faults["video_1.zip"] = iter([404, web.CUT, web.NO_RANGE])
    server.faults["video_2.zip"] = iter([web.SHORT, web.QUIET_SHORT])
    download(parallel=4)
    check_complete(out, ACTORS)


def test_bad_file_does_not_stop_the_others(download, server, out):
    server.faults["video_2.zip"] = itertools.repeat(web.WRONG)
    with pytest.raises(InputError, match=r"video_2\.zip came twice with wrong bytes"):
        download()
    check_complete(out, [1, 3])
    del server.faults["video_2.zip"]
    assert download() == Summary(ACTORS, (2,))
    check_complete(out, ACTORS)


def test_several_bad_files_are_counted(download, server):
    for actor in (1, 2):
        server.faults[video_name(actor)] = itertools.repeat(404)
    with pytest.raises(InputError, match=r"404 Not Found.*\(1 more files failed\)"):
        download()


def test_missing_sound_leaves_no_folder(download, server, out):
    server.faults[AUDIO] = itertools.repeat(503)
    with pytest.raises(InputError, match=r"audio\.zip \(the server answers 503"):
        download()
    check_complete(out, [])


def test_too_little_space_is_refused(download, server, out, monkeypatch):
    sizes = {name: len(bytes_) for name, bytes_ in archives().items()}
    largest = sorted(sizes[video_name(actor)] for actor in ACTORS)[1:]
    unpacked = 1.05 * sum(sizes[video_name(actor)] for actor in ACTORS) + 1000
    needed = unpacked + sizes[AUDIO] + sum(largest)
    paths = []

    def usage(free):
        monkeypatch.setattr(
            shutil, "disk_usage", lambda path: paths.append(path) or Usage(0, 0, free)
        )

    usage(needed - 1)
    with pytest.raises(InputError, match=r"needs 0\.0 GB for 3 actors.* --out or name fewer"):
        download()
    assert server.requests == []
    assert paths == [out.parent]
    assert not out.exists()
    usage(needed + 1)
    with pytest.raises(InputError, match="or leave out --keep_zips"):
        download(keep_zips=True)
    download()
    check_complete(out, ACTORS)


def test_space_of_partial_files_is_not_required_again(download, out, monkeypatch):
    sizes = {name: len(bytes_) for name, bytes_ in archives().items()}
    unpacked = 1.05 * sum(sizes[video_name(actor)] for actor in ACTORS) + 1000
    (out / "zips").mkdir(parents=True)
    for name, bytes_ in archives().items():
        (out / "zips" / f"{name}.part").write_bytes(bytes_[:-1])
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, unpacked + 4))
    download()
    check_complete(out, ACTORS)


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
def test_archive_members_outside_the_folder_are_refused(record, server, out, name):
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
    check_complete(out, [1])


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"<html>", "is damaged"), (archive(video_clips(2)), "holds no clips of actor 1")],
)
def test_wrong_archives_are_refused(record, server, out, content, message):
    file = server.add("video_1.zip", content)
    with pytest.raises(InputError, match=message):
        module.download(out, [1], record._replace(videos={1: file}), patience=web.QUICK)
    assert not (out / "Actor_01").exists()


def test_command_downloads_actors(command, out, capsys):
    assert command("--out", out, "--actors", "3,1-2", "--parallel=1") == 0
    check_complete(out, ACTORS)
    assert capsys.readouterr().out == f"{out}: 3 actors, 3 of them downloaded now\n"
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
        ([f"--out={__file__}"], "is not a folder"),
    ],
)
def test_wrong_arguments_are_refused(command, server, arguments, message, capsys):
    assert command(*arguments) == 1
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert server.requests == []


def test_unreachable_server_is_a_one_line_error(command, record, out, capsys):
    address = "http://127.0.0.1:9/x.zip"  # nothing listens there
    for name in list(record.videos):
        record.videos[name] = record.videos[name]._replace(url=address)
    assert command("--out", out, "--actors=1") == 1
    *_, line = capsys.readouterr().err.strip().splitlines()
    assert f"error: cannot reach {address} (" in line
    assert str(out / "zips" / "video_1.zip") in line
    assert "check the connection" in line


def test_full_disk_is_a_one_line_error_and_loses_nothing(command, server, out, capsys, monkeypatch):
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
    check_complete(out, [1])
    assert server.ranges("video_1.zip") == [None]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_stops_and_the_next_call_resumes(command, record, server, out, number, capsys):
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
    assert "the same command resumes" in capsys.readouterr().err
    check_complete(out, [1])
    size = part.stat().st_size
    assert 0 < size < len(large)
    part.write_bytes(large[:size])  # without the bytes after the first half
    assert command("--out", out) == 0
    check_complete(out, ACTORS)
    assert server.ranges("video_2.zip") == [None, f"bytes={size}-"]


def test_zenodo_record_has_the_published_size_and_urls():
    audio, videos = zenodo.RAVDESS.audio, zenodo.RAVDESS.videos
    assert sum(file.size for file in videos.values()) == 13_357_344_723
    assert len({file.md5 for file in [audio, *videos.values()]}) == 25
    assert videos[5].url == (
        "https://zenodo.org/records/1188976/files/Video_Speech_Actor_05.zip?download=1"
    )
