"""Trains and evaluates a config on every fold of a cross-validation.

``avjax crossval --config ia_softhard --workdir RUN --folds msaf6``. Each fold and seed is a run
below the workdir; ``--together`` trains all runs at once. The same command resumes.
"""

from pathlib import Path

from absl import flags

from avjax import cli
from avjax.commands import config_flag
from avjax.errors import InputError
from avjax.runtime.signals import loading

RESUMES = True


def define_flags(values: flags.FlagValues, argv: list[str]) -> None:
    """Defines the command's flags."""
    config_flag.define(values, argv)
    flags.DEFINE_string(
        "workdir",
        None,
        "Folder of the runs (default: runs/<config name>-<folds>).",
        flag_values=values,
    )
    flags.DEFINE_string(
        "folds",
        None,
        "msaf6, five, published or another named fold; leave_one_out (one actor, or group of your "
        "own clips, in each fold); a number of folds, such as 5, over actors or groups; folds in "
        "words, with | between them; config: those in config.data.folds.",
        flag_values=values,
    )
    flags.DEFINE_list(
        "seeds", None, "Seeds, such as 0,1,2 (default: the config's).", flag_values=values
    )
    flags.DEFINE_bool(
        "together", False, "Train all runs at once, as one vmapped program.", flag_values=values
    )


def job(values: flags.FlagValues, positional: list[str]) -> None:
    """Cross-validates a config."""
    cli.no_arguments(positional)
    if not values.folds:
        raise InputError(
            "--folds is missing; name msaf6, five, leave_one_out, a number of folds, config, "
            "published or another fold"
        )
    try:
        seeds = None if values.seeds is None else [int(seed) for seed in values.seeds]
    except ValueError as error:
        raise InputError(f"--seeds={','.join(values.seeds)} are not whole numbers") from error
    tree = config_flag.read(values)

    with loading():
        from avjax.config import RunConfig
        from avjax.crossval import SUMMARY_FILE, cross_validate, table
        from avjax.runtime import compilation

    config = RunConfig.from_tree(tree)
    compilation.keep_compiled_programs()
    folds = "words" if ":" in values.folds else values.folds.replace("/", "-")
    workdir = Path(values.workdir or f"runs/{config.name}-{folds}")
    summary = cross_validate(config, workdir, values.folds, seeds, together=values.together)
    print(table(summary))
    print(f"summary: {workdir / SUMMARY_FILE}")
