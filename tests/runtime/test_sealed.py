"""JSON files and arrays that prove their content."""

import contextlib
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

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


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=4,
)
CONTENT = st.dictionaries(st.text().filter(lambda name: name not in ("format", "digest")), JSON)


@given(CONTENT, CONTENT)
def test_any_content_is_read_back_and_no_other_passes_for_it(tmp_path_factory, content, other):
    path = tmp_path_factory.mktemp("sealed") / "x.json"
    write_json(path, content)
    assert read_json(path, "") == content
    stored = json.loads(path.read_bytes())
    path.write_text(json.dumps({**other, "format": stored["format"], "digest": stored["digest"]}))
    if json.dumps(content, sort_keys=True) == json.dumps(other, sort_keys=True):
        assert read_json(path, "") == other
    else:
        with pytest.raises(InputError, match="does not match its digest"):
            read_json(path, "")


@given(st.binary() | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_json_or_refused(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("sealed") / "x.json"
    path.write_bytes(content)
    with contextlib.suppress(InputError):
        assert isinstance(read_json(path, "replace it"), dict)
