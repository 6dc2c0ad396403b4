"""Audio-visual emotion recognition with incomplete data, in JAX and Flax.

`docs/library.md` shows avjax from Python. Each name below is imported when it is first used, so
that ``import avjax`` itself costs nothing.
"""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from avjax.runtime.cache_folder import ensure_cache_folder

if TYPE_CHECKING:
    from avjax import crossval, download, evaluate, predict, prepare, train
    from avjax.config import RunConfig
    from avjax.data.folds import resolve_fold
    from avjax.data.pipeline import open_dataset
    from avjax.errors import InputError
    from avjax.predict import Model, Prediction

__version__ = "0.1.0"

__all__ = [
    "InputError",
    "Model",
    "Prediction",
    "RunConfig",
    "__version__",
    "crossval",
    "download",
    "evaluate",
    "load",
    "open_dataset",
    "predict",
    "prepare",
    "resolve_fold",
    "train",
]

ensure_cache_folder()  # before any library looks for one

_HOMES = {
    "InputError": "avjax.errors",
    "Model": "avjax.predict",
    "Prediction": "avjax.predict",
    "RunConfig": "avjax.config",
    "open_dataset": "avjax.data.pipeline",
    "resolve_fold": "avjax.data.folds",
}
# The commands stay modules: a function `avjax.train` would turn into the module of that name as
# soon as anything imports it. What ``python -m avjax.train`` does, `avjax.train.train` does.
_COMMANDS = ("crossval", "download", "evaluate", "predict", "prepare", "train")


def load(path: str | Path) -> "Model":
    """The trained model of a workdir (its best epoch) or of a converted checkpoint.

    Args:
      path: the directory.

    Returns:
      See `avjax.Model`: ``model.predict("clip.mp4")``, ``model.logits(mfcc, frames)``.

    Raises:
      avjax.InputError: there is no model that classifies clips.
    """
    from avjax.predict import Model

    return Model.load(path)


if not TYPE_CHECKING:  # type checkers shall report names that do not exist

    def __getattr__(name: str) -> Any:
        if name in _COMMANDS:
            return importlib.import_module(f"avjax.{name}")
        if name not in _HOMES:
            raise AttributeError(f"module 'avjax' has no attribute {name!r}")
        value = getattr(importlib.import_module(_HOMES[name]), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return __all__
