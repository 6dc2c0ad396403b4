"""Types stored in a dataset: prepared clips, their records and the dataset's metadata.

Independent of the code that prepares and stores them, so training needs no media libraries.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

SAMPLE_RATE = 22050
WINDOW_SECONDS = 3.6
HOP = 512  # samples per MFCC step


class PreparedClip(NamedTuple):
    """A clip as stored in the dataset.

    Attributes:
      frames: face crops, BGR in the reference profile and RGB in the fixed one; zeros if the clip
        has no face.
      mfcc: MFCCs; zeros if the clip has no sound.
      has_audio: whether the sound exceeds -80 dBFS.
      has_video: whether any frame has a face.
      faceless: number of selected frames without a face.
      log_mel: log-mel spectrogram, zeros if the clip has no sound; None if not requested.
      notes: what preparation decided on the user's behalf, see `avjax.preparation.notes`.
    """

    frames: UInt8[np.ndarray, "n s s 3"]
    mfcc: Float[np.ndarray, "t 10"]
    has_audio: bool
    has_video: bool
    faceless: int = 0
    log_mel: Float[np.ndarray, "t m"] | None = None
    notes: tuple[str, ...] = ()


def audio_steps(seconds: float) -> int:
    """Returns the number of MFCC steps in a window."""
    return 1 + window_samples(seconds) // HOP


def window_samples(seconds: float) -> int:
    """Returns the number of samples in a window at 22050 Hz."""
    return int(SAMPLE_RATE * seconds)


class ClipRecord(NamedTuple):
    """A clip's metadata; -1 or "" if unknown.

    Attributes:
      clip_id: unique in the dataset.
      split: dataset split of the clip, such as ``actor_05``.
      label: index into the dataset's classes.
      actor: RAVDESS actor, 1 to 24.
      intensity: 1 normal, 2 strong.
      statement: 1 or 2.
      repetition: 1 or 2.
      group: speaker, for folds over speakers.
      has_audio: whether the clip has sound that is not silent.
      has_video: whether any frame has a face.
      subset: `train`, `validation` or `test` if the manifest gives it.
    """

    clip_id: str
    split: str
    label: int
    actor: int = -1
    intensity: int = -1
    statement: int = -1
    repetition: int = -1
    group: str = ""
    has_audio: bool = True
    has_video: bool = True
    subset: str = ""

    @property
    def speaker(self) -> str:
        """RAVDESS's actor, or the group of other clips."""
        return str(self.actor) if self.actor > 0 else self.group

    def features(self) -> dict[str, Any]:
        """Returns all fields but the split."""
        features = self._asdict()
        del features["split"]
        return features


class DatasetMetadata(NamedTuple):
    """A dataset's metadata.

    Attributes:
      profile: `fixed` or `reference`.
      classes: class names, in label order.
      num_frames: frames per clip.
      image_size: side of a frame in pixels.
      audio_steps: MFCC steps per clip.
      versions: versions of the libraries that prepared the dataset.
      seconds: length of a clip's window.
      log_mels: mel bands of the log-mel spectrogram stored with the MFCCs; 0 for none.
    """

    profile: str
    classes: tuple[str, ...]
    num_frames: int
    image_size: int
    audio_steps: int
    versions: Mapping[str, str]
    seconds: float = WINDOW_SECONDS
    log_mels: int = 0
