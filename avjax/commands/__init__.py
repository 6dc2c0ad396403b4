"""The command lines: a module for each, whose docstring, flags and job are the command.

They import nothing that takes time: once the flags are read, a job imports what does its work. So
``--help`` and mistakes are answered at once, and Ctrl-C ends a start in one line.
"""

import functools
import importlib
import sys

from avjax.runtime.signals import loading


def run(name: str, argv: list[str] | None = None) -> int:
    """Runs the command ``python -m avjax.<name>``.

    Args:
      name: of a module here.
      argv: program name and arguments; by default the process's.

    Returns:
      The exit status, see `avjax.cli.run`.
    """
    with loading():
        from avjax import cli

        command = importlib.import_module(f"avjax.commands.{name}")
    argv = cli.underscored(sys.argv if argv is None else argv)
    define_flags = functools.partial(command.define_flags, argv=argv)
    usage = command.__doc__ or ""
    return cli.run(argv, define_flags, command.job, usage, resumes=command.RESUMES)
