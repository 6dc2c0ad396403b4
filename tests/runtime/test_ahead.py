"""Generators that run ahead of their readers."""

import threading
import time

import pytest

from avjax.runtime.ahead import ahead


def count(numbers, made, closed=None):
    try:
        for number in numbers:
            made.append(number)
            yield number
    finally:
        if closed is not None:
            closed.append(threading.current_thread().name)


def test_items_come_in_order_and_only_so_far_ahead():
    made: list[int] = []
    items = ahead(count(range(20), made), 3)
    assert next(items) == 0
    time.sleep(0.05)
    assert len(made) <= 1 + 3 + 1  # taken, waiting, in hand
    assert list(items) == list(range(1, 20))


def test_exceptions_are_raised_where_items_are_read():
    def broken():
        yield 1
        raise ZeroDivisionError("broken")

    items = ahead(broken(), 2)
    assert next(items) == 1
    with pytest.raises(ZeroDivisionError, match="broken"):
        next(items)


def test_closing_closes_the_generator_in_its_thread():
    made: list[int] = []
    closed: list[str] = []
    items = ahead(count(range(1000), made, closed), 2)
    next(items)
    items.close()
    assert closed == ["ahead"]
    assert len(made) < 10
    assert not [thread for thread in threading.enumerate() if thread.name == "ahead"]
