"""Command lines: exit statuses and one-line errors."""

import errno
import gc
import os
import subprocess
import sys
import time

import pytest
from absl import flags
from ml_collections import config_flags

from avjax import cli
from avjax.errors import InputError
from avjax.runtime.signals import Terminated


def define_flags(values):
    flags.DEFINE_integer("number", 1, "A number.", flag_values=values)


def run(job, *arguments, **options):
    return cli.run(["program", *arguments], define_flags, job, "What it does.", **options)


def raises(error):
    def job(values, positional):
        raise error

    return job


def test_job_gets_flags_and_positional_arguments():
    received = []
    assert (
        run(lambda values, args: received.append((values.number, args)), "a", "--number=3", "b")
        == 0
    )
    assert received == [(3, ["a", "b"])]


def test_flags_may_have_dashes():
    def define(values):
        flags.DEFINE_string("out_dir", "", "A folder.", flag_values=values)

    received = []
    argv = ["program", "--out-dir=a-b", "left-alone", "--", "--a-file"]
    cli.run(argv, define, lambda values, args: received.append((values.out_dir, args)))
    assert received == [("a-b", ["left-alone", "--a-file"])]


def test_result_of_the_job_is_the_exit_status():
    assert run(lambda values, args: 1) == 1


def test_flags_are_not_global():
    run(lambda values, args: None)
    assert "number" not in flags.FLAGS


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (InputError("no file\n  x.mp4"), 1, "error: no file x.mp4\n"),
        (OSError(errno.ENOSPC, "No space left on device", "/full/x"), 1, "/full/x"),
        (OSError(errno.EROFS, "Read-only file system"), 1, "Read-only file system"),
        (KeyboardInterrupt(), 130, "error: interrupted\n"),
        (Terminated(), 143, "error: interrupted\n"),
    ],
)
def test_errors_are_one_line(error, status, message, capsys):
    assert run(raises(error)) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_interrupted_command_says_that_it_resumes(capsys):
    assert run(raises(KeyboardInterrupt()), resumes=True) == 130
    error = capsys.readouterr().err
    assert error == "error: interrupted; the same command resumes\n"


def test_ctrl_c_in_a_callback_is_not_lost(capsys):
    """Python ignores exceptions in callbacks, such as JAX's at garbage collection."""

    def interrupt(phase, info):
        gc.callbacks.remove(interrupt)
        raise KeyboardInterrupt

    def job(values, positional):
        gc.callbacks.append(interrupt)
        gc.collect()
        time.sleep(10)

    assert run(job) == 130
    assert capsys.readouterr().err == "error: interrupted\n"


@pytest.mark.parametrize("argument", ["--unknown=1", "--number=many"])
def test_flags_that_cannot_be_parsed_are_refused(argument, capsys):
    assert run(lambda values, args: None, argument) == 2
    assert argument.split("=")[0].strip("-") in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # ml_collections
@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("batch_siz", "unknown config key 'batch_siz' (Did you mean batch_size?)"),
        ("model.zzz", "unknown config key 'zzz';"),
    ],
)
def test_unknown_config_key_is_a_one_line_error(key, message, tmp_path, capsys, monkeypatch):
    file = tmp_path / "small.py"
    file.write_text(
        "from ml_collections import ConfigDict\n"
        "def get_config(): return ConfigDict({'batch_size': 8, 'model': {'heads': 1}})\n"
    )

    def define(values):
        config_flags.DEFINE_config_file("config", flag_values=values)

    argv = ["program", f"--config={file}", f"--config.{key}=1"]
    monkeypatch.setattr("sys.argv", argv)  # read by config flags
    assert cli.run(argv, define, raises(AssertionError("the job ran"))) == 1
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("error", [ValueError("bug"), OSError(errno.ENOENT, "gone")])
def test_bugs_keep_their_traceback(error):
    with pytest.raises(type(error)):
        run(raises(error))


def test_help_shows_description_and_flags(capsys):
    assert run(raises(AssertionError("the job ran")), "--help") == 0
    assert capsys.readouterr().out == (
        "What it does.\n\n"
        "Flags:\n"
        "  --number: A number. (an integer; default: 1)\n"
        "  --help: Show this help.\n"
    )


def test_help_needs_no_required_flags(capsys):
    def define(values):
        flags.DEFINE_string("out", None, "A folder.", required=True, flag_values=values)

    assert cli.run(["program", "-h"], define, raises(AssertionError("the job ran"))) == 0
    assert "--out: A folder." in capsys.readouterr().out


def test_what_an_encoding_lacks_is_printed_escaped(root_dir):
    code = (
        "import sys\n"
        "from avjax import cli\n"
        "from avjax.errors import InputError\n"
        "def job(values, positional):\n"
        "    print('caf\\xe9 \\udce9')\n"
        "    raise InputError('\\u4e2d.mp4 is missing')\n"
        "sys.exit(cli.run(['program'], lambda values: None, job))\n"
    )
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=root_dir, env=environment, capture_output=True
    )
    assert result.returncode == 1
    assert result.stdout == b"caf\\xe9 \\udce9\n"
    assert result.stderr == b"error: \\u4e2d.mp4 is missing\n"
