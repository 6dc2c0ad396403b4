"""One command for all jobs: ``avjax train ...`` does what ``python -m avjax.train ...`` does."""

import difflib
import importlib
import sys

from avjax import __version__, commands
from avjax.runtime.signals import loading

with loading():
    from absl import flags

    from avjax import cli


def main(argv: list[str] | None = None) -> int:
    """Runs the job that the first argument names, and returns its exit status.

    Args:
      argv: program name, job and the job's arguments; by default those of the process.
    """
    argv = sys.argv if argv is None else argv
    job = argv[1] if len(argv) > 1 else ""
    if job in commands.NAMES:
        return commands.run(job, [f"avjax {job}", *argv[2:]])
    return cli.run(argv[:2], _define_flags, _answer, _usage())


def _define_flags(values: flags.FlagValues) -> None:
    flags.DEFINE_bool("version", False, "Show avjax's version.", flag_values=values)


def _answer(values: flags.FlagValues, positional: list[str]) -> None:
    """Prints the version.

    Raises:
      absl.flags.Error: no job is named, or an unknown one.
    """
    jobs = ", ".join(commands.NAMES)
    if values.version:
        print(f"avjax {__version__}")
    elif not positional:
        raise flags.Error(f"no job is named; choose one of {jobs}, or see avjax --help")
    else:
        close = difflib.get_close_matches(positional[0].lower(), commands.NAMES, 1)
        hint = f" (Did you mean {close[0]}?)" if close else ""
        raise flags.Error(f"unknown job {positional[0]!r}{hint}; choose one of {jobs}")


def _usage() -> str:
    """Lists the jobs, each with the first sentence of its description."""
    with loading():
        modules = {
            name: importlib.import_module(f"avjax.commands.{name}") for name in commands.NAMES
        }
    lines = ["Audio-visual emotion recognition: avjax JOB --help shows a job's flags.", "", "Jobs:"]
    for name, module in modules.items():
        summary = (module.__doc__ or "").splitlines()[0].partition(":")[0].rstrip(".")
        lines.append(f"  {name:10}{summary}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
