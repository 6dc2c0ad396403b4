"""JSON files and arrays that prove their content."""

import contextlib
import json
import math

import numpy as np
import pytest

from avjax.errors import InputError
from avjax.runtime.files import append_json_line, write_json
from avjax.runtime.sealed import digest_arrays, read_json


def test_content_is_read_back(tmp_path, capsys):
    content = {"a": [1, 2.5, None], "b": {"c": "d"}}
    write_json(tmp_path / "x.json", content)
    assert read_json(tmp_path / "x.json", "") == content
    assert capsys.readouterr().err == ""


def test_every_flipped_bit_and_every_cut_is_refused_or_harmless(tmp_path, capsys):
    path = tmp_path / "x.json"
    content = {"accuracy": 0.4375, "classes": ["calm", "sad"]}
    write_json(path, content)
    whole = path.read_bytes()
    flips = [
        whole[:i] + bytes([whole[i] ^ 1 << bit]) + whole[i + 1 :]
        for i in range(len(whole))
        for bit in range(8)
    ]
    for damaged in [*flips, *(whole[:i] for i in range(len(whole) - 1))]:
        path.write_bytes(damaged)
        with contextlib.suppress(InputError):
            found = read_json(path, "restore it")
            # Harmless: white space, or the name of the digest, which is told.
            assert {name: found[name] for name in content} == content


def test_file_without_a_digest_is_told_once(tmp_path, capsys):
    path = tmp_path / "x.json"
    path.write_text('{"a": 1}')
    assert read_json(path, "") == read_json(path, "") == {"a": 1}
    assert capsys.readouterr().err == f"note: {path} is unverified (it holds no digest)\n"


def test_later_format_is_refused(tmp_path):
    path = tmp_path / "x.json"
    path.write_text('{"a": 1, "format": 2}')
    with pytest.raises(InputError, match="format 2"):
        read_json(path, "")


def test_numbers_that_json_does_not_have_become_null(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, {"loss": math.nan, "all": [math.inf, {"x": -math.inf}]})
    assert read_json(path, "") == {"loss": None, "all": [None, {"x": None}]}
    append_json_line(tmp_path / "x.jsonl", {"loss": math.nan})
    assert json.loads((tmp_path / "x.jsonl").read_text()) == {"loss": None}


@pytest.mark.parametrize(
    "other",
    [
        {"a": np.zeros((2, 3), np.float32), "b": np.ones(2)},
        {"a": np.zeros((3, 2)), "b": np.ones(2)},
        {"a": np.zeros((2, 3)), "c": np.ones(2)},
        {"a": np.zeros((2, 3)), "b": np.array([1, 1 + 1e-16 * 3])},
        {"a": np.zeros((2, 3))},
    ],
)
def test_digest_depends_on_names_types_shapes_and_values(other):
    arrays = {"a": np.zeros((2, 3)), "b": np.ones(2)}
    assert digest_arrays(arrays) == digest_arrays(dict(reversed(arrays.items())))
    assert digest_arrays(arrays) != digest_arrays(other)
