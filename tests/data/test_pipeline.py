"""Batches: order, shuffling, resuming, padding, sharding between processes."""

import zlib

import numpy as np
import pytest

from avjax.data.folds import Filter, resolve_fold
from avjax.data.pipeline import open_dataset
from avjax.data.ravdess_dataset_builder import write_dataset
from avjax.data.records import ClipRecord, DatasetMetadata, PreparedClip
from avjax.errors import InputError
from avjax.models.network import Inputs

NUM_CLIPS, SILENT, FACELESS = 11, 7, 5
EVERYTHING = Filter.parse("")


def clip_id(number):
    """Returns a clip's name; the silent clip has a name of RAVDESS's silent recordings."""
    return "02-01-03-01-01-01-02" if number == SILENT else f"clip-{number:02d}"


def write_numbered_clips(directory):
    """Writes eleven clips of three actors, whose frames and MFCCs hold the clip's number.

    Clip 7 is silent and clip 5 has no video.
    """
    records, clips = [], []
    for i in range(NUM_CLIPS):
        actor = 1 + i // 4
        records.append(
            ClipRecord(
                clip_id(i),
                f"actor_{actor:02d}",
                label=i % 3,
                actor=actor,
                repetition=1 + i % 2,
                group=str(actor),
                has_audio=i != SILENT,
                has_video=i != FACELESS,
            )
        )
        frames = np.full((2, 8, 8, 3), i, np.uint8)
        clips.append(PreparedClip(frames, np.full((4, 10), i, np.float32), True, True))
    metadata = DatasetMetadata("reference", ("a", "b", "c"), 2, 8, 4, {})
    return write_dataset(directory, metadata, records, clips)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return open_dataset(write_numbered_clips(tmp_path_factory.mktemp("numbered")))


@pytest.fixture(scope="module")
def clips(dataset):
    return dataset.select(EVERYTHING, video_only=True)


def numbers(batches):
    """Returns the clip numbers of the rows that are not padding."""
    return [int(n) for b in batches for n in b["audio"][b["weight"] == 1, 0, 0]]


def test_dataset_has_its_metadata(dataset):
    assert dataset.metadata.profile == "reference"
    assert dataset.metadata.classes == ("a", "b", "c")
    assert (dataset.metadata.num_frames, dataset.metadata.image_size) == (2, 8)


def test_batch_row_is_a_clip(clips):
    (batch,) = clips.batches(NUM_CLIPS)
    shapes = {name: (array.shape, array.dtype) for name, array in batch.items()}
    assert shapes == {
        "frames": ((11, 2, 8, 8, 3), np.uint8),
        "audio": ((11, 4, 10), np.float32),
        "label": ((11,), np.int32),
        "has_audio": ((11,), np.bool_),
        "has_video": ((11,), np.bool_),
        "weight": ((11,), np.float32),
        "clip_key": ((11,), np.uint32),
    }
    count = np.arange(NUM_CLIPS)
    np.testing.assert_array_equal(batch["frames"][:, 1, 5, 5, 2], count)
    np.testing.assert_array_equal(batch["audio"][:, 3, 9], count)
    np.testing.assert_array_equal(batch["label"], count % 3)
    np.testing.assert_array_equal(batch["has_audio"], count != SILENT)
    assert batch["clip_key"][3] == zlib.crc32(b"clip-03")


def test_batches_keep_the_order_and_are_padded_with_zeros(clips):
    batches = list(clips.batches(4))
    assert len(batches) == clips.num_batches(4) == 3
    assert numbers(batches) == list(range(NUM_CLIPS))
    assert batches[-1]["weight"].tolist() == [1, 1, 1, 0]
    padding = {
        name: array[-1] for name, array in batches[-1].items() if name in ("frames", "audio")
    }
    assert not any(array.any() for array in padding.values())
    assert [len(batch["label"]) for batch in batches] == [4, 4, 4]


def test_every_epoch_has_another_permutation(clips):
    epochs = [numbers(clips.batches(4, shuffle_key=3, epoch=epoch)) for epoch in range(3)]
    assert all(sorted(order) == list(range(NUM_CLIPS)) for order in epochs)
    assert len({tuple(order) for order in [*epochs, list(range(NUM_CLIPS))]}) == 4
    assert numbers(clips.batches(4, shuffle_key=3, epoch=1)) == epochs[1]
    assert numbers(clips.batches(4, shuffle_key=4, epoch=1)) != epochs[1]


@pytest.mark.parametrize("start", [0, 1, 2, 3])
def test_start_skips_batches(clips, start):
    all_batches = list(clips.batches(4, shuffle_key=3))
    batches = list(clips.batches(4, shuffle_key=3, start=start))
    assert len(batches) == 3 - start
    for batch, expected in zip(batches, all_batches[start:], strict=True):
        for name, array in batch.items():
            np.testing.assert_array_equal(array, expected[name])


@pytest.mark.parametrize("process_count", [2, 4])
def test_every_batch_is_sharded_over_processes(clips, process_count):
    batches = list(clips.batches(4, shuffle_key=3))
    shards = [
        list(clips.batches(4, shuffle_key=3, process_index=i, process_count=process_count))
        for i in range(process_count)
    ]
    assert {len(shard) for shard in shards} == {len(batches)}
    for parts, batch in zip(zip(*shards, strict=True), batches, strict=True):
        for name, array in batch.items():
            np.testing.assert_array_equal(np.concatenate([p[name] for p in parts]), array)


