"""What all tests share: the CPU as two devices, and data that only some machines have."""

import os
from pathlib import Path

import pytest

# Before JAX is imported: tests run anywhere alike, what several devices do is testable, and the
# compiler, where most of the tests' time goes, takes about half as long.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0 "
    "--xla_llvm_disable_expensive_passes=true",
)
os.environ.setdefault("MPLBACKEND", "agg")

ROOT = Path(__file__).resolve().parent.parent
# What one test compiled serves the others, in both processes and in the next run.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".pytest_cache" / "jax"))


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
    import functools

    from avjax.models.audio_visual import AudioVisualNet
    from avjax.models.networks import NETWORKS
    from avjax.models.single_modality import VideoNet

    few = {"stage_repeats": (1, 1, 1)}
    with pytest.MonkeyPatch.context() as patch:
        small = functools.partial(AudioVisualNet, **few), ("fusion", "num_heads")
        patch.setitem(NETWORKS, "small", small)
        patch.setitem(NETWORKS, "small_video", (functools.partial(VideoNet, **few), ()))
        yield
