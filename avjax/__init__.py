"""Audio-visual emotion recognition with incomplete data, in JAX and Flax.

See `docs/library.md`. Names are imported on first use, to keep ``import avjax`` fast.
"""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from avjax.runtime.cache_folder import ensure_cache_folder

if TYPE_CHECKING:
    from avjax import (
        compare,
        crossval,
        download,
        evaluate,
        export,
        predict,
        prepare,
        report,
        serve,
        train,
    )
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
    "compare",
    "crossval",
    "download",
    "evaluate",
    "export",
    "load",
    "open_dataset",
    "predict",
    "prepare",
    "report",
    "resolve_fold",
    "serve",
    "train",
]

ensure_cache_folder()  # before any library looks for one

_MODULES = {
    "InputError": "avjax.errors",
    "Model": "avjax.predict",
    "Prediction": "avjax.predict",
    "RunConfig": "avjax.config",
    "open_dataset": "avjax.data.pipeline",
    "resolve_fold": "avjax.data.folds",
}
# Commands stay modules: a function `avjax.train` would be overwritten by the module of that name on
# import. `avjax.train.train` is the function behind ``avjax train``.
_COMMANDS = (
    *("compare", "crossval", "download", "evaluate", "export"),
    *("predict", "prepare", "report", "serve", "train"),
)


def load(path: str | Path) -> "Model":
    """Loads a trained model.

    Args:
      path: a run (its best epoch), a converted checkpoint, or the name of a carried model
        (``voice``).

    Returns:
      An `avjax.Model`: ``model.predict("clip.mp4")``, ``model.logits(mfcc, frames)``.

    Raises:
      avjax.InputError: no model there, or one that does not classify clips.
    """
    from avjax.predict import Model

    return Model.load(path)


if not TYPE_CHECKING:  # lets type checkers report unknown names

    def __getattr__(name: str) -> Any:
        if name in _COMMANDS:
            return importlib.import_module(f"avjax.{name}")
        if name not in _MODULES:
            raise AttributeError(f"module 'avjax' has no attribute {name!r}")
        value = getattr(importlib.import_module(_MODULES[name]), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return __all__
