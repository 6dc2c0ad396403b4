"""What a prepared clip is made of: its arrays, and the sizes of its sound.

Apart from what makes them, so that training loads none of the libraries that read raw clips.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

SAMPLE_RATE = 22050
WINDOW_SECONDS = 3.6
N_MFCC = 10
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
