"""Caches where there is no home that can be written."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from avjax.runtime import cache_folder


@pytest.fixture
def environment(monkeypatch, tmp_path):
    """No variables of caches; temporary folders in ``tmp_path``."""
    for name in ("XDG_CACHE_HOME", "MPLCONFIGDIR"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("atexit.register", lambda *arguments: None)
    return monkeypatch


def test_a_home_that_can_be_written_is_used(environment, tmp_path):
    environment.setenv("HOME", str(tmp_path / "new"))
    cache_folder.ensure_cache_folder()
    assert "XDG_CACHE_HOME" not in os.environ
    assert list(tmp_path.iterdir()) == []


def no_home():
    raise RuntimeError("Could not determine home directory.")


@pytest.mark.parametrize("home", ["read-only", "none", "a file"])
def test_without_one_caches_are_temporary_and_that_is_told(environment, tmp_path, home):
    if home == "none":
        environment.setattr(Path, "home", no_home)
    elif home == "a file":
        (tmp_path / "file").touch()
        environment.setenv("HOME", str(tmp_path / "file"))
    else:
        environment.setattr(os, "access", lambda path, mode: False)
    with pytest.warns(UserWarning, match="set XDG_CACHE_HOME to a folder that can be written"):
        cache_folder.ensure_cache_folder()
    folder = Path(os.environ["XDG_CACHE_HOME"])
    assert folder.is_dir() and folder.parent == tmp_path
    assert os.environ["MPLCONFIGDIR"] == str(folder)
    cache_folder._remove(str(folder), os.getpid() + 1)
    assert folder.exists()
    cache_folder._remove(str(folder), os.getpid())
    assert not folder.exists()


def test_numba_finds_a_place_that_it_can_write(root_dir, tmp_path):
    """It caches beside the code or at home, and refuses to import librosa if it can do neither."""
    home, code = tmp_path / "home", tmp_path / "code"
    home.write_text("no folder")
    code.mkdir()
    (code / "cached.py").write_text(
        "import avjax, numba\n"
        "from numba.core import caching\n"
        "caching.InTreeCacheLocator.from_function = lambda *_: None\n"
        "@numba.jit(cache=True)\n"
        "def function():\n"
        "    pass\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", "import cached"],
        cwd=root_dir,
        env={
            **os.environ,
            **{"HOME": str(home), "XDG_CACHE_HOME": "", "TMPDIR": str(tmp_path)},
            "PYTHONPATH": f"{root_dir}:{code}",
        },
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert "set XDG_CACHE_HOME" in result.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"home", "code"}
