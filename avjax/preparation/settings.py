"""The settings that decide what a prepared clip contains."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

from avjax.data.ravdess import EMOTIONS
from avjax.data.records import WINDOW_SECONDS
from avjax.errors import InputError
from avjax.preparation.clip import check_profile


class PreparationSettings(NamedTuple):
    """What decides the content of a prepared clip.

    Attributes:
      profile: `fixed` or `reference`.
      num_frames: frames of a clip.
      image_size: side of a frame in pixels.
      pair_video_only: give RAVDESS's 02-* recordings the sound of their trial.
      seconds: of the window.
      classes: names of the labels.
      log_mels: bands of a log-mel spectrum beside the MFCCs; 0 for none.
    """

    profile: str
    num_frames: int
    image_size: int
    pair_video_only: bool
    seconds: float = WINDOW_SECONDS
    classes: tuple[str, ...] = EMOTIONS
    log_mels: int = 0

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Self:
        """From what `_asdict` gave, by way of JSON."""
        settings = cls(**stored)
        return settings._replace(classes=tuple(settings.classes))

    def check(self) -> None:
        """Raises InputError for settings that no clip can be prepared with."""
        check_profile(self.profile)
        if self.profile == "reference" and self.seconds != WINDOW_SECONDS:
            raise InputError(
                f"the reference profile has windows of {WINDOW_SECONDS} s; leave --seconds out, "
                "or choose the fixed profile"
            )

    def check_same(self, former: "PreparationSettings", place: Path) -> None:
        """Raises InputError, naming what differs from the settings ``place`` was begun with."""
        differing = [
            f"{name} is {value!r} there and {getattr(self, name)!r} here"
            for name, value in former._asdict().items()
            if value != getattr(self, name)
        ]
        if differing:
            raise InputError(
                f"{place} was begun with other settings: {'; '.join(differing)}; "
                "use those, or another --out"
            )
