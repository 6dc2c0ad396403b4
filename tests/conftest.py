"""Shared fixtures; two CPU devices, checked shapes, optional data."""

import functools
import os
import signal
from pathlib import Path

import hypothesis
import pytest
from jaxtyping import install_import_hook

from tests.compiler_flags import FAST

# Set before JAX is imported: tests run on the CPU with two devices.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("XLA_FLAGS", f"--xla_force_host_platform_device_count=2 {FAST}")
os.environ.setdefault("MPLBACKEND", "agg")

ROOT = Path(__file__).resolve().parent.parent
# Shares compiled programs between tests, processes and runs.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".pytest_cache" / "jax"))

# Background jobs of a shell ignore Ctrl-C, and commands that tests start would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Installed before avjax is imported: calls check shapes and dtypes of arguments and results, which
# costs almost nothing, since programs are traced once.
install_import_hook(["avjax.models", "avjax.training"], "beartype.beartype")


# The same examples in every run, and no time limit, which slow machines would miss.
hypothesis.settings.register_profile(
    "same", max_examples=20, derandomize=True, deadline=None, database=None
)
hypothesis.settings.load_profile("same")

# The longest files, begun first so that neither of two processes idles at the end.
LONG = (
    "test_vmapped.py",
    "test_plain.py",
    "test_saved_by_v0_1.py",
    "test_devices.py",
    "test_golden_figures.py",
    "test_train_single.py",
    "test_train.py",
    "test_own_clips.py",
    "test_train_vmapped.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sorts files by `LONG`; other files and the tests of each keep their order."""
    places = {name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: places.get(item.path.name, len(LONG)))


@pytest.fixture(scope="session")
def root_dir() -> Path:
    """Root of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Real clips and golden figures, in `shared` beside the repository."""
    path = ROOT.parent / "shared"
    if not path.is_dir():
        pytest.skip(f"needs real clips and golden figures in {path}")
    return path


@pytest.fixture(scope="session")
def torch():
    """PyTorch, which only comparisons use."""
    return pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch")


@pytest.fixture(scope="session")
def small_networks():
    """Registers small networks, which compile quickly, as kinds "small" and "small_video"."""
    from avjax.models.networks import NETWORKS
    from tests.small_networks import small_network

    with pytest.MonkeyPatch.context() as patch:
        for name, kind in (("small", "audio_visual"), ("small_video", "video")):
            small = functools.partial(small_network, kind)
            patch.setitem(NETWORKS, name, (small, NETWORKS[kind][1]))
        yield
