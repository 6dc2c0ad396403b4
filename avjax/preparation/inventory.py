"""Counts what a source holds: shown before work begins, and kept in ``prepare.json``."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from avjax.preparation.notes import counted
from avjax.preparation.raw_clip import RawClip

_SHOWN = 12  # speakers on a line


class Inventory(NamedTuple):
    """The clips of a source, counted before any is opened.

    Attributes:
      classes: clips of each class.
      speakers: clips of each actor or group; "" where none is named.
      streams: clips with "audio-video", "video only" and "sound only".
      sound: where the sound of clips with video comes from: "separate file", "own track", "none".
      notes: what else there is to know, a line each.
    """

    classes: dict[str, int]
    speakers: dict[str, int]
    streams: dict[str, int]
    sound: dict[str, int]
    notes: list[str]

    @classmethod
    def of(
        cls, clips: Sequence[RawClip], classes: Sequence[str], notes: Iterable[str]
    ) -> "Inventory":
        """Counts clips."""
        labels = Counter(clip.record.label for clip in clips)
        speakers = Counter(clip.record.group for clip in clips)
        return cls(
            {name: labels[label] for label, name in enumerate(classes)},
            dict(sorted(speakers.items())),
            dict(Counter(map(_streams, clips)).most_common()),
            dict(Counter(_sound(clip) for clip in clips if clip.video is not None).most_common()),
            list(notes),
        )

    def __str__(self) -> str:
        """Formats the counts as lines for a terminal."""
        named = {name: count for name, count in self.speakers.items() if name}
        lines = [
            f"{counted(sum(self.classes.values()), 'clip')}: {_listed(self.streams)}",
            f"classes: {_listed(self.classes)}",
        ]
        if named:
            lines.append(f"{counted(len(named), 'speaker')}: {_listed(named, _SHOWN)}")
        if self.sound:
            lines.append(f"sound of videos: {_listed(self.sound)}")
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def _streams(clip: RawClip) -> str:
    if clip.video is None:
        return "sound only"
    return "video only" if clip.audio is None else "audio-video"


def _sound(clip: RawClip) -> str:
    if clip.audio is None:
        return "none"
    return "own track" if clip.audio == clip.video else "separate file"


def _listed(counts: dict[str, int], most: int | None = None) -> str:
    """Names with their counts; beyond ``most`` names, how many more there are."""
    shown = [f"{name} {count}" for name, count in list(counts.items())[:most]]
    more = len(counts) - len(shown)
    return ", ".join([*shown, f"{more} more"] if more else shown)
