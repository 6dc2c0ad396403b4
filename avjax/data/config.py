"""Data configuration."""

import dataclasses

from avjax.data.feed import check_cache
from avjax.data.folds import resolve_fold


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Selects and caches the clips of a run.

    Attributes:
      dir: directory of the prepared dataset.
      fold: see `avjax.data.folds.resolve_fold`.
      folds: folds of a custom cross-validation, in the format of ``fold``.
      video_only: also use RAVDESS's silent 02-* clips, each of which repeats the trial of an
        audio-video clip. Clips without a face are always used.
      cache: where clips are cached, see `avjax.data.feed.choose_cache`.

    Raises:
      InputError: the fold or cache is unknown.
    """

    dir: str = "data/ravdess"
    fold: str = "published"
    folds: tuple[str, ...] = ()
    video_only: bool = False
    cache: str = "auto"

    def __post_init__(self) -> None:
        for fold in (self.fold, *self.folds):
            resolve_fold(fold)
        check_cache(self.cache)
