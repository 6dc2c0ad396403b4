"""Feeding devices: every cache gives the same batches; choice of the cache."""

import jax
import numpy as np
import pytest

from avjax.data.feed import Feed, Prefetcher, choose_cache, take
from avjax.data.folds import Filter
from avjax.data.pipeline import PreparedDataset, open_dataset
from avjax.errors import InputError
from avjax.models.network import Inputs
from avjax.runtime.devices import Parallel
from tests.data.test_pipeline import write_numbered_clips

CACHES = ("none", "host", "device")
BATCH = 4


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return open_dataset(write_numbered_clips(tmp_path_factory.mktemp("numbered")))


@pytest.fixture(scope="module", params=["with frames", "sound alone"])
def selections(dataset, request):
    """Two overlapping selections, neither of which holds all clips."""
    streams = ("audio", "video") if request.param == "with frames" else ("audio",)
    return [
        dataset.select(Filter.parse(text), Inputs(streams)) for text in ("actor=1,3", "actor=2,3")
    ]


def parallel():
    return Parallel(BATCH, jax.local_devices()[:2])


def assert_same(batches, expected):
    batches = list(batches)
    assert len(batches) == len(expected)
    for batch, expected_batch in zip(batches, expected, strict=True):
        assert batch.keys() == expected_batch.keys()
        for name, array in batch.items():
            np.testing.assert_array_equal(array, expected_batch[name], strict=True)


@pytest.mark.parametrize("cache", CACHES)
def test_batches_equal_those_of_the_pipeline(selections, cache):
    devices = parallel()
    feed = Feed(selections, cache, devices)
    assert feed.cache == cache
    for clips in selections:
        for epoch in (0, 1):
            rows = feed.rows(clips, BATCH, shuffle_key=3, epoch=epoch)
            for start in (0, 1):
                with feed.batches(list(rows[start:]), devices.split) as batches:
                    expected = clips.batches(BATCH, shuffle_key=3, epoch=epoch, start=start)
                    assert_same(batches, list(expected))
        with feed.batches(list(feed.rows(clips, BATCH))) as batches:
            assert_same(batches, list(clips.batches(BATCH)))


@pytest.mark.parametrize("cache", CACHES)
def test_batches_of_several_steps_and_models(selections, cache):
    """Leading axis of steps and trailing axis of models; one model has no clips."""
    devices = parallel()
    feed = Feed(selections, cache, devices)
    columns = selections[0].union(selections[1:]).columns
    rows = np.stack([feed.rows(clips, BATCH)[:2] for clips in selections], 2)
    rows[1, :, 1] = -1
    calls = [rows, rows[::-1]]
    with feed.batches(calls, devices.split_steps) as batches:
        placed = list(batches)
    assert_same(placed, [take(columns, call) for call in calls])
    assert placed[0]["label"].shape == (2, BATCH, 2)
    assert not placed[0]["weight"][1, :, 1].any()


def test_clips_on_the_device_are_gathered_by_the_compiled_step(selections):
    devices = parallel()
    feed = Feed(selections, "device", devices)
    rows = feed.rows(selections[0], BATCH)
    with feed.batches(list(rows), devices.split, gather=False) as batches:
        np.testing.assert_array_equal(np.stack(list(batches)), rows)
    assert all(array.sharding.is_fully_replicated for array in feed.resident.values())
    expected = selections[0].union(selections[1:]).columns
    jax.tree.map(np.testing.assert_array_equal, feed.resident, expected)


@pytest.mark.parametrize("cache", ["host", "device"])
def test_each_clip_is_read_once(selections, cache, monkeypatch):
    reads, read = [], PreparedDataset.read
    monkeypatch.setattr(
        PreparedDataset, "read", lambda self, number: reads.append(number) or read(self, number)
    )
    union = selections[0].union(selections[1:])
    uncached = [union.union([clips]) for clips in selections]
    feed = Feed(uncached, cache, parallel())
    assert not reads
    for epoch in range(2):
        with feed.batches(
            list(feed.rows(uncached[0], BATCH, shuffle_key=1, epoch=epoch))
        ) as batches:
            assert sum(float(batch["weight"].sum()) for batch in batches) == len(union)
    assert len(reads) == len(set(reads)) == len(union)


def test_nbytes_is_the_size_of_the_columns(selections):
    for clips in selections:
        assert clips.nbytes == sum(column.nbytes for column in clips.columns.values())


@pytest.mark.parametrize(
    ("cache", "device", "host", "expected"),
    [
        ("auto", 300, 0, "device"),
        ("auto", 200, 400, "host"),
        ("auto", None, 400, "host"),
        ("auto", 200, 300, "none"),
        ("auto", None, None, "none"),
        ("device", None, None, "device"),
        ("device", 101, 0, "device"),
        ("host", 0, 101, "host"),
        ("none", 300, 400, "none"),
    ],
)
def test_auto_chooses_the_first_cache_with_room(cache, device, host, expected):
    assert choose_cache(cache, 100, device, host) == expected


@pytest.mark.parametrize(
    ("cache", "device", "host"), [("device", 99, 400), ("host", 300, 99), ("gpu", 300, 400)]
)
def test_cache_without_room_or_unknown_is_refused(cache, device, host):
    message = "unknown config.data.cache 'gpu'" if cache == "gpu" else f"cache='{cache}' needs"
    with pytest.raises(InputError, match=message):
        choose_cache(cache, 100, device, host)


def test_read_ahead_keeps_order_and_passes_errors_on():
    produced = []

    def items():
        for number in range(5):
            produced.append(number)
            yield number
        raise ValueError("spoilt")

    with Prefetcher(items(), depth=2) as read_ahead:
        reader = iter(read_ahead)
        assert [next(reader) for _ in range(5)] == produced == list(range(5))
        with pytest.raises(ValueError, match="spoilt"):
            next(reader)
    assert read_ahead.waited > 0


def test_read_ahead_stops_with_its_reader():
    produced = []

    def items():
        for number in range(100):
            produced.append(number)
            yield number

    with Prefetcher(items(), depth=3) as read_ahead:
        assert next(iter(read_ahead)) == 0
    assert len(produced) <= 4
