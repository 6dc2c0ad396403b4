"""Versions of what made a dataset or a checkpoint, for its records."""

from importlib.metadata import PackageNotFoundError, version

_PACKAGES = ("avjax", "jax", "flax", "numpy", "librosa", "resampy", "av", "opencv-python-headless")


def versions() -> dict[str, str]:
    """Installed version of each library that decides figures; what is absent is left out."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
