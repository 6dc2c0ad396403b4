"""Replaces jaxtyping, which avjax uses only for annotations.

With it `benchmark.py step` and `forward` need nothing but JAX, Flax and this repository.
"""

import sys


class _Annotation:
    def __class_getitem__(cls, shape: object) -> type:
        return cls


def install() -> None:
    """Makes every annotation importable; call before importing annotated modules."""
    sys.modules["jaxtyping"] = sys.modules[__name__]


def __getattr__(name: str) -> type:
    if name.startswith("__"):
        raise AttributeError(name)
    return _Annotation
