"""Preparation settings."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

from avjax.data.ravdess import EMOTIONS
from avjax.data.records import WINDOW_SECONDS
from avjax.errors import InputError
from avjax.models.efficientface import MIN_SIZE, SIZE_MULTIPLE
from avjax.preparation.clip import check_profile
from avjax.runtime.typed import check_fields


class PreparationSettings(NamedTuple):
    """Settings that determine the content of a prepared clip.

    Attributes:
      profile: `fixed` or `reference`.
      num_frames: frames per clip.
      image_size: side of a frame in pixels.
      pair_video_only: whether RAVDESS's silent 02-* clips get the sound of their trial.
      seconds: length of the window.
      classes: class names, in label order.
      log_mels: mel bands of the log-mel spectrogram stored with the MFCCs; 0 for none.
      songs: whether RAVDESS's songs are clips too.
    """

    profile: str
    num_frames: int
    image_size: int
    pair_video_only: bool
    seconds: float = WINDOW_SECONDS
    classes: tuple[str, ...] = EMOTIONS
    log_mels: int = 0
    songs: bool = False

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Self:
        """Restores settings from the JSON of `_asdict`.

        Raises:
          TypeError: there are other fields, or values of other types.
        """
        settings = cls(**stored)
        settings = settings._replace(classes=tuple(settings.classes))
        check_fields(settings)
        return settings

    def check(self) -> None:
        """Raises InputError if the settings are invalid."""
        check_profile(self.profile)
        if self.image_size < MIN_SIZE or self.image_size % SIZE_MULTIPLE:
            raise InputError(
                f"no network takes frames of image_size={self.image_size} pixels; choose a "
                f"multiple of {SIZE_MULTIPLE} from {MIN_SIZE} on, such as {self._nearest_size()}"
            )
        if self.profile == "reference" and self.seconds != WINDOW_SECONDS:
            raise InputError(
                f"the reference profile has windows of {WINDOW_SECONDS} s; leave --seconds out, "
                "or choose the fixed profile"
            )

    def _nearest_size(self) -> int:
        return max(MIN_SIZE, round(self.image_size / SIZE_MULTIPLE) * SIZE_MULTIPLE)

    def check_same(self, former: "PreparationSettings", place: Path) -> None:
        """Raises InputError if ``place`` was created with different settings, naming them."""
        differences = [
            f"{name} is {value!r} there and {getattr(self, name)!r} here"
            for name, value in former._asdict().items()
            if value != getattr(self, name)
        ]
        if differences:
            raise InputError(
                f"{place} was created with other settings: {'; '.join(differences)}; "
                "use those, or another --out"
            )
