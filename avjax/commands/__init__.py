"""Command lines: each module's docstring, flags and job make up one command.

Jobs import slow modules only after the flags are parsed. So ``--help`` and wrong flags are answered
at once, and Ctrl-C during start-up prints one line.
"""

import atexit
import functools
import gc
import importlib
import sys

from avjax.runtime.signals import loading

NAMES = (
    "download",
    "prepare",
    "train",
    "evaluate",
    "crossval",
    "report",
    "compare",
    "predict",
    "serve",
    "export",
)  # in the order of use


def run(name: str, argv: list[str] | None = None) -> int:
    """Runs the command ``avjax <name>``, also known as ``python -m avjax.<name>``.

    Args:
      name: one of `NAMES`, a module in this package.
      argv: program name and arguments; by default those of the process.

    Returns:
      The exit status, see `avjax.cli.run`.
    """
    atexit.register(gc.freeze)  # spares the last garbage collection, which takes half a second
    with loading():
        from avjax import cli

        command = importlib.import_module(f"avjax.commands.{name}")
    argv = cli.underscored(sys.argv if argv is None else argv)
    define_flags = functools.partial(command.define_flags, argv=argv)
    usage = command.__doc__ or ""
    return cli.run(argv, define_flags, command.job, usage, resumes=command.RESUMES)
