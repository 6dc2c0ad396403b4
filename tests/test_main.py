"""One command for all jobs: ``avjax train``."""

import subprocess
import sys

import pytest

import avjax
from avjax import commands
from avjax.__main__ import main


def test_help_lists_the_jobs_in_a_line_each(capsys):
    assert main(["avjax", "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    listed = [line.split()[0] for line in lines if line.startswith("  ") and "--" not in line]
    assert listed == list(commands.NAMES)
    assert "  predict   Predicts the emotion in raw clips" in lines
    assert max(map(len, lines)) <= 100


def test_help_and_unknown_jobs_import_no_heavy_library(root_dir):
    code = (
        "import sys\nfrom avjax.__main__ import main\n"
        "assert main(['avjax', '--help']) == 0 and main(['avjax', 'x']) == 2\n"
        "print({'jax', 'flax', 'librosa', 'tensorflow_datasets', 'cv2'} & set(sys.modules))\n"
    )
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=root_dir, check=True, capture_output=True, text=True)
    assert result.stdout.splitlines()[-1] == "set()"


def test_version(capsys):
    assert main(["avjax", "--version"]) == 0
    assert capsys.readouterr().out == f"avjax {avjax.__version__}\n"


@pytest.mark.parametrize("name", commands.NAMES)
def test_help_of_a_job_is_that_of_its_module(name, capsys):
    assert commands.run(name, [name, "--help"]) == 0
    expected = capsys.readouterr().out
    assert main(["avjax", name, "--help"]) == 0
    assert capsys.readouterr().out == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "unknown job 'trian' (Did you mean train?); choose one of download, prepare,"),
        (["Predict", "clip.mp4"], "(Did you mean predict?)"),
        (["zzz"], "unknown job 'zzz'; choose one of download, prepare, train, evaluate,"),
        ([], "no job is named; choose one of download, prepare, train, evaluate,"),
        (["--verison"], "Did you mean: version"),
    ],
)
def test_an_unknown_job_is_one_line_and_status_2(arguments, message, capsys):
    assert main(["avjax", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ") and err.count("\n") == 1
    assert message in err


def test_a_job_has_the_status_and_the_message_of_its_module(capsys):
    assert main(["avjax", "train"]) == 1
    assert "--config is missing" in capsys.readouterr().err
    assert main(["avjax", "train", "--workdri=x"]) == 2


def test_python_m_avjax_is_the_command(root_dir):
    command = [sys.executable, "-m", "avjax", "evaluate"]
    result = subprocess.run(command, cwd=root_dir, capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr.startswith("error: give either --workdir RUN")
