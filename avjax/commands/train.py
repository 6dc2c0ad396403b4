"""Trains a model: ``avjax train --config ia_softhard --workdir RUN``.

The same command resumes the run.
"""

from pathlib import Path

from absl import flags

from avjax import cli
from avjax.commands import config_flag
from avjax.runtime.signals import loading

RESUMES = True


def define_flags(values: flags.FlagValues, argv: list[str]) -> None:
    """Defines the command's flags."""
    config_flag.define(values, argv)
    flags.DEFINE_string(
        "workdir",
        None,
        "Folder of the run (default: runs/<config.name>, such as runs/ia_softhard).",
        flag_values=values,
    )
    cli.define_process_flags(values)


def job(values: flags.FlagValues, positional: list[str]) -> None:
    """Trains and evaluates a model, alone or as one of several processes."""
    cli.no_arguments(positional)
    tree = config_flag.read(values)

    with loading():
        from avjax.config import RunConfig
        from avjax.evaluate import table
        from avjax.runtime import compilation, multihost
        from avjax.train import train

    config = RunConfig.from_tree(tree)
    workdir = Path(values.workdir or f"runs/{config.name}")
    with multihost.joined(**cli.process_flags(values)):
        compilation.keep_compiled_programs()
        evaluation = train(config, workdir)
        if multihost.is_first():
            print(table(evaluation))
            print(f"report: {workdir / 'report.html'}")
