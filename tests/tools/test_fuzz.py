"""Damaged and senseless files, and what reading them comes to."""

import io
import json
import struct
import zipfile
from pathlib import Path

import fuzz
import numpy as np
import pytest
from fuzzing.mutations import mutate

from avjax.errors import InputError
from avjax.runtime.sealed import seal, unseal

MANIFEST = b"video,label,group\na.mp4,joy,Ann\nb.mp4,fear,Bo\n"


def archive():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("a", b"one")
        file.writestr("b", b"two")
    return buffer.getvalue()


def changes(content, count=200):
    return [mutate(content, [content], np.random.default_rng(seed)) for seed in range(count)]


@pytest.mark.parametrize("content", [MANIFEST, archive(), b'{"a": [1, 2]}', bytes(100), b"x"])
def test_changes_differ_and_repeat(content):
    assert changes(content) == changes(content)
    assert len(set(changes(content))) > 50


def test_senseless_json_keeps_its_digest_right():
    sealed = json.dumps(seal({"classes": ["a", "b"], "sizes": {"n": 3}})).encode()
    passing = set()
    for content in changes(sealed, 400):
        try:
            passing.add(json.dumps(unseal(json.loads(content), Path("x.json"), "")))
        except ValueError:
            continue
    assert len(passing) > 50


def test_changed_archives_keep_their_checksums_right():
    passing = 0
    for content in changes(archive()):
        try:
            with zipfile.ZipFile(io.BytesIO(content)) as file:
                passing += file.testzip() is None
        except Exception:
            continue
    assert passing > 50


def test_a_card_within_a_header_is_changed_with_its_digest():
    header = {"__metadata__": {"card": json.dumps(seal({"classes": ["a"]}))}}
    text = json.dumps(header).encode()
    cards = set()
    for content in changes(struct.pack("<Q", len(text)) + text):
        try:
            (length,) = struct.unpack("<Q", content[:8])
            card = json.loads(content[8 : 8 + length])["__metadata__"]["card"]
            cards.add(json.dumps(unseal(json.loads(card), Path("x"), "")))
        except (ValueError, TypeError, KeyError, struct.error):
            continue
    assert len(cards) > 10


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (InputError("/tmp/f/x.mp4 is damaged; replace it"), "refused"),
        (InputError("/tmp/f/x.mp4 cannot be prepared (IndexError: 1); replace it"), "library"),
        (InputError("it is damaged"), "unnamed"),
        (ValueError("/tmp/f/x.mp4"), "error"),
        (MemoryError(), "memory"),
    ],
)
def test_errors_are_judged(error, outcome):
    assert fuzz.judged(error, Path("/tmp/f/x.mp4"))[0] == outcome


def test_memory_that_ran_out_below_another_error_is_told():
    error = InputError("/tmp/f/x.mp4 is damaged")
    error.__cause__ = MemoryError()
    assert fuzz.judged(error, Path("/tmp/f/x.mp4"))[0] == "memory"


@pytest.mark.parametrize(
    ("flag", "message"),
    [("--kinds=music", "unknown kind 'music'"), ("--only=media", "is not KIND:NUMBER")],
)
def test_wrong_flags_are_refused(flag, message, capsys):
    assert fuzz.main(["fuzz", flag]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_every_kind_is_read_or_refused(tmp_path, capsys):
    assert fuzz.main(["fuzz", "--inputs=100", f"--keep={tmp_path}"]) == 0
    *_, last = capsys.readouterr().out.splitlines()
    assert last.startswith("| all | 700 |")
    assert last.endswith("| 0 | 0 | 0 | 0 | 0 |")
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_one_input_is_repeated(tmp_path, capsys):
    assert fuzz.main(["fuzz", "--only=manifests:7", f"--keep={tmp_path}"]) == 0
    assert "| all | 1 |" in capsys.readouterr().out
