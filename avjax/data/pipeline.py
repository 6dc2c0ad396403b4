"""From a prepared dataset to batches: choosing clips, shuffling, padding, reading ahead."""

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
    """A dataset that `avjax.prepare` wrote; `select` chooses clips of it.

    Attributes:
      directory: where it lies.
      metadata: how it was prepared.
      records: every clip, in the order of actors and clip ids.
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
            f"{', '.join(m.classes)}; profile {m.profile}, {m.seconds:g} s: {_arrays(shapes)}>"
        )

    def select(
        self,
        chosen: Filter | str = "",
        inputs: Inputs = Inputs(),
        *,
        video_only: bool = False,
        num_frames: int | None = None,
        image_size: int | None = None,
    ) -> "Clips":
        """The clips that a filter chooses, of those that a network can use.

        A clip of one stream is taken like any other, but for RAVDESS's 02-* recordings without
        sound: they repeat the trials of 01-*, and are left out by default.

        Args:
          chosen: filter over the records' features, or its text, such as
            ``"actor=1-4,7 intensity=2"``; by default all clips.
          inputs: what the network reads (``model.net.inputs``); a clip has one of its streams at
            least.
          video_only: take RAVDESS's 02-* recordings without sound, too.
          num_frames: black frames of a clip where the dataset holds sound alone (default: none).
          image_size: their side in pixels (default: the dataset's).

        Raises:
          InputError: a filter that cannot be read, no clip is chosen, or the dataset lacks what the
            network reads.
        """
        chosen = Filter.parse(chosen) if isinstance(chosen, str) else chosen
        self._check_audio(inputs)
        matching = [i for i, r in enumerate(self.records) if chosen.matches(r.features())]
        picked = [i for i in matching if _usable(self.records[i], video_only, inputs.streams)]
        if matching and not picked:
            lacking = "sound" if "audio" in inputs.streams or not video_only else "a face"
            raise InputError(
                f"none of the {len(matching)} clips of {self.directory} that match '{chosen}' has "
                f"{lacking}; prepare others, or take clips without sound with "
                "config.data.video_only=True and a network that reads frames"
            )
        if not picked:
            held = ", ".join(sorted({record.split for record in self.records}))
            raise InputError(
                f"no clip of {self.directory} matches '{chosen}'; the dataset holds {held}: "
                "choose another config.data.fold or prepare more clips"
            )
        shown, size = self.metadata.num_frames, self.metadata.image_size
        if not shown:
            shown, size = num_frames or 0, image_size or size
        return Clips(self, picked, shown if "video" in inputs.streams else 0, size, inputs.audio)

    def _check_audio(self, inputs: Inputs) -> None:
        """Raises InputError where the dataset's features of sound are not the network's."""
        if inputs.audio != "log_mel" or inputs.audio_width == self.metadata.log_mels:
            return
        if not self.metadata.log_mels:
            raise InputError(
                f"{self.directory} holds no log-mel spectra, which the network reads; prepare the "
                f"clips again with --log_mels={inputs.audio_width}"
            )
        raise InputError(
            f"{self.directory} holds {self.metadata.log_mels} mel bands and the network reads "
            f"{inputs.audio_width}; set config.model.num_mels={self.metadata.log_mels}, or prepare "
            f"the clips with --log_mels={inputs.audio_width}"
        )

    def read(self, number: int) -> dict[str, Any]:
        """One record with its arrays."""
        split, position = self._positions[number]
        return self._sources[split][position]


class Clips:
    """Clips that `PreparedDataset.select` chose, in the order of actors and clip ids.

    ``clips[i]`` is one clip; `batches` reads them all, `records` tells what is known of them.
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
        heard = sum(record.has_audio for record in self.records)
        seen = sum(record.has_video for record in self.records)
        padding = self._row(-1)
        shapes = {"frames": padding["frames"].shape, self._audio: padding["audio"].shape}
        return (
            f"<{type(self).__name__}: {len(self)} ({classes}), {heard} with audio, {seen} with "
            f"video: {_arrays(shapes)}>"
        )

    def __len__(self) -> int:
        return len(self._picked)

    def __getitem__(self, index: int) -> Row:
        """One clip: the arrays of `batches` without their axis ``b``."""
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
        """What is known of the clips."""
        return [self._dataset.records[i] for i in self._picked]

    @property
    def clip_ids(self) -> list[str]:
        """Names of the clips."""
        return [record.clip_id for record in self.records]

    @property
    def labels(self) -> Int[np.ndarray, "n"]:
        """Class indices of the clips."""
        return np.array([record.label for record in self.records])

    def num_batches(self, batch_size: int) -> int:
        """Batches in an epoch; the last one may be padded."""
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
        """Batches of one epoch, read ahead of their use.

        Args:
          batch_size: rows of a global batch; the last one is padded with zero rows of weight 0.
          shuffle_key: None keeps the order; else it and ``epoch`` fix a permutation.
          epoch: number of the epoch.
          start: batches to leave out, for resuming within an epoch.
          process_index: which share of each global batch's rows to read.
          process_count: number of shares; it divides ``batch_size``.

        Yields:
          ``frames`` uint8 [b, n, h, w, 3], ``audio`` float32 (MFCCs [b, t, 10] or log-mel spectra
          [b, t, m], as the network reads), ``label`` int32 [b],
          ``has_audio`` and ``has_video`` bool [b], ``weight`` float32 [b] (1 for a clip),
          ``clip_key`` uint32 [b] (CRC-32 of the clip's name).

        Raises:
          InputError: the processes cannot share a batch evenly.
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
        """Positions of the clips in an epoch's batches; -1 fills the last one up."""
        order = np.arange(len(self))
        if shuffle_key is not None:
            order = np.random.default_rng((shuffle_key, epoch)).permutation(order)
        padding = -len(order) % batch_size
        return np.pad(order, (0, padding), constant_values=-1).reshape(-1, batch_size)

    def read(
        self, batches: Int[np.ndarray, "steps *rows"], *, whole: bool = True
    ) -> Iterator[Batch]:
        """Batches of the clips at given positions, read ahead of their use; -1 is padding.

        Args:
          batches: positions.
          whole: clips without frames may all be kept in memory; False reads none but these.

        Yields:
          As `batches`; axes of ``rows`` stand in the place of ``b``.
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
        """All clips decoded in memory, ``[clips + 1, ...]``; the last row is padding."""
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
        """Size of `columns`, known without reading a clip."""
        return (len(self) + 1) * sum(value.nbytes for value in self._row(-1).values())

    def union(self, others: Sequence["Clips"]) -> "Clips":
        """The clips of several selections of the same network, each once."""
        picked = sorted(set(self._picked).union(*(clips._picked for clips in others)))
        return Clips(self._dataset, picked, *self._no_frames.shape[:2], self._audio)

    def positions_in(self, whole: "Clips") -> Int[np.ndarray, "n"]:
        """Where each clip stands in a union that holds it."""
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
      data_dir: what ``config.data.dir`` names: the directory that `avjax.prepare` wrote.

    Returns:
      The dataset; clips are read when they are asked for.

    Raises:
      InputError: the directory is missing, empty or no prepared dataset.
    """
    import tensorflow_datasets as tfds

    directory = Path(data_dir)
    remedy = f"prepare one with: python -m avjax.prepare --source RAVDESS --out {directory}"
    if not directory.is_dir():
        raise InputError(f"there is no dataset at {directory}; {remedy}")
    if not any(directory.iterdir()):
        raise InputError(f"the dataset directory {directory} is empty; {remedy}")
    if not (directory / "dataset_info.json").is_file():
        raise InputError(f"{directory} is not a prepared dataset; {remedy}")
    try:
        builder = tfds.builder_from_directory(str(directory))
        files = [path for split in builder.info.splits.values() for path in split.filepaths]
        lost = [path.name for path in files if not path.exists()]
    except Exception as error:  # a damaged file shows in errors of several libraries
        raise InputError(f"{directory} is damaged ({error}); {remedy}") from error
    if lost:
        raise InputError(f"{directory} lacks {', '.join(lost)}; {remedy}")
    stored = dict(builder.info.metadata or {})
    try:
        records = [ClipRecord(*record) for record in stored.pop("index")]
        metadata = DatasetMetadata(**{**stored, "classes": tuple(stored["classes"])})
    except (KeyError, TypeError) as error:
        raise InputError(f"{directory} was not written by avjax.prepare; {remedy}") from error
    return PreparedDataset(directory, metadata, records, builder.as_data_source())


def _usable(record: ClipRecord, video_only: bool, streams: Sequence[str]) -> bool:
    """Whether a clip has a stream that the network reads, and does not repeat another's trial."""
    has = {"audio": record.has_audio, "video": record.has_video}
    repeats = not record.has_audio and is_video_only(record.clip_id)
    return (video_only or not repeats) and any(has[stream] for stream in streams)


def _positions(records: Sequence[ClipRecord]) -> list[tuple[str, int]]:
    """Split and place within it of every record."""
    filled: dict[str, int] = {}
    positions = []
    for record in records:
        positions.append((record.split, filled.get(record.split, 0)))
        filled[record.split] = positions[-1][1] + 1
    return positions


def _arrays(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """A clip's arrays as text, without those that hold nothing."""
    return ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items() if all(shape))
