"""Batches: order, shuffling, resuming, padding, sharing between processes."""

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
    """The clip without sound is one of RAVDESS's recordings without sound."""
    return "02-01-03-01-01-01-02" if number == SILENT else f"clip-{number:02d}"


def write_numbered_clips(directory):
    """Eleven clips of three actors; frames and MFCC hold the clip's number, number 7 is silent,
    number 5 shows no face."""
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
    """Clip numbers of the real rows, in the order of the batches."""
    return [int(n) for b in batches for n in b["audio"][b["weight"] == 1, 0, 0]]


def test_metadata(dataset):
    assert dataset.metadata.profile == "reference"
    assert dataset.metadata.classes == ("a", "b", "c")
    assert (dataset.metadata.num_frames, dataset.metadata.image_size) == (2, 8)


def test_a_row_is_one_clip(clips):
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


def test_evaluation_keeps_the_order_and_pads_with_zeros(clips):
    batches = list(clips.batches(4))
    assert len(batches) == clips.num_batches(4) == 3
    assert numbers(batches) == list(range(NUM_CLIPS))
    assert batches[-1]["weight"].tolist() == [1, 1, 1, 0]
    padding = {name: array[-1] for name, array in batches[-1].items() if name in ("frames", "mfcc")}
    assert not any(array.any() for array in padding.values())
    assert [len(batch["label"]) for batch in batches] == [4, 4, 4]


def test_shuffling_permutes_each_epoch_anew(clips):
    epochs = [numbers(clips.batches(4, shuffle_key=3, epoch=epoch)) for epoch in range(3)]
    assert all(sorted(order) == list(range(NUM_CLIPS)) for order in epochs)
    assert len({tuple(order) for order in [*epochs, list(range(NUM_CLIPS))]}) == 4
    assert numbers(clips.batches(4, shuffle_key=3, epoch=1)) == epochs[1]
    assert numbers(clips.batches(4, shuffle_key=4, epoch=1)) != epochs[1]


@pytest.mark.parametrize("start", [0, 1, 2, 3])
def test_starting_late_gives_the_remaining_batches(clips, start):
    whole = list(clips.batches(4, shuffle_key=3))
    rest = list(clips.batches(4, shuffle_key=3, start=start))
    assert len(rest) == 3 - start
    for batch, expected in zip(rest, whole[start:], strict=True):
        for name, array in batch.items():
            np.testing.assert_array_equal(array, expected[name])


@pytest.mark.parametrize("process_count", [2, 4])
def test_processes_share_every_batch(clips, process_count):
    whole = list(clips.batches(4, shuffle_key=3))
    shares = [
        list(clips.batches(4, shuffle_key=3, process_index=i, process_count=process_count))
        for i in range(process_count)
    ]
    assert {len(share) for share in shares} == {len(whole)}
    for parts, batch in zip(zip(*shares, strict=True), whole, strict=True):
        for name, array in batch.items():
            np.testing.assert_array_equal(np.concatenate([p[name] for p in parts]), array)


@pytest.mark.parametrize("streams", [("audio", "video"), ("audio",)])
def test_a_process_reads_its_share_alone(dataset, monkeypatch, streams):
    clips = dataset.select(EVERYTHING, inputs=Inputs(streams))
    read, former = [], dataset.read

    def note(number):
        read.append(number)
        return former(number)

    monkeypatch.setattr(dataset, "read", note)
    shares = []
    for process in range(2):
        read.clear()
        list(clips.batches(4, shuffle_key=3, process_index=process, process_count=2))
        shares.append(set(read))
    assert not shares[0] & shares[1]
    assert len(shares[0] | shares[1]) == len(clips)


def test_a_batch_that_processes_cannot_share_is_refused(clips):
    with pytest.raises(InputError, match=r"batch size 4 .* 3 processes"):
        next(clips.batches(4, process_count=3))


def test_selecting_by_feature(dataset):
    chosen = dataset.select(Filter.parse("actor=1,3 repetition=2"))
    assert chosen.clip_ids == ["clip-01", "clip-03", "clip-09"]
    assert chosen.labels.tolist() == [1, 0, 0]
    assert len(chosen) == 3


