"""Library versions, stored in datasets and model cards."""

from importlib.metadata import PackageNotFoundError, version

_PACKAGES = (
    "avjax",
    "jax",
    "flax",
    "numpy",
    "scipy",
    "librosa",
    "resampy",
    "av",
    "opencv-python-headless",
)


def versions() -> dict[str, str]:
    """Returns the versions of installed libraries that affect results."""
    installed = {}
    for package in _PACKAGES:
        try:
            installed[package] = version(package)
        except PackageNotFoundError:
            continue
    return installed
