"""Audio-visual emotion recognition with incomplete data, in JAX and Flax."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from avjax.predict import Model

__version__ = "0.1.0"


def load(path: "str | Path") -> "Model":
    """The trained model of a workdir (its best epoch) or of a converted checkpoint.

    Args:
      path: the directory.

    Returns:
      See `avjax.predict.Model`: ``model.predict("clip.mp4")``, ``model.logits(mfcc, frames)``.

    Raises:
      avjax.errors.InputError: there is no model that classifies clips.
    """
    from avjax.predict import Model  # here, so that `import avjax` costs nothing

    return Model.load(path)
