"""Shared by all command lines: flags without global state, one-line errors."""

import io
import os
import re
import sys
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags, logging

from avjax.errors import DISK_ERRORS, InputError
from avjax.runtime.signals import (
    INTERRUPT_STATUS,
    TERMINATION_STATUS,
    Terminated,
    repeat_lost_interrupts,
    terminable,
)

USAGE_STATUS = 2
INPUT_STATUS = 1
BROKEN_PIPE_STATUS = 141  # as shells report it

_HELP = textwrap.TextWrapper(100, "  ", "      ", break_long_words=False, break_on_hyphens=False)
_PROCESS_FLAGS = ("distributed", "coordinator", "num_processes", "process_id")


def run(
    argv: Sequence[str] | None,
    define_flags: Callable[[flags.FlagValues], None],
    job: Callable[[flags.FlagValues, list[str]], int | None],
    usage: str = "",
    *,
    resumes: bool = False,
) -> int:
    """Parses ``argv`` (default: the process's arguments), runs ``job``, returns the exit status.

    Args:
      argv: program name followed by its arguments.
      define_flags: defines the command's flags on the `FlagValues` it is given.
      job: called with the parsed flags and positional arguments; returns the exit status, or None
        for 0.
      usage: printed above the flags by ``--help``.
      resumes: whether the same command resumes after an interruption.

    Returns:
      0 on success, 1 for an `InputError` or a full disk, 2 for invalid flags, 130 when interrupted
      (143 by a termination signal), 141 for a broken pipe. Any other exception is a bug and
      propagates with its traceback.
    """
    values = flags.FlagValues()
    flags.DEFINE_bool("help", False, "Show this help.", short_name="h", flag_values=values)
    logging.set_verbosity(logging.WARNING)
    _print_anything()
    try:
        define_flags(values)
        positional = _parse(values, underscored(sys.argv if argv is None else argv))
        if values["help"].value:
            print(_help(usage, values))
            return 0
        with terminable(), repeat_lost_interrupts():
            return job(values, positional) or 0
    except flags.Error as error:
        return _fail(error, USAGE_STATUS)
    except InputError as error:
        return _fail(error, INPUT_STATUS)
    except BrokenPipeError:  # the reader, such as head, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE_STATUS
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        where = f" ({error.filename})" if error.filename else ""
        return _fail(f"{error.strerror}{where}; free space or choose another place", INPUT_STATUS)
    except KeyboardInterrupt as interrupt:
        status = TERMINATION_STATUS if isinstance(interrupt, Terminated) else INTERRUPT_STATUS
        hint = "; the same command resumes" if resumes else ""
        return _fail(f"interrupted{hint}", status)


def _print_anything() -> None:
    """Escapes characters that a terminal's encoding lacks, such as those in file names."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def no_arguments(positional: Sequence[str]) -> None:
    """Raises InputError for positional arguments."""
    if positional:
        raise InputError(f"unexpected argument {positional[0]!r}; see --help")


def _help(usage: str, values: flags.FlagValues) -> str:
    """Formats usage and flags, with the process flags last."""
    overrides = [name for name in values if "." in name]  # --config.KEY flags of this call
    names = [n for n in values if n not in (*_PROCESS_FLAGS, *overrides, "help", "h")]
    lines = [usage.replace("``", "").strip(), "", "Flags:"]
    lines += [_format_flag(values[name]) for name in [*names, "help"]]
    if _PROCESS_FLAGS[0] in values:
        lines += ["", "Flags for training with several processes:"]
        lines += [_format_flag(values[name]) for name in _PROCESS_FLAGS]
    return "\n".join(lines).strip()


def _format_flag(flag: flags.Flag) -> str:
    """Formats a flag: its name, help, accepted values and default."""
    notes = [flag.parser.syntactic_help] if flag.parser.syntactic_help else []
    if flag.default not in (None, False, ""):
        notes.append(f"default: {flag.default}")
    name = f"--[no]{flag.name}" if flag.boolean and flag.default else f"--{flag.name}"
    text = f"{name}: {flag.help}" + (f" ({'; '.join(notes)})" if notes else "")
    return _HELP.fill(text)


def _parse(values: flags.FlagValues, argv: list[str]) -> list[str]:
    """Parses flags, including --config.KEY=VALUE; returns the positional arguments."""
    try:
        return values(argv)[1:]
    except flags.Error:
        if values["help"].value:  # show help despite the error
            return []
        raise
    except (AttributeError, KeyError) as error:  # ConfigDict's error for an unknown key
        key, *hint = re.findall(r"\w+(?:[ \w]+\w)?", str(error).replace("\\n", "\n"))
        suffix = f" ({hint[0]} {hint[1]}?)" if len(hint) > 1 else ""
        raise InputError(
            f"unknown config key {key!r}{suffix}; see the config file for the keys"
        ) from error


def underscored(argv: Sequence[str]) -> list[str]:
    """Rewrites ``--num-frames`` as ``--num_frames``, the only form that absl accepts."""

    def flag(argument: str) -> str:
        if not argument.startswith("--"):
            return argument
        name, equals, value = argument.partition("=")
        return "--" + name[2:].replace("-", "_") + equals + value

    end = list(argv).index("--") if "--" in argv else len(argv)
    return [*map(flag, argv[:end]), *argv[end:]]


def _fail(message: object, status: int) -> int:
    """Prints the message as one line on standard error; returns ``status``."""
    print("error: " + " ".join(str(message).split()), file=sys.stderr)
    return status


def define_process_flags(values: flags.FlagValues) -> None:
    """Defines the flags of a command that several processes can run together."""
    flags.DEFINE_bool(
        "distributed",
        False,
        "This is one of several processes started by SLURM, Open MPI, Kubernetes or a TPU slice.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "coordinator",
        None,
        "HOST:PORT of the first of several processes started by hand, with --num_processes and "
        "--process_id.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "num_processes",
        None,
        "Number of processes, with --coordinator.",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_integer(
        "process_id",
        None,
        "Index of this process, from 0, with --coordinator.",
        lower_bound=0,
        flag_values=values,
    )


def process_flags(values: flags.FlagValues) -> dict[str, Any]:
    """Returns the process flags as arguments of `avjax.runtime.multihost.joined`."""
    return {name: values[name].value for name in _PROCESS_FLAGS}
