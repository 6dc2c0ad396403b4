"""What every command line of avjax shares: flags without global state, one-line errors."""

import errno
import io
import os
import re
import sys
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags, logging

from avjax.errors import InputError
from avjax.runtime.signals import (
    INTERRUPT_STATUS,
    TERMINATION_STATUS,
    Terminated,
    unlosable_interrupts,
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
      job: called with the parsed flags and the positional arguments; its result is the status
        (None means 0).
      usage: printed above the flags by ``--help``.
      resumes: whether the same command, once interrupted, goes on from there.

    Returns:
      0 on success, 1 for an `InputError` or a full disk, 2 for flags that cannot be parsed,
      130 when interrupted (143 by a termination signal), 141 when nobody reads the output any
      more. Any other exception is a bug and propagates with its traceback.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # names may hold what a terminal cannot show
        sys.stdout.reconfigure(errors="backslashreplace")
    values = flags.FlagValues()
    flags.DEFINE_bool("help", False, "Show this help.", short_name="h", flag_values=values)
    logging.set_verbosity(logging.WARNING)
    try:
        define_flags(values)
        positional = _parse(values, underscored(sys.argv if argv is None else argv))
        if values["help"].value:
            print(_help(usage, values))
            return 0
        with unlosable_interrupts():
            return job(values, positional) or 0
    except flags.Error as error:
        return _fail(error, USAGE_STATUS)
    except InputError as error:
        return _fail(error, INPUT_STATUS)
    except BrokenPipeError:  # the reader, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE_STATUS
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
            raise
        where = f" ({error.filename})" if error.filename else ""
        return _fail(f"{error.strerror}{where}; free space or choose another place", INPUT_STATUS)
    except KeyboardInterrupt as interrupt:
        status = TERMINATION_STATUS if isinstance(interrupt, Terminated) else INTERRUPT_STATUS
        more = "; the same command again goes on from here" if resumes else ""
        return _fail(f"interrupted{more}", status)


def no_arguments(positional: Sequence[str]) -> None:
    """Raises InputError for what is no flag, in a command that has flags alone."""
    if positional:
        raise InputError(f"unexpected argument {positional[0]!r}; see --help")


def _help(usage: str, values: flags.FlagValues) -> str:
    """Usage and every flag, those of several processes apart."""
    changes = [name for name in values if "." in name]  # of a config, as given in this very call
    own = [n for n in values if n not in (*_PROCESS_FLAGS, *changes, "help", "h")]
    lines = [usage.replace("``", "").strip(), "", "Flags:"]
    lines += [_explained(values[name]) for name in [*own, "help"]]
    if _PROCESS_FLAGS[0] in values:
        lines += ["", "Flags of several processes that train one run:"]
        lines += [_explained(values[name]) for name in _PROCESS_FLAGS]
    return "\n".join(lines).strip()


def _explained(flag: flags.Flag) -> str:
    """A flag's lines: its name, what it is for, what values it takes, its default."""
    notes = [flag.parser.syntactic_help] if flag.parser.syntactic_help else []
    if flag.default not in (None, False, ""):
        notes.append(f"default: {flag.default}")
    name = f"--[no]{flag.name}" if flag.boolean and flag.default else f"--{flag.name}"
    text = f"{name}: {flag.help}" + (f" ({'; '.join(notes)})" if notes else "")
    return _HELP.fill(text)


def _parse(values: flags.FlagValues, argv: list[str]) -> list[str]:
    """Parses flags, those that change a config's values among them; returns the positional ones."""
    try:
        return values(argv)[1:]
    except flags.Error:
        if values["help"].value:  # as it was asked for, whatever is missing or wrong
            return []
        raise
    except (AttributeError, KeyError) as error:  # what ConfigDict makes of an unknown key
        key, *hint = re.findall(r"\w+(?:[ \w]+\w)?", str(error).replace("\\n", "\n"))
        suffix = f" ({hint[0]} {hint[1]}?)" if len(hint) > 1 else ""
        raise InputError(
            f"unknown config key {key!r}{suffix}; the config file names those that exist"
        ) from error


def underscored(argv: Sequence[str]) -> list[str]:
    """Lets flags be written ``--num-frames``, too: absl knows only ``--num_frames``."""

    def flag(argument: str) -> str:
        if not argument.startswith("--"):
            return argument
        name, equals, value = argument.partition("=")
        return "--" + name[2:].replace("-", "_") + equals + value

    end = list(argv).index("--") if "--" in argv else len(argv)
    return [*map(flag, argv[:end]), *argv[end:]]


def _fail(message: object, status: int) -> int:
    """Prints the message on one line of standard error and returns ``status``."""
    print("error: " + " ".join(str(message).split()), file=sys.stderr)
    return status


def define_process_flags(values: flags.FlagValues) -> None:
    """Defines the flags of a command that several processes may run together."""
    flags.DEFINE_bool(
        "distributed",
        False,
        "This is one of several processes that SLURM, Open MPI, Kubernetes or a TPU slice started.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "coordinator",
        None,
        "HOST:PORT of the first of several processes that were started by hand, with "
        "--num_processes and --process_id.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "num_processes", None, "How many, with --coordinator.", lower_bound=1, flag_values=values
    )
    flags.DEFINE_integer(
        "process_id",
        None,
        "Which one, from 0, with --coordinator.",
        lower_bound=0,
        flag_values=values,
    )


def process_flags(values: flags.FlagValues) -> dict[str, Any]:
    """Their values, as arguments of `avjax.runtime.multihost.joined`."""
    return {name: values[name].value for name in _PROCESS_FLAGS}
