"""Stands in for jaxtyping, of which avjax needs annotations only.

So `benchmark.py step` and `forward` run where JAX, Flax and this repository are all there is.
"""

import sys


class _Annotation:
    def __class_getitem__(cls, shape: object) -> type:
        return cls


def install() -> None:
    """Makes every annotation importable; call before importing what is annotated."""
    sys.modules["jaxtyping"] = sys.modules[__name__]


def __getattr__(name: str) -> type:
    if name.startswith("__"):
        raise AttributeError(name)
    return _Annotation
