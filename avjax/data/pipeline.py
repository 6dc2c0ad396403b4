"""Reads batches from a prepared dataset: selection, shuffling, padding, prefetching."""

import functools
import math
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grain
import numpy as np
from jaxtyping import Int

from avjax.data.checks import parse_metadata
from avjax.data.digests import check_digests
from avjax.data.folds import Filter
from avjax.data.ravdess import is_video_only
from avjax.data.records import ClipRecord, DatasetMetadata
from avjax.errors import InputError
from avjax.models.network import N_MFCC, Inputs

Batch = dict[str, np.ndarray]
Row = dict[str, np.ndarray | np.generic]
READ_THREADS = 2
READ_AHEAD = 16  # clips


class PreparedDataset:
    """A dataset written by `avjax.prepare`.

    Attributes:
      directory: the dataset's directory.
      metadata: the dataset's metadata.
      records: records of all clips, sorted by split and clip id.
    """

    def __init__(
        self,
        directory: Path,
        metadata: DatasetMetadata,
        records: Sequence[ClipRecord],
        sources: Mapping[str, Sequence[Any]],
    ) -> None:
        self.directory = directory
        self.metadata = metadata
        self.records = records
        self._sources = sources
        self._positions = _positions(records)

    def __repr__(self) -> str:
        m = self.metadata
        shapes = {
            "frames": (m.num_frames, m.image_size, m.image_size, 3),
            "mfcc": (m.audio_steps, N_MFCC),
            "log_mel": (m.audio_steps, m.log_mels),
        }
        return (
            f"<{type(self).__name__} {self.directory}: {len(self.records)} clips of "
            f"{', '.join(m.classes)}; profile {m.profile}, {m.seconds:g} s: {_shapes_text(shapes)}>"
        )

    def select(
        self,
        chosen: Filter | str = "",
        inputs: Inputs = Inputs(),
        *,
        split: str = "",
        video_only: bool = False,
        num_frames: int | None = None,
        image_size: int | None = None,
    ) -> "Clips":
        """Selects the clips that match a filter and have a stream that the network reads.

        RAVDESS's silent 02-* clips are excluded by default, since they repeat the trials of 01-*.

        Args:
          chosen: a filter over the records' features, or its text, such as
            ``"actor=1-4,7 intensity=2"``; by default all clips.
          inputs: the network's inputs (``model.net.inputs``).
          split: the split of a fold that the filter stands for, which errors name.
          video_only: whether to include RAVDESS's silent 02-* clips.
          num_frames: number of black frames per clip if the dataset has sound only (default: 0).
          image_size: side of these frames in pixels (default: the dataset's).

        Raises:
          InputError: the filter is invalid, no clip matches, or the dataset lacks an input of the
            network.
        """
        chosen = Filter.parse(chosen) if isinstance(chosen, str) else chosen
        self._check_audio(inputs)
        what = f"'{chosen}'" + (f", the {split} split" if split else "")
        matching = [i for i, r in enumerate(self.records) if chosen.matches(r.features())]
        picked = [i for i in matching if _usable(self.records[i], video_only, inputs.streams)]
        if matching and not picked:
            lacking = "sound" if "audio" in inputs.streams or not video_only else "a face"
            raise InputError(
                f"none of the {len(matching)} clips of {self.directory} that match {what} has "
                f"{lacking}; prepare others, or set config.data.video_only=True and train on frames"
            )
        if not picked:
            splits = ", ".join(sorted({record.split for record in self.records}))
            raise InputError(
                f"no clip of {self.directory} matches {what}; the dataset holds {splits}: "
                "choose another config.data.fold or prepare more clips"
            )
        frames, size = self.metadata.num_frames, self.metadata.image_size
        if not frames:
            frames, size = num_frames or 0, image_size or size
        return Clips(self, picked, frames if "video" in inputs.streams else 0, size, inputs.audio)

    def _check_audio(self, inputs: Inputs) -> None:
        """Raises InputError if the dataset's sound features do not fit the network."""
        if inputs.audio != "log_mel" or inputs.audio_width == self.metadata.log_mels:
            return
        if not self.metadata.log_mels:
            raise InputError(
                f"{self.directory} holds no log-mel spectrograms, which the network reads; prepare "
                f"the clips again with --log_mels={inputs.audio_width}"
            )
        raise InputError(
            f"{self.directory} holds {self.metadata.log_mels} mel bands and the network reads "
            f"{inputs.audio_width}; set config.model.num_mels={self.metadata.log_mels}, or prepare "
            f"the clips with --log_mels={inputs.audio_width}"
        )

    def read(self, number: int) -> dict[str, Any]:
        """Reads one clip with its arrays; ``number`` indexes `records`.

        Raises:
          InputError: its record is damaged.
        """
        split, position = self._positions[number]
        try:
            features = self._sources[split][position]
            name = features["clip_id"].decode()
        except Exception as error:  # array_record, TFDS and NumPy raise many types
            raise InputError(
                f"clip {position} of {split} in {self.directory} cannot be read "
                f"({type(error).__name__}: {str(error)[:200]}); prepare the dataset again"
            ) from error
        if name != self.records[number].clip_id:
            raise InputError(
                f"clip {position} of {split} in {self.directory} is {name}, not "
                f"{self.records[number].clip_id} as its metadata say; prepare the dataset again"
            )
        return features


