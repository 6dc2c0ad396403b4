"""RAVDESS (Livingstone & Russo 2018): file names, labels, actors."""

import itertools
import re
from typing import NamedTuple, Self

from avjax.errors import InputError

EMOTIONS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
ACTORS = range(1, 25)
AUDIO_VIDEO, VIDEO_ONLY, AUDIO_ONLY = "01", "02", "03"
SPEECH = "01"  # the vocal channel

_NAME = re.compile(r"(0[1-3])-(0[12])-(0[1-8])-(0[12])-(0[12])-(0[12])-(\d\d)(?!\d)")


class ClipName(NamedTuple):
    """The seven two-digit fields of a RAVDESS file name, in order."""

    modality: str
    channel: str
    emotion: str
    intensity: str
    statement: str
    repetition: str
    actor: str

    @classmethod
    def parse(cls, filename: str) -> Self:
        """Parses a file name; ignores anything after the fields.

        Raises:
          InputError: the name does not begin with the seven fields.
        """
        match = _NAME.match(filename)
        if match is None:
            raise InputError(
                f"{filename} is not a RAVDESS name; expected modality-channel-emotion-intensity-"
                "statement-repetition-actor, such as 01-01-03-01-02-01-05.mp4"
            )
        return cls(*match.groups())

    @property
    def clip_id(self) -> str:
        """The fields joined, such as ``01-01-03-01-02-01-05``."""
        return "-".join(self)

    @property
    def trial(self) -> str:
        """All fields but the modality: the same for all clips of one utterance."""
        return "-".join(self[1:])

    @property
    def label(self) -> int:
        """Index into `EMOTIONS`."""
        return int(self.emotion) - 1


def is_video_only(clip_id: str) -> bool:
    """Whether a clip is a RAVDESS video without sound (02-*)."""
    match = _NAME.fullmatch(clip_id)
    return match is not None and match[1] == VIDEO_ONLY


def split_name(actor: int) -> str:
    """Returns the dataset split of an actor, such as ``actor_05``."""
    return f"actor_{actor:02d}"


def speech_clips(actor: int, modality: str) -> list[ClipName]:
    """Returns an actor's 60 published speech clips of one modality; neutral is never strong."""
    levels = ("01", "02")
    emotions = [f"{label + 1:02d}" for label in range(len(EMOTIONS))]
    trials = itertools.product(emotions, levels, levels, levels)
    return [
        ClipName(modality, SPEECH, emotion, intensity, statement, repetition, f"{actor:02d}")
        for emotion, intensity, statement, repetition in trials
        if (emotion, intensity) != ("01", "02")
    ]
