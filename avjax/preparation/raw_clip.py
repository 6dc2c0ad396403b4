"""A clip before it is prepared: its files, and what is known of it."""

from pathlib import Path
from typing import NamedTuple

from avjax.data.records import ClipRecord


class RawClip(NamedTuple):
    """The files of one clip.

    Attributes:
      record: what is known of it before it is read.
      key: names the finished clip's file; another one if the clip is cut otherwise.
      video: raw video, or face crops that the reference prepared; None for sound alone.
      audio: sound file, or a video whose sound track is meant; None for a silent clip.
      start: second at which the clip begins in its files.
      end: second at which it ends; None for the files' own end.
    """

    record: ClipRecord
    key: str
    video: Path | None
    audio: Path | None
    start: float = 0.0
    end: float | None = None

    def lacks(self, has_audio: bool, has_video: bool) -> str:
        """What the files should hold and do not; empty where nothing is missing."""
        faults = []
        if self.video is not None and not has_video:
            faults.append(f"no face found in {self.video}")
        if self.audio is not None and not has_audio:
            faults.append(f"no sound in {self.audio}")
        return " and ".join(faults)
