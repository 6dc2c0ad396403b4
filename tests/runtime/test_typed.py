"""Types of values from JSON."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avjax.runtime.typed import check_fields, fits

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=4,
)


class Point(NamedTuple):
    x: int
    name: str = ""


@dataclasses.dataclass
class Line:
    points: tuple[Point, ...]
    width: float | None
    tags: Mapping[str, list[str]]


def test_fields_of_their_types_are_accepted():
    check_fields(Point(1))
    check_fields(Line((Point(1), Point(2, "b")), 1, {"a": ["b"], "c": []}))
    check_fields(Line((), None, {}))


@pytest.mark.parametrize(
    ("record", "name"),
    [
        (Point(1.5), "x is 1.5, not int"),
        (Point(True), "x is True, not int"),
        (Point(1, None), "name is None"),
        (Line([Point(1)], 1.0, {}), "points is"),
        (Line((Point("1"),), 1.0, {}), "points is"),
        (Line(((1, ""),), 1.0, {}), "points is"),
        (Line((), "1", {}), "width is '1'"),
        (Line((), False, {}), "width is False"),
        (Line((), 1.0, {"a": "b"}), "tags is"),
        (Line((), 1.0, {1: []}), "tags is"),
        (Line((), 1.0, []), "tags is"),
    ],
)
def test_other_types_are_named(record, name):
    with pytest.raises(TypeError, match=name):
        check_fields(record)


@pytest.mark.parametrize(
    ("value", "hint", "expected"),
    [
        ((1, 2.5), tuple[int, float], True),
        ((1, 2), tuple[int, float], True),
        ((1,), tuple[int, float], False),
        ([1, 2], tuple[int, float], False),
        ((), tuple[int, ...], True),
        (None, Any, True),
        (None, int | None, True),
    ],
)
def test_tuples_and_unions(value, hint, expected):
    assert fits(value, hint) == expected


@given(JSON)
def test_any_json_has_one_type_or_is_refused(value):
    hints = (bool, int, str, list[Any], dict[str, Any], type(None))
    matching = [hint for hint in hints if fits(value, hint)]
    assert len(matching) == (not isinstance(value, float))
    assert fits(value, float) == (type(value) in (int, float))
    again = json.loads(json.dumps(value))
    assert [hint for hint in hints if fits(again, hint)] == matching
