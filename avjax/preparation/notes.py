"""Notes: short fragments that say what preparation decided on the user's behalf.

A note begins in lower case and names no file. Numbers in it vary by clip, so notes that differ in
nothing else are one kind.
"""

import re
from collections.abc import Iterable, Mapping
from fractions import Fraction

NO_VIDEO = "no video track: taken as sound alone"
DEINTERLACED = "deinterlaced"
HDR = "HDR tone-mapped"
SIZE_CHANGES = "frames change their size"
CENTRE = "surround sound mixed down, its centre foremost"


def counted(number: int, singular: str, plural: str | None = None) -> str:
    """Returns a number with its noun, and a verb if need be, in the singular or the plural."""
    return f"{number} {singular if number == 1 else plural or singular + 's'}"


def track(kind: str, number: int, total: int, reason: str) -> str:
    """Tells which of several tracks was taken; ``kind`` is "sound" or "video"."""
    return f"{kind} track {number} of {total} taken: {reason}"


def turned(degrees: int, mirrored: bool) -> str:
    """Tells that frames were turned clockwise as the file's display matrix says."""
    way = f"{360 - degrees} degrees counterclockwise" if degrees > 180 else f"{degrees} degrees"
    return f"turned upright (rotated by {way}{', mirrored' if mirrored else ''})"


def scaled_pixels(aspect: Fraction) -> str:
    """Tells that pixels that are not square were scaled to the shown shape."""
    return f"pixels of aspect {aspect.numerator}:{aspect.denominator} made square"


def faceless(missing: int, total: int) -> str:
    """Tells in how many frames no face was found."""
    return f"{missing} of {counted(total, 'frame')} without a face"


def followed(people: int, chosen: bool, seen: int, total: int) -> str:
    """Tells that several people are in the frames, and who was followed."""
    who = "chosen" if chosen else "seen longest and largest"
    return f"{people} people seen; followed the one {who} ({seen} of {total} frames)"


def begins(kind: str, second: float) -> str:
    """Tells that sound or video begins after the window."""
    return f"{kind} begins at {second:.1f} s"


def ends(kind: str, second: float, seconds: float) -> str:
    """Tells that sound or video ends within the window, before the other does."""
    return f"{kind} ends at {second:.1f} of {seconds:.1f} s"


def broken_off(kind: str, second: float, announced: float) -> str:
    """Tells that a file ends before its header says, but not within the window."""
    return f"{kind} breaks off after {second:.1f} of {announced:.1f} s, behind the window"


def cut_short(kind: str, second: float, announced: float) -> str:
    """Tells that a file of several windows ends before its header says."""
    return f"{kind} breaks off after {second:.1f} of {announced:.1f} s"


def windows_without(what: str, count: int, total: int) -> str:
    """Tells in how many windows of a long file a stream is missing, or both are."""
    return f"{what} in {count} of {counted(total, 'window')}"


def gap(seconds: float) -> str:
    """Tells that silence stands where the sound's clock jumps."""
    return f"{seconds:.1f} s without sound filled with silence"


def integer_scale(peak: float) -> str:
    """Tells that float samples were divided by an integer type's range."""
    return f"samples scaled from integer range (up to {peak:.0f})"


def over_range(peak: float) -> str:
    """Tells that samples beyond full scale are clipped."""
    return f"samples of up to {peak:.3g} times full scale are clipped"


def channels_left_out(count: int, total: int, reason: str) -> str:
    """Tells that some of a sound's channels were not mixed."""
    return f"{count} of {total} channels left out: {reason}"


def damaged(count: int) -> str:
    """Tells that packets could not be decoded."""
    return f"damaged packets skipped: {count}"  # one kind, be it one packet or more


def kinds(notes: Mapping[str, Iterable[str]]) -> dict[str, list[str]]:
    """Groups clips by the kind of their notes, most frequent first.

    Args:
      notes: notes by clip.

    Returns:
      The clips of each kind. A kind is a note, or where its numbers vary, the note with "..."
      in their place.
    """
    clips: dict[str, list[str]] = {}
    texts: dict[str, set[str]] = {}
    for clip, fragments in notes.items():
        for note in fragments:
            kind = re.sub(r"\d+(\.\d+)?(e[+-]?\d+)?", "...", note)
            clips.setdefault(kind, []).append(clip)
            texts.setdefault(kind, set()).add(note)
    ordered = sorted(clips, key=lambda kind: -len(clips[kind]))
    return {
        next(iter(texts[kind])) if len(texts[kind]) == 1 else kind: clips[kind] for kind in ordered
    }
