"""What a dataset holds: a clip's arrays, what is known of the clip, how it was prepared.

Apart from what makes and stores them: training loads no library that reads raw clips, and nothing
here needs TFDS.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

SAMPLE_RATE = 22050
WINDOW_SECONDS = 3.6
HOP = 512  # samples from one step to the next


class PreparedClip(NamedTuple):
    """A clip as the dataset stores it.

    Attributes:
      frames: face crops, BGR in the reference profile and RGB in the fixed one; zeros where the
        clip has no face.
      mfcc: zeros where the clip has no sound.
      has_audio: there is a sound track louder than -80 dBFS.
      has_video: there is at least one face.
      faceless: selected frames in which no face was found.
      log_mel: log-mel spectrum, zeros where the clip has no sound; None where none is asked for.
    """

    frames: UInt8[np.ndarray, "n s s 3"]
    mfcc: Float[np.ndarray, "t 10"]
    has_audio: bool
    has_video: bool
    faceless: int = 0
    log_mel: Float[np.ndarray, "t m"] | None = None


def audio_steps(seconds: float) -> int:
    """MFCC steps of a window."""
    return 1 + window_samples(seconds) // HOP


def window_samples(seconds: float) -> int:
    """Samples of a window at 22050 Hz."""
    return int(SAMPLE_RATE * seconds)


class ClipRecord(NamedTuple):
    """What is known of a clip besides its arrays; -1 or "" where unknown.

    Attributes:
      clip_id: unique in the dataset.
      split: the dataset split that holds it, such as ``actor_05``.
      label: index into the dataset's classes.
      actor: RAVDESS actor, 1 to 24.
      intensity: 1 normal, 2 strong.
      statement: 1 or 2.
      repetition: 1 or 2.
      group: who speaks, for folds over speakers.
      has_audio: its sound is more than silence.
      has_video: it shows a face.
      subset: `train`, `validation` or `test` where a manifest says so.
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

    def features(self) -> dict[str, Any]:
        """The record's own features: all but the split."""
        features = self._asdict()
        del features["split"]
        return features


class DatasetMetadata(NamedTuple):
    """How a dataset was prepared.

    Attributes:
      profile: `fixed` or `reference`.
      classes: names of the labels.
      num_frames: frames of a clip.
      image_size: side of a frame in pixels.
      audio_steps: MFCC steps of a clip.
      versions: of the libraries that prepared it.
      seconds: of a clip's window.
      log_mels: bands of the log-mel spectrum that is stored beside the MFCCs; 0 for none.
    """

    profile: str
    classes: tuple[str, ...]
    num_frames: int
    image_size: int
    audio_steps: int
    versions: Mapping[str, str]
    seconds: float = WINDOW_SECONDS
    log_mels: int = 0
