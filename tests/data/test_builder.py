"""The dataset on disk, as written and as read by TFDS."""

import numpy as np
import pytest

from avjax.data.ravdess_dataset_builder import write_dataset
from avjax.data.records import ClipRecord, DatasetMetadata, PreparedClip

METADATA = DatasetMetadata("fixed", ("calm", "angry"), 2, 8, 4, {"avjax": "1"})


def random_clip(number: int) -> PreparedClip:
    rng = np.random.default_rng(number)
    frames = rng.integers(0, 256, (2, 8, 8, 3), np.uint8)
    return PreparedClip(frames, rng.normal(size=(4, 10)).astype(np.float32), True, number % 2 == 0)


RECORDS = [
    ClipRecord(
        f"clip-{i}", f"actor_0{i // 3 + 1}", i % 2, i // 3 + 1, 1, 2, 1, "b", True, i % 2 == 0
    )
    for i in range(5)
]


@pytest.fixture(scope="module")
def builder_dir(tmp_path_factory):
    directory = tmp_path_factory.mktemp("dataset")
    return write_dataset(directory, METADATA, RECORDS, map(random_clip, range(5)))


def test_tfds_reads_the_written_clips(builder_dir):
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(str(builder_dir))
    assert {name: split.num_examples for name, split in builder.info.splits.items()} == {
        "actor_01": 3,
        "actor_02": 2,
    }
    assert builder.info.features["label"].names == ["calm", "angry"]
    assert builder.info.metadata["profile"] == "fixed"
    sources = builder.as_data_source()
    examples = [example for split in ("actor_01", "actor_02") for example in sources[split]]
    for number, example in enumerate(examples):
        record, clip = RECORDS[number], random_clip(number)
        assert example["clip_id"].decode() == record.clip_id
        assert example["group"].decode() == "b"
        assert example["label"] == record.label
        assert example["has_video"] == record.has_video
        np.testing.assert_array_equal(example["frames"], clip.frames)
        np.testing.assert_array_equal(example["mfcc"], clip.mfcc)


def test_splits_can_be_joined(builder_dir):
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(str(builder_dir))
    assert len(builder.as_data_source(split="actor_01+actor_02")) == 5


def test_writing_is_deterministic(builder_dir, tmp_path):
    copy = write_dataset(tmp_path, METADATA, RECORDS, map(random_clip, range(5)))
    names = sorted(path.name for path in builder_dir.iterdir())
    assert names == sorted(path.name for path in copy.iterdir())
    for name in names:
        assert (copy / name).read_bytes() == (builder_dir / name).read_bytes(), name


def test_features_are_sorted_in_each_record(builder_dir):
    """By default their order changes from process to process."""
    from array_record.python.array_record_module import ArrayRecordReader
    from tensorflow_datasets.proto import tf_example_pb2

    for path in builder_dir.glob("*.array_record*"):
        reader = ArrayRecordReader(str(path))
        for raw in reader.read_all():
            assert raw == tf_example_pb2.Example.FromString(raw).SerializeToString(
                deterministic=True
            )
        reader.close()


def test_writing_prints_nothing(tmp_path, capsys):
    write_dataset(tmp_path, METADATA, RECORDS[:1], [random_clip(0)])
    assert capsys.readouterr().out == ""


def test_clip_of_wrong_shape_is_an_error(tmp_path):
    wrong = random_clip(0)._replace(frames=np.zeros((3, 8, 8, 3), np.uint8))
    with pytest.raises(Exception, match=r"Shape \(3, 8, 8, 3\) does not match"):
        write_dataset(tmp_path, METADATA, RECORDS[:1], [wrong])
