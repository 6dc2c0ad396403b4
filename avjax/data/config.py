"""The data's part of a config."""

import dataclasses

from avjax.data.feed import check_cache
from avjax.data.folds import resolve_fold


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Which clips a run uses, and where it keeps them.

    Attributes:
      dir: a prepared dataset.
      fold: see `avjax.data.folds.resolve_fold`.
      folds: the folds of the config's own cross-validation, each written like ``fold``.
      video_only: take RAVDESS's recordings without sound (02-*) too; each repeats the trial of an
        audio-video one. Clips that lack a face are always taken, those of sound alone among them.
      cache: where clips are kept, see `avjax.data.feed.choose_cache`.

    Raises:
      InputError: an unknown fold or cache.
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