@pytest.mark.parametrize("streams", [("audio", "video"), ("audio",)])
def test_process_reads_only_its_shard(dataset, monkeypatch, streams):
    clips = dataset.select(EVERYTHING, inputs=Inputs(streams))
    numbers, read = [], dataset.read

    def counting_read(number):
        numbers.append(number)
        return read(number)

    monkeypatch.setattr(dataset, "read", counting_read)
    shards = []
    for process in range(2):
        numbers.clear()
        list(clips.batches(4, shuffle_key=3, process_index=process, process_count=2))
        shards.append(set(numbers))
    assert not shards[0] & shards[1]
    assert len(shards[0] | shards[1]) == len(clips)


def test_batch_size_must_be_divisible_by_the_processes(clips):
    with pytest.raises(InputError, match=r"batch size 4 .* 3 processes"):
        next(clips.batches(4, process_count=3))


def test_select_filters_clips_by_feature(dataset):
    selected = dataset.select(Filter.parse("actor=1,3 repetition=2"))
    assert selected.clip_ids == ["clip-01", "clip-03", "clip-09"]
    assert selected.labels.tolist() == [1, 0, 0]
    assert len(selected) == 3


def test_video_only_selects_silent_clips(dataset):
    assert len(dataset.select(EVERYTHING)) == NUM_CLIPS - 1
    assert len(dataset.select(EVERYTHING, video_only=True)) == NUM_CLIPS


@pytest.mark.parametrize(
    ("streams", "video_only", "left_out"),
    [
        (("audio", "video"), False, {SILENT}),
        (("audio", "video"), True, set()),
        (("audio",), False, {SILENT}),
        (("audio",), True, {SILENT}),
        (("video",), False, {SILENT, FACELESS}),
        (("video",), True, {FACELESS}),
    ],
)
def test_select_skips_clips_that_a_network_cannot_use(dataset, streams, video_only, left_out):
    selected = dataset.select(EVERYTHING, video_only=video_only, inputs=Inputs(streams))
    expected = {clip_id(i) for i in set(range(NUM_CLIPS)) - left_out}
    assert set(selected.clip_ids) == expected
    assert [record.clip_id for record in selected.records] == selected.clip_ids


def test_batches_for_sound_have_no_frames(dataset):
    arguments = {"shuffle_key": 3, "epoch": 2, "start": 1, "process_index": 1, "process_count": 2}
    both = dataset.select(EVERYTHING)
    sound = dataset.select(EVERYTHING, inputs=Inputs(("audio",)))
    batches, expected_batches = (list(c.batches(4, **arguments)) for c in (sound, both))
    assert len(batches) == len(expected_batches) == 2
    for batch, expected in zip(batches, expected_batches, strict=True):
        assert batch.keys() == expected.keys()
        assert batch.pop("frames").shape == (2, 0, 8, 8, 3)
        assert expected.pop("frames").shape == (2, 2, 8, 8, 3)
        for name, array in batch.items():
            np.testing.assert_array_equal(array, expected[name], strict=True)


def test_sound_dataset_gives_black_frames_on_request(tmp_path):
    clip = PreparedClip(np.zeros((0, 8, 8, 3), np.uint8), np.ones((4, 10), np.float32), True, False)
    records = [ClipRecord("a", "actor_01", 0, 1, has_video=False)]
    metadata = DatasetMetadata("reference", ("a", "b", "c"), 0, 8, 4, {})
    dataset = open_dataset(write_dataset(tmp_path, metadata, records, [clip]))
    for requested, count in ((None, 0), (3, 3)):
        (batch,) = dataset.select(EVERYTHING, num_frames=requested).batches(2)
        assert batch["frames"].shape == (2, count, 8, 8, 3)
        assert not batch["frames"].any()
        assert batch["audio"].any((1, 2)).tolist() == [True, False]
        assert not batch["has_video"][0]
    with pytest.raises(InputError, match=r"none of the 1 clips .* has a face"):
        dataset.select(EVERYTHING, video_only=True, inputs=Inputs(("video",)))


def test_selecting_only_silent_clips_is_an_error(dataset):
    silent = Filter.parse("actor=2 repetition=2 label=1")
    assert dataset.select(silent, video_only=True).clip_ids == [clip_id(SILENT)]
    with pytest.raises(InputError, match=r"none of the 1 clips .* has sound; .*video_only=True"):
        dataset.select(silent)


def test_silent_clips_of_other_datasets_are_selected(tmp_path):
    clip = PreparedClip(
        np.zeros((2, 8, 8, 3), np.uint8), np.zeros((4, 10), np.float32), False, True
    )
    records = [ClipRecord("smile", "group_a", 0, group="a", has_audio=False, subset="test")]
    metadata = DatasetMetadata("fixed", ("a", "b"), 2, 8, 4, {})
    dataset = open_dataset(write_dataset(tmp_path, metadata, records, [clip]))
    assert dataset.select(resolve_fold("manifest")["test"]).clip_ids == ["smile"]


def test_selecting_nothing_is_an_error_that_lists_the_splits(dataset):
    with pytest.raises(InputError, match=r"matches 'actor=9'.* holds actor_01, actor_02, actor_03"):
        dataset.select(Filter.parse("actor=9"))


def test_missing_and_damaged_datasets_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"no dataset at .*gone; prepare one with: avjax prepare"):
        open_dataset(tmp_path / "gone")
    with pytest.raises(InputError, match="is empty; prepare one"):
        open_dataset(tmp_path)
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(InputError, match="is not a prepared dataset"):
        open_dataset(tmp_path)
    (tmp_path / "dataset_info.json").write_text("{")
    with pytest.raises(InputError, match="is damaged"):
        open_dataset(tmp_path)


def test_missing_shard_is_refused(tmp_path):
    directory = write_numbered_clips(tmp_path)
    next(directory.glob("*actor_02*")).unlink()
    with pytest.raises(InputError, match=r"lacks .*actor_02"):
        open_dataset(directory)
