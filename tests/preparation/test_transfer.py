"""Transfers: resumed, checked, and what a bad server or line makes of them."""

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
    """A file on a server and the folder it comes into."""

    def __init__(self, server, folder):
        self.server, self.folder = server, folder
        self.file = server.add("clips.zip", CONTENT)
        self.part = folder / "clips.zip.part"
        self.counts = []
        self.count = self.counts.append
        self.stopping = threading.Event()

    def meets(self, *faults):
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


def test_a_file_comes_in_one_request(download):
    assert download.run() == [None]


def test_a_whole_file_is_checked_and_not_fetched_again(download):
    download.run()
    download.counts.clear()
    assert download.run() == [None]


def test_cut_connections_go_on_where_they_were(download):
    download.meets(web.CUT, web.CUT, web.CUT, web.CUT)  # more often than one is patient
    first, *others = download.run()
    positions = [int(wanted.removeprefix("bytes=").removesuffix("-")) for wanted in others]
    assert first is None
    assert positions == sorted(set(positions))
    assert positions[0] >= 900_000


def test_an_earlier_part_is_completed(download):
    download.part.write_bytes(CONTENT[:1234])
    assert bytes_held(download.file, download.folder) == 1234
    assert download.run() == ["bytes=1234-"]


def test_a_complete_part_needs_no_request(download):
    download.part.write_bytes(CONTENT)
    assert download.run() == []


def test_a_part_that_is_too_long_is_thrown_away(download):
    download.part.write_bytes(CONTENT + b"more")
    assert bytes_held(download.file, download.folder) == 0
    assert download.run() == [None]


def test_a_server_without_ranges_begins_anew(download):
    download.part.write_bytes(b"x" * 1234)  # would spoil the file, were it kept
    download.meets(web.NO_RANGE)
    assert download.run() == ["bytes=1234-"]


@pytest.mark.parametrize("status", [404, 429, 500, 503])
def test_refusals_may_pass(download, status):
    download.meets(status, status)
    assert download.run() == [None, None, None]


@pytest.mark.parametrize("fault", [web.SHORT, web.QUIET_SHORT])
def test_an_answer_that_is_too_short_is_completed(download, fault):
    download.meets(fault)
    assert len(download.run()) == 2


def test_an_announced_wrong_length_writes_nothing(download):
    download.part.write_bytes(CONTENT[:1234])
    download.meets(*[web.SHORT] * web.QUICK.attempts)
    with pytest.raises(InputError, match="offers 999383 bytes, expected 1998766"):
        download.run()
    assert download.part.read_bytes() == CONTENT[:1234]


def test_what_comes_after_the_end_is_ignored(download):
    download.meets(web.LONG)
    assert download.run() == [None]


def test_another_part_than_asked_for_is_refused(download):
    download.part.write_bytes(CONTENT[:1234])
    download.meets(web.MISPLACED)
    assert download.run() == ["bytes=1234-"] * 2


def test_a_part_that_the_server_cannot_continue_is_thrown_away(download):
    download.part.write_bytes(b"x" * 1234)
    download.meets(416)
    assert download.run() == ["bytes=1234-", None]


def test_wrong_bytes_are_fetched_once_more(download):
    download.meets(web.WRONG)
    assert download.run() == [None, None]


def test_a_spoilt_part_is_fetched_from_the_beginning(download):
    download.part.write_bytes(b"x" * 1234)
    assert download.run() == ["bytes=1234-", None]


def test_a_spoilt_file_is_replaced(download):
    (download.folder / "clips.zip").write_bytes(bytes(len(CONTENT)))
    assert download.run() == [None]


def test_wrong_bytes_again_are_an_error(download):
    download.meets(web.WRONG, web.WRONG)
    with pytest.raises(InputError, match="wrong bytes") as caught:
        download.run()
    message = str(caught.value)
    assert hashlib.md5(bytes(len(CONTENT))).hexdigest() in message
    assert download.file.md5 in message
    assert download.file.url in message
    assert str(download.folder / "clips.zip") in message
    assert list(download.folder.iterdir()) == []


@pytest.mark.parametrize(
    ("fault", "reason"),
    [(404, "404 Not Found"), (503, "503"), (web.SHORT, "1000000 bytes, expected 2000000")],
)
def test_lasting_refusals_name_the_reason_and_the_address(download, fault, reason):
    download.server.faults["clips.zip"] = itertools.repeat(fault)
    with pytest.raises(InputError, match=reason) as caught:
        download.run()
    assert download.file.url in str(caught.value)
    assert not isinstance(caught.value, UnreachableError)
    assert len(download.server.requests) == web.QUICK.attempts


def test_a_line_that_always_breaks_at_one_place_is_given_up(download):
    """Without ranges every attempt brings bytes, but none that were not there before."""

    download.server.faults["clips.zip"] = itertools.repeat(web.CUT_NO_RANGE)
    with pytest.raises(UnreachableError, match="1000000 more expected"):
        download.run()
    assert len(download.server.requests) == web.QUICK.attempts
    held = download.part.read_bytes()
    assert held == CONTENT[: len(held)]


def test_nothing_listening(download):
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
    held = len(download.part.read_bytes())
    assert 500_000 < held < 600_000
    assert download.part.read_bytes() == CONTENT[:held]
    download.stopping.clear()
    download.counts.clear()
    download.count = count
    assert download.run()[1:] == [f"bytes={held}-"]
