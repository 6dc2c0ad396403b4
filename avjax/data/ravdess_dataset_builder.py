"""TFDS builder of the prepared dataset, with one split per actor.

The array_record format needs no TensorFlow. The dataset's metadata contain an index of all clips,
so selecting clips reads no frames.
"""

import contextlib
import io
import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import tensorflow_datasets as tfds

from avjax.data.digests import write_digests
from avjax.data.records import ClipRecord, DatasetMetadata, PreparedClip
from avjax.models.network import N_MFCC

# 1.0 chose frames by number and the largest face of each; 1.1 by the time at which they are shown,
# and one person's faces
VERSION = "1.1.0"


class RavdessFaces(tfds.core.GeneratorBasedBuilder):
    """Face crops and MFCCs of acted emotions, prepared by `avjax.prepare`."""

    VERSION = tfds.core.Version(VERSION)
    pkg_dir_path = None  # there are no checksum or citation files

    def __init__(
        self,
        *,
        metadata: DatasetMetadata,
        records: Sequence[ClipRecord],
        clips: Iterable[PreparedClip],
        data_dir: Path,
    ) -> None:
        """Takes records and their clips in the same order, sorted by split."""
        self._metadata, self._records, self._clips = metadata, records, clips
        super().__init__(data_dir=str(data_dir), file_format="array_record")

    def _info(self) -> tfds.core.DatasetInfo:
        m = self._metadata
        index = [list(record) for record in self._records]
        return tfds.core.DatasetInfo(
            builder=self,
            description="Prepared audio-visual emotion clips, one split per actor.",
            features=dataset_features(m),
            metadata=tfds.core.MetadataDict({**m._asdict(), "index": index}),
            disable_shuffling=True,  # keep the order of the index
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        del dl_manager
        pairs = iter(zip(self._records, self._clips, strict=True))
        sizes: dict[str, int] = {}
        for record in self._records:
            sizes[record.split] = sizes.get(record.split, 0) + 1
        return {name: _examples(pairs, size) for name, size in sizes.items()}

    def _generate_examples(self) -> Iterator:
        raise NotImplementedError("splits are generated from prepared clips")


def dataset_features(metadata: DatasetMetadata) -> tfds.features.FeaturesDict:
    """Returns names, shapes and dtypes of a clip's features."""

    def tensor(shape: tuple[int, ...], dtype: type[np.generic]) -> tfds.features.Tensor:
        return tfds.features.Tensor(shape=shape, dtype=dtype, encoding="bytes")

    size, steps = metadata.image_size, metadata.audio_steps
    log_mel = tensor((steps, metadata.log_mels), np.float32)
    return tfds.features.FeaturesDict(
        {
            **({"log_mel": log_mel} if metadata.log_mels else {}),
            "clip_id": tfds.features.Text(),
            "frames": tensor((metadata.num_frames, size, size, 3), np.uint8),
            "mfcc": tensor((steps, N_MFCC), np.float32),
            "label": tfds.features.ClassLabel(names=list(metadata.classes)),
            "actor": np.int32,
            "intensity": np.int32,
            "statement": np.int32,
            "repetition": np.int32,
            "group": tfds.features.Text(),
            "has_audio": np.bool_,
            "has_video": np.bool_,
            "subset": tfds.features.Text(),
        }
    )


def _examples(
    pairs: Iterator[tuple[ClipRecord, PreparedClip]], count: int
) -> Iterator[tuple[int, dict[str, Any]]]:
    for number in range(count):
        record, clip = next(pairs)
        arrays = {"frames": clip.frames, "mfcc": clip.mfcc, "log_mel": clip.log_mel}
        present = {name: array for name, array in arrays.items() if array is not None}
        yield number, {**record.features(), **present}


def _serialise(serializer: Any, example: Any) -> bytes:
    """Serialises an example with sorted features; by default their order changes by process."""
    serialised: bytes = serializer.get_tf_example(example).SerializeToString(deterministic=True)
    return serialised


def write_dataset(
    directory: Path,
    metadata: DatasetMetadata,
    records: Sequence[ClipRecord],
    clips: Iterable[PreparedClip],
) -> Path:
    """Writes the dataset below ``directory`` and returns its builder directory.

    The same clips give the same bytes, on any machine with the same libraries.
    """
    builder = RavdessFaces(metadata=metadata, records=records, clips=clips, data_dir=directory)
    tfds.disable_progress_bar()
    logging.getLogger("absl").setLevel(logging.WARNING)
    config = tfds.download.DownloadConfig(compute_stats=tfds.download.ComputeStatsMode.SKIP)
    quiet = contextlib.redirect_stdout(io.StringIO())  # TFDS prints its destination
    with quiet, mock.patch.object(tfds.core.ExampleSerializer, "serialize_example", _serialise):
        builder.download_and_prepare(download_config=config)
    write_digests(Path(builder.data_dir))
    return Path(builder.data_dir)
