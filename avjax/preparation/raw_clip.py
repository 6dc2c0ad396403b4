"""A clip before preparation: its files and its record."""

from pathlib import Path
from typing import NamedTuple

from avjax.data.records import ClipRecord


class RawClip(NamedTuple):
    """The files of one clip.

    Attributes:
      record: label, actor and the like.
      key: file name of the prepared clip; depends on how the clip is cut.
      video: raw video, or face crops written by the reference's scripts; None for sound only.
      audio: sound file, or video with a sound track; None for a silent clip.
      start: start of the clip within its files, in seconds.
      end: end of the clip within its files, in seconds; None for the end of the files.
      face: point x, y or box x, y, width, height in pixels of the first frame, on the person to
        follow; None for the one seen longest and largest.
    """

    record: ClipRecord
    key: str
    video: Path | None
    audio: Path | None
    start: float = 0.0
    end: float | None = None
    face: tuple[float, ...] | None = None

    def lacks(self, has_audio: bool, has_video: bool) -> str:
        """Describes the streams missing from the files; empty if none is."""
        faults = []
        if self.video is not None and not has_video:
            faults.append(f"no face found in {self.video}")
        if self.audio is not None and not has_audio:
            faults.append(f"no sound in {self.audio}")
        return " and ".join(faults)
