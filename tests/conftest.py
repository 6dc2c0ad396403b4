"""What all tests share: two devices of a CPU, checked shapes, data that only some machines have."""

import functools
import os
import signal
from importlib.metadata import version
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

# Before JAX is imported: tests run anywhere alike, what several devices do is testable, and the
# compiler, where most of the tests' time goes, takes about half as long.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
_flags = (
    "--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0 "
    "--xla_llvm_disable_expensive_passes=true"
)
if version("jaxlib").startswith("0.10."):  # XLA does not start with flags that it does not know
    _flags += " --xla_cpu_use_fusion_emitters=false"
os.environ.setdefault("XLA_FLAGS", _flags)
os.environ.setdefault("MPLBACKEND", "agg")

ROOT = Path(__file__).resolve().parent.parent
# What one test compiled serves the others, in both processes and in the next run.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".pytest_cache" / "jax"))

# A shell's background job ignores Ctrl-C, and so would the commands that tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Before avjax is imported: every call of these checks its arguments' shapes and types, and what it
# returns. Programs are traced but once, so that it costs next to nothing.
install_import_hook(["avjax.models", "avjax.training"], "beartype.beartype")


@pytest.fixture(scope="session")
def root_dir() -> Path:
    """The repository."""
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
    """PyTorch, of which only comparisons make use."""
    return pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch")


@pytest.fixture(scope="session")
def small_networks():
    """Networks with few of the backbone's units, which compile in a fraction of the time.

    A config or card names them by the kinds "small" and "small_video".
    """
    from avjax.models.networks import NETWORKS
    from tests.small_networks import small_network

    with pytest.MonkeyPatch.context() as patch:
        for name, kind in (("small", "audio_visual"), ("small_video", "video")):
            small = functools.partial(small_network, kind)
            patch.setitem(NETWORKS, name, (small, NETWORKS[kind][1]))
        yield