def test_clips_without_sound_are_taken_when_asked_for(dataset):
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
def test_a_network_gets_the_clips_that_it_can_use(dataset, streams, video_only, left_out):
    chosen = dataset.select(EVERYTHING, video_only=video_only, inputs=Inputs(streams))
    taken = {clip_id(i) for i in set(range(NUM_CLIPS)) - left_out}
    assert set(chosen.clip_ids) == taken
    assert [record.clip_id for record in chosen.records] == chosen.clip_ids


def test_batches_without_frames_are_the_same_otherwise(dataset):
    arguments = {"shuffle_key": 3, "epoch": 2, "start": 1, "process_index": 1, "process_count": 2}
    whole = dataset.select(EVERYTHING)
    sound = dataset.select(EVERYTHING, inputs=Inputs(("audio",)))
    ours, theirs = (list(clips.batches(4, **arguments)) for clips in (sound, whole))
    assert len(ours) == len(theirs) == 2
    for batch, expected in zip(ours, theirs, strict=True):
        assert batch.keys() == expected.keys()
        assert batch.pop("frames").shape == (2, 0, 8, 8, 3)
        assert expected.pop("frames").shape == (2, 2, 8, 8, 3)
        for name, array in batch.items():
            np.testing.assert_array_equal(array, expected[name])
            assert array.dtype == expected[name].dtype


def test_a_dataset_of_sound_alone_shows_black_frames_when_asked_to(tmp_path):
    clip = PreparedClip(np.zeros((0, 8, 8, 3), np.uint8), np.ones((4, 10), np.float32), True, False)
    records = [ClipRecord("a", "actor_01", 0, 1, has_video=False)]
    metadata = DatasetMetadata("reference", ("a", "b", "c"), 0, 8, 4, {})
    dataset = open_dataset(write_dataset(tmp_path, metadata, records, [clip]))
    for wanted, shown in ((None, 0), (3, 3)):
        (batch,) = dataset.select(EVERYTHING, num_frames=wanted).batches(2)
        assert batch["frames"].shape == (2, shown, 8, 8, 3)
        assert not batch["frames"].any()
        assert batch["audio"].any((1, 2)).tolist() == [True, False]
        assert not batch["has_video"][0]
    with pytest.raises(InputError, match=r"none of the 1 clips .* has a face"):
        dataset.select(EVERYTHING, video_only=True, inputs=Inputs(("video",)))


def test_clips_that_all_lack_sound_are_told(dataset):
    silent = Filter.parse("actor=2 repetition=2 label=1")
    assert dataset.select(silent, video_only=True).clip_ids == [clip_id(SILENT)]
    with pytest.raises(InputError, match=r"none of the 1 clips .* has sound; .*video_only=True"):
        dataset.select(silent)


def test_own_clips_without_sound_repeat_no_other(tmp_path):
    clip = PreparedClip(
        np.zeros((2, 8, 8, 3), np.uint8), np.zeros((4, 10), np.float32), False, True
    )
    records = [ClipRecord("smile", "group_a", 0, group="a", has_audio=False, subset="test")]
    metadata = DatasetMetadata("fixed", ("a", "b"), 2, 8, 4, {})
    dataset = open_dataset(write_dataset(tmp_path, metadata, records, [clip]))
    assert dataset.select(resolve_fold("manifest")["test"]).clip_ids == ["smile"]


def test_choosing_nothing_tells_what_there_is(dataset):
    with pytest.raises(InputError, match=r"matches 'actor=9'.* holds actor_01, actor_02, actor_03"):
        dataset.select(Filter.parse("actor=9"))


def test_what_is_no_dataset_is_told(tmp_path):
    with pytest.raises(InputError, match=r"no dataset at .*gone; prepare one with: python -m"):
        open_dataset(tmp_path / "gone")
    with pytest.raises(InputError, match="is empty; prepare one"):
        open_dataset(tmp_path)
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(InputError, match="is not a prepared dataset"):
        open_dataset(tmp_path)
    (tmp_path / "dataset_info.json").write_text("{")
    with pytest.raises(InputError, match="is damaged"):
        open_dataset(tmp_path)


def test_a_lost_shard_is_told(tmp_path):
    directory = write_numbered_clips(tmp_path)
    next(directory.glob("*actor_02*")).unlink()
    with pytest.raises(InputError, match=r"lacks .*actor_02"):
        open_dataset(directory)