class Clips:
    """Clips selected by `PreparedDataset.select`, sorted by split and clip id.

    ``clips[i]`` reads one clip, `batches` reads all, and `records` are their records.
    """

    def __init__(
        self,
        dataset: PreparedDataset,
        picked: Sequence[int],
        num_frames: int,
        image_size: int,
        audio: str = "mfcc",
    ) -> None:
        self._dataset = dataset
        self._audio = audio
        self._picked = list(picked)
        self._no_frames = np.zeros((num_frames, image_size, image_size, 3), np.uint8)
        self._reads_frames = num_frames > 0 and dataset.metadata.num_frames > 0

    def __repr__(self) -> str:
        names, counts = self._dataset.metadata.classes, Counter(self.labels.tolist())
        classes = ", ".join(f"{counts[label]} {names[label]}" for label in sorted(counts))
        with_audio = sum(record.has_audio for record in self.records)
        with_video = sum(record.has_video for record in self.records)
        padding = self._row(-1)
        shapes = {"frames": padding["frames"].shape, self._audio: padding["audio"].shape}
        return (
            f"<{type(self).__name__}: {len(self)} ({classes}), {with_audio} with audio, "
            f"{with_video} with video: {_shapes_text(shapes)}>"
        )

    def __len__(self) -> int:
        return len(self._picked)

    def __getitem__(self, index: int) -> Row:
        """Reads one clip: the arrays of `batches` without the batch axis."""
        features = self._dataset.read(self._picked[index])
        record = self._dataset.records[self._picked[index]]
        return {
            "frames": np.asarray(features["frames"]) if self._reads_frames else self._no_frames,
            "audio": np.asarray(features[self._audio]),
            "label": np.int32(record.label),
            "has_audio": np.bool_(record.has_audio),
            "has_video": np.bool_(record.has_video),
            "weight": np.float32(1),
            "clip_key": np.uint32(zlib.crc32(record.clip_id.encode())),
        }

    @property
    def records(self) -> list[ClipRecord]:
        """Records of the clips."""
        return [self._dataset.records[i] for i in self._picked]

    @property
    def clip_ids(self) -> list[str]:
        """Ids of the clips."""
        return [record.clip_id for record in self.records]

    @property
    def labels(self) -> Int[np.ndarray, "n"]:
        """Class indices of the clips."""
        return np.array([record.label for record in self.records])

    def num_batches(self, batch_size: int) -> int:
        """Returns the number of batches in an epoch; the last one may be padded."""
        return -(-len(self) // batch_size)

    def batches(
        self,
        batch_size: int,
        *,
        shuffle_key: int | None = None,
        epoch: int = 0,
        start: int = 0,
        process_index: int = 0,
        process_count: int = 1,
    ) -> Iterator[Batch]:
        """Reads and prefetches the batches of one epoch.

        Args:
          batch_size: global batch size; the last batch is padded with rows of weight 0.
          shuffle_key: shuffles with a permutation that depends on it and ``epoch``; None keeps the
            order.
          epoch: number of the epoch.
          start: number of batches to skip, to resume within an epoch.
          process_index: the share of each global batch to read.
          process_count: number of shares; must divide ``batch_size``.

        Yields:
          ``frames`` uint8 [b, n, h, w, 3], ``audio`` float32 (MFCCs [b, t, 10] or log-mel
          spectrograms [b, t, m]), ``label`` int32 [b], ``has_audio`` and ``has_video`` bool [b],
          ``weight`` float32 [b] (1 for clips, 0 for padding), ``clip_key`` uint32 [b] (CRC-32 of
          the clip id).

        Raises:
          InputError: ``batch_size`` is not a multiple of ``process_count``.
        """
        if batch_size % process_count:
            raise InputError(
                f"batch size {batch_size} cannot be shared by {process_count} processes; "
                "choose a multiple of their number as config.batch_size"
            )
        rows = self.order(batch_size, shuffle_key=shuffle_key, epoch=epoch)
        share = batch_size // process_count
        rows = rows[start:, process_index * share : (process_index + 1) * share]
        yield from self.read(rows, whole=process_count == 1)

    def order(
        self, batch_size: int, *, shuffle_key: int | None = None, epoch: int = 0
    ) -> Int[np.ndarray, "steps b"]:
        """Returns the positions of clips in an epoch's batches; -1 is padding."""
        order = np.arange(len(self))
        if shuffle_key is not None:
            order = np.random.default_rng((shuffle_key, epoch)).permutation(order)
        padding = -len(order) % batch_size
        return np.pad(order, (0, padding), constant_values=-1).reshape(-1, batch_size)

    def read(
        self, batches: Int[np.ndarray, "steps *rows"], *, whole: bool = True
    ) -> Iterator[Batch]:
        """Reads and prefetches batches of the clips at the given positions; -1 is padding.

        Args:
          batches: positions.
          whole: if the clips have no frames, whether to cache all of them in memory.

        Yields:
          As `batches`, with the axes of ``rows`` in place of ``b``.
        """
        if whole and not len(self._no_frames):
            for rows in batches:
                yield {name: column[rows] for name, column in self.columns.items()}
            return
        rows = batches.shape[1:]
        options = grain.ReadOptions(num_threads=READ_THREADS, prefetch_buffer_size=READ_AHEAD)
        clips = grain.MapDataset.source(batches.ravel()).map(self._row).to_iter_dataset(options)
        for batch in clips.batch(math.prod(rows)):
            yield {name: array.reshape(*rows, *array.shape[1:]) for name, array in batch.items()}

    @functools.cached_property
    def columns(self) -> Batch:
        """All decoded clips, ``[clips + 1, ...]``; the last row is padding."""
        columns = {
            name: np.empty((len(self) + 1, *np.shape(value)), np.asarray(value).dtype)
            for name, value in self._row(-1).items()
        }

        def fill(position: int) -> None:
            for name, value in self._row(position).items():
                columns[name][position] = value

        with ThreadPoolExecutor(READ_THREADS) as pool:
            list(pool.map(fill, range(-1, len(self))))
        return columns

    @property
    def nbytes(self) -> int:
        """Size of `columns`, computed without reading clips."""
        return (len(self) + 1) * sum(value.nbytes for value in self._row(-1).values())

    def union(self, others: Sequence["Clips"]) -> "Clips":
        """Returns the union of several selections for the same network."""
        picked = sorted(set(self._picked).union(*(clips._picked for clips in others)))
        return Clips(self._dataset, picked, *self._no_frames.shape[:2], self._audio)

    def positions_in(self, whole: "Clips") -> Int[np.ndarray, "n"]:
        """Returns the position of each clip in a union that contains this selection."""
        return np.searchsorted(whole._picked, self._picked)

    def _row(self, position: int) -> Row:
        if position >= 0:
            return self[position]
        m = self._dataset.metadata
        width = m.log_mels if self._audio == "log_mel" else N_MFCC
        return {
            "frames": np.zeros_like(self._no_frames),
            "audio": np.zeros((m.audio_steps, width), np.float32),
            "label": np.int32(0),
            "has_audio": np.bool_(True),
            "has_video": np.bool_(True),
            "weight": np.float32(0),
            "clip_key": np.uint32(0),
        }


def open_dataset(data_dir: str | Path) -> PreparedDataset:
    """Opens a prepared dataset.

    Args:
      data_dir: a directory written by `avjax.prepare` (``config.data.dir``).

    Returns:
      The dataset; clips are read lazily.

    Raises:
      InputError: the directory is missing, empty or not a prepared dataset.
    """
    import tensorflow_datasets as tfds

    directory = Path(data_dir)
    remedy = f"prepare one with: avjax prepare --source RAVDESS --out {directory}"
    if not directory.is_dir():
        raise InputError(f"there is no dataset at {directory}; {remedy}")
    if not any(directory.iterdir()):
        raise InputError(f"the dataset directory {directory} is empty; {remedy}")
    if not (directory / "dataset_info.json").is_file():
        raise InputError(f"{directory} is not a prepared dataset; {remedy}")
    check_digests(directory, remedy)
    try:
        builder = tfds.builder_from_directory(str(directory))
        files = [path for split in builder.info.splits.values() for path in split.filepaths]
        missing = [path.name for path in files if not path.exists()]
        sources = {} if missing else builder.as_data_source()
        stored = dict(builder.info.metadata or {})
        shapes = {name: tuple(x.shape) for name, x in builder.info.features.items()}
    except Exception as error:  # several libraries raise their own errors for damaged files
        raise InputError(f"{directory} is damaged ({error}); {remedy}") from error
    if missing:
        raise InputError(f"{directory} lacks {', '.join(missing)}; {remedy}")
    try:
        metadata, records = parse_metadata(stored, shapes)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{directory} is damaged or was not written by avjax.prepare ({error}); {remedy}"
        ) from error
    return PreparedDataset(directory, metadata, records, sources)


def _usable(record: ClipRecord, video_only: bool, streams: Sequence[str]) -> bool:
    """Whether a clip has a stream that the network reads and is not an excluded 02-* clip."""
    has = {"audio": record.has_audio, "video": record.has_video}
    repeats = not record.has_audio and is_video_only(record.clip_id)
    return (video_only or not repeats) and any(has[stream] for stream in streams)


def _positions(records: Sequence[ClipRecord]) -> list[tuple[str, int]]:
    """Returns each record's split and position within the split."""
    sizes: Counter[str] = Counter()
    positions = []
    for record in records:
        positions.append((record.split, sizes[record.split]))
        sizes[record.split] += 1
    return positions


def _shapes_text(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Formats the shapes of a clip's non-empty arrays."""
    return ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items() if all(shape))
