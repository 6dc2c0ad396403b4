"""Checks of what a dataset's metadata and a model's card say of their clips.

Digests tell damage; these tell what another program wrote.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from avjax.data.records import ClipRecord, DatasetMetadata
from avjax.models.network import N_MFCC
from avjax.runtime.typed import check_fields

_MOST_CLIP_BYTES = 1 << 30  # of one clip's frames or sound features


def check_sizes(
    classes: Sequence[str],
    num_frames: int,
    image_size: int,
    audio_steps: int,
    seconds: float,
    log_mels: int = 0,
) -> None:
    """Checks what the metadata of a dataset or the card of a model say; see `DatasetMetadata`.

    Raises:
      ValueError: no clips can be like that.
    """
    if len(set(classes)) < len(classes):
        raise ValueError("its classes are not all different")
    frame_bytes = 3 * num_frames * image_size**2
    sound_bytes = 4 * audio_steps * max(log_mels, N_MFCC)
    if (
        min(num_frames, image_size, audio_steps, log_mels) < 0
        or not 0 < seconds < math.inf
        or max(frame_bytes, sound_bytes) > _MOST_CLIP_BYTES
    ):
        raise ValueError("its sizes are impossible")


def parse_metadata(
    stored: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
) -> tuple[DatasetMetadata, list[ClipRecord]]:
    """Builds a dataset's metadata and records from JSON, and checks that they belong together.

    Args:
      stored: the fields of `DatasetMetadata`, and ``index``, the records.
      shapes: of the stored arrays, by name.

    Raises:
      KeyError, TypeError or ValueError: they do not.
    """
    fields = dict(stored)
    records = [ClipRecord(*record) for record in fields.pop("index")]
    if not isinstance(classes := fields.pop("classes"), list):
        raise TypeError("its classes are no list")
    m = DatasetMetadata(**fields, classes=tuple(classes))
    check_fields(m)
    check_sizes(m.classes, m.num_frames, m.image_size, m.audio_steps, m.seconds, m.log_mels)
    expected: dict[str, tuple[int, ...]] = {
        "frames": (m.num_frames, m.image_size, m.image_size, 3),
        "mfcc": (m.audio_steps, N_MFCC),
        **({"log_mel": (m.audio_steps, m.log_mels)} if m.log_mels else {}),
    }
    for name, shape in expected.items():
        if shapes.get(name) != shape:
            raise ValueError(f"{name} are of shape {shapes.get(name)}, not {shape}")
    for record in records:
        check_fields(record)
        if not 0 <= record.label < len(m.classes):
            raise ValueError(f"label {record.label} of {record.clip_id} is none of the classes")
    return m, records
