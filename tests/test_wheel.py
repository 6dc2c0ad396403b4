"""A wheel holds all that the command needs, in any folder."""

import os
import subprocess
import sys

import pytest

COMMON = "from configs import common\nprint(common.__file__)\n"


@pytest.fixture(scope="module")
def site(root_dir, tmp_path_factory):
    """A folder with avjax installed from a wheel, without the libraries that it needs."""
    pytest.importorskip("hatchling", reason="hatchling is not installed: pip install hatchling")
    site = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    command = [*pip, "--no-build-isolation", "--target", site, root_dir]
    subprocess.run(command, check=True)
    return site


@pytest.fixture
def run(site, tmp_path):
    """Runs the installed command in an empty folder."""

    def run(*arguments):
        environment = {**os.environ, "PYTHONPATH": str(site)}
        command = [sys.executable, site / "bin" / "avjax", *arguments]
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True
        )

    return run


def test_wheel_adds_one_package_and_one_command(site):
    assert {path.name for path in site.iterdir() if path.suffix != ".dist-info"} == {"avjax", "bin"}
    assert [path.name for path in (site / "bin").iterdir()] == ["avjax"]


def test_wheel_carries_the_clips_of_the_page(site):
    assert len(list((site / "avjax" / "serving" / "examples").glob("*.mp4"))) == 4


def test_jobs_and_configs_are_listed(run, site):
    assert "\n  train     Trains a model\n" in run("--help").stdout
    text = run("train", "--config", "ia_softhard", "--help").stdout
    assert "ia_softhard" in text and str(site / "avjax" / "configs") in text


def test_the_voice_model_is_carried(site):
    folder = site / "avjax" / "pretrained" / "voice"
    assert {path.name for path in folder.iterdir()} == {"LICENSE", "README.md", "model.safetensors"}


def test_configs_by_name_and_by_path(run, site, tmp_path):
    configs = site / "avjax" / "configs"
    (tmp_path / "mine.py").write_text(COMMON + "def get_config(): return common.get_config('mine')")
    result = run("train", "--config=mine.py", "--config.batch_siz=1")
    assert result.stdout.strip() == str(configs / "common.py")
    assert "unknown config key 'batch_siz'" in result.stderr
    result = run("train", f"--config={configs / 'ia_noise.py'}", "--config.batch_siz=1")
    assert "unknown config key 'batch_siz'" in result.stderr
    assert "audio_only, audio_only_strong, demo" in run("train", "--config=ia_sofhard").stderr


def test_a_job_runs(run):
    result = run("train", "--config", "ia_softhard", "--config.data.dir=nowhere")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("error: ") and "nowhere" in result.stderr
