"""Downloads: resuming, checksums, and faults of server or connection."""

import hashlib
import itertools
import random
import threading
from concurrent.futures import CancelledError

import pytest

from avjax.errors import InputError
from avjax.preparation.transfer import UnreachableError, bytes_held, fetch
from tests import web

CONTENT = random.Random(0).randbytes(2_000_000)


@pytest.fixture
def server():
    with web.Server() as running:
        yield running


class Download:
    """A file on a server and its destination folder."""

    def __init__(self, server, folder):
        self.server, self.folder = server, folder
        self.file = server.add("clips.zip", CONTENT)
        self.part = folder / "clips.zip.part"
        self.counts = []
        self.count = self.counts.append
        self.stopping = threading.Event()

    def set_faults(self, *faults):
        self.server.faults["clips.zip"] = iter(faults)

    def run(self):
        before = bytes_held(self.file, self.folder)
        path = fetch(
            self.file,
            self.folder,
            stopping=self.stopping,
            progress=self.count,
            patience=web.QUICK,
        )
        assert path.read_bytes() == CONTENT
        assert [entry.name for entry in self.folder.iterdir()] == ["clips.zip"]
        assert before + sum(self.counts) == len(CONTENT)
        return self.server.ranges("clips.zip")


@pytest.fixture
def download(server, tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return Download(server, tmp_path)


def test_file_is_fetched_in_one_request(download):
    assert download.run() == [None]


def test_complete_file_is_checked_and_not_fetched_again(download):
    download.run()
    download.counts.clear()
    assert download.run() == [None]


def test_cut_connections_are_resumed(download):
    download.set_faults(web.CUT, web.CUT, web.CUT, web.CUT)  # more often than the allowed attempts
    first, *resumed = download.run()
    positions = [int(value.removeprefix("bytes=").removesuffix("-")) for value in resumed]
    assert first is None
    assert positions == sorted(set(positions))
    assert positions[0] >= 900_000


def test_partial_file_is_completed(download):
    download.part.write_bytes(CONTENT[:1234])
    assert bytes_held(download.file, download.folder) == 1234
    assert download.run() == ["bytes=1234-"]


def test_complete_part_needs_no_request(download):
    download.part.write_bytes(CONTENT)
    assert download.run() == []


def test_part_that_is_too_long_is_discarded(download):
    download.part.write_bytes(CONTENT + b"more")
    assert bytes_held(download.file, download.folder) == 0
    assert download.run() == [None]


def test_server_without_ranges_restarts_the_file(download):
    download.part.write_bytes(b"x" * 1234)  # would corrupt the file
    download.set_faults(web.NO_RANGE)
    assert download.run() == ["bytes=1234-"]


@pytest.mark.parametrize("status", [404, 429, 500, 503])
def test_refused_requests_are_retried(download, status):
    download.set_faults(status, status)
    assert download.run() == [None, None, None]


@pytest.mark.parametrize("fault", [web.SHORT, web.QUIET_SHORT])
def test_short_response_is_completed(download, fault):
    download.set_faults(fault)
    assert len(download.run()) == 2


def test_wrong_announced_length_writes_nothing(download):
    download.part.write_bytes(CONTENT[:1234])
    download.set_faults(*[web.SHORT] * web.QUICK.attempts)
    with pytest.raises(InputError, match="offers 999383 bytes, expected 1998766"):
        download.run()
    assert download.part.read_bytes() == CONTENT[:1234]


def test_bytes_after_the_end_are_ignored(download):
    download.set_faults(web.LONG)
    assert download.run() == [None]


def test_wrong_range_is_refused(download):
    download.part.write_bytes(CONTENT[:1234])
    download.set_faults(web.MISPLACED)
    assert download.run() == ["bytes=1234-"] * 2


def test_part_that_the_server_cannot_resume_is_discarded(download):
    download.part.write_bytes(b"x" * 1234)
    download.set_faults(416)
    assert download.run() == ["bytes=1234-", None]


def test_wrong_bytes_are_fetched_again(download):
    download.set_faults(web.WRONG)
    assert download.run() == [None, None]


def test_corrupt_part_is_fetched_from_the_beginning(download):
    download.part.write_bytes(b"x" * 1234)
    assert download.run() == ["bytes=1234-", None]


def test_corrupt_file_is_replaced(download):
    (download.folder / "clips.zip").write_bytes(bytes(len(CONTENT)))
    assert download.run() == [None]


def test_wrong_bytes_twice_are_an_error(download):
    download.set_faults(web.WRONG, web.WRONG)
    with pytest.raises(InputError, match="wrong bytes") as error:
        download.run()
    message = str(error.value)
    assert hashlib.md5(bytes(len(CONTENT))).hexdigest() in message
    assert download.file.md5 in message
    assert download.file.url in message
    assert str(download.folder / "clips.zip") in message
    assert list(download.folder.iterdir()) == []


@pytest.mark.parametrize(
    ("fault", "reason"),
    [(404, "404 Not Found"), (503, "503"), (web.SHORT, "1000000 bytes, expected 2000000")],
)
def test_permanent_refusal_names_reason_and_url(download, fault, reason):
    download.server.faults["clips.zip"] = itertools.repeat(fault)
    with pytest.raises(InputError, match=reason) as error:
        download.run()
    assert download.file.url in str(error.value)
    assert not isinstance(error.value, UnreachableError)
    assert len(download.server.requests) == web.QUICK.attempts


def test_download_without_progress_is_given_up(download):
    """Without ranges every attempt repeats the same bytes."""
    download.server.faults["clips.zip"] = itertools.repeat(web.CUT_NO_RANGE)
    with pytest.raises(UnreachableError, match="1000000 more expected"):
        download.run()
    assert len(download.server.requests) == web.QUICK.attempts
    content = download.part.read_bytes()
    assert content == CONTENT[: len(content)]


def test_unreachable_server_keeps_the_part(download):
    file = download.file._replace(url="http://127.0.0.1:9/clips.zip")
    download.part.write_bytes(CONTENT[:1234])
    download.file = file
    with pytest.raises(
        UnreachableError, match=r"cannot reach http://127.0.0.1:9/clips.zip \(.*ref"
    ):
        download.run()
    assert download.part.read_bytes() == CONTENT[:1234]


def test_stopping_keeps_the_part(download):
    count = download.counts.append

    def stop_after_some(bytes_):
        count(bytes_)
        if sum(download.counts) > 500_000:
            download.stopping.set()

    download.count = stop_after_some
    with pytest.raises(CancelledError):
        download.run()
    size = len(download.part.read_bytes())
    assert 500_000 < size < 600_000
    assert download.part.read_bytes() == CONTENT[:size]
    download.stopping.clear()
    download.counts.clear()
    download.count = count
    assert download.run()[1:] == [f"bytes={size}-"]


def test_nothing_is_written_through_a_link(download, tmp_path_factory):
    victim = tmp_path_factory.mktemp("elsewhere") / "letter.txt"
    victim.write_bytes(CONTENT[:1000])
    download.part.symlink_to(victim)
    assert download.run() == [None]
    assert victim.read_bytes() == CONTENT[:1000]
    assert not (download.folder / "clips.zip").is_symlink()


def test_a_link_that_comes_during_a_download_is_refused(download, tmp_path_factory):
    victim = tmp_path_factory.mktemp("elsewhere") / "letter.txt"
    victim.write_bytes(b"dear")

    def plant(count):
        if not download.part.is_symlink():
            download.part.unlink(missing_ok=True)
            download.part.symlink_to(victim)

    download.count = plant
    download.set_faults(web.CUT)
    with pytest.raises(InputError, match=r"clips\.zip\.part became a link"):
        download.run()
    assert victim.read_bytes() == b"dear"


def test_a_link_to_the_complete_file_is_kept(download, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "clips.zip"
    elsewhere.write_bytes(CONTENT)
    (download.folder / "clips.zip").symlink_to(elsewhere)
    assert download.run() == []
    assert (download.folder / "clips.zip").is_symlink()
