"""Evaluates a model under every condition: ``avjax evaluate --workdir RUN``.

For a converted checkpoint: ``--checkpoint MODEL --data DATA --fold published``. Figures and each
clip's probabilities go to the run's evaluation.json and .csv, or to ``MODEL-evaluation.json``
beside the checkpoint; of another split than test, to ``evaluation_<split>.json``.
"""

import os
from pathlib import Path

from absl import flags

from avjax import cli
from avjax.errors import InputError
from avjax.runtime.signals import loading

RESUMES = False


def define_flags(values: flags.FlagValues, argv: list[str]) -> None:
    """Defines the command's flags."""
    flags.DEFINE_string("workdir", None, "A run; evaluates its best epoch.", flag_values=values)
    flags.DEFINE_string("checkpoint", None, "A converted checkpoint.", flag_values=values)
    flags.DEFINE_string("data", None, "Prepared dataset, with --checkpoint.", flag_values=values)
    flags.DEFINE_string("fold", "published", "Fold, with --checkpoint.", flag_values=values)
    flags.DEFINE_bool(
        "video_only", False, "Include clips without sound, with --checkpoint.", flag_values=values
    )
    flags.DEFINE_string("split", "test", "Split: train, validation or test.", flag_values=values)
    flags.DEFINE_string(
        "out",
        None,
        "JSON file to write, with --checkpoint; a CSV file goes beside it (default: "
        "<checkpoint>-evaluation.json).",
        flag_values=values,
    )


def job(values: flags.FlagValues, positional: list[str]) -> None:
    """Evaluates a run or a checkpoint and prints the scores."""
    cli.no_arguments(positional)
    if bool(values.workdir) == bool(values.checkpoint):
        raise InputError("give either --workdir RUN, or --checkpoint PATH with --data DATA")
    if values.checkpoint and not values.data:
        raise InputError("--checkpoint needs --data DATA, the prepared clips to evaluate it on")
    if values.workdir and values.out:
        raise InputError("--out goes with --checkpoint; a run's evaluation is kept in its folder")
    if values.out and not values.out.endswith(".json"):
        raise InputError(f"--out={values.out} is no .json file; name one, the CSV goes beside it")

    with loading():
        from avjax.evaluate import evaluate_checkpoint, evaluate_run, table
        from avjax.runs.evaluation_file import check_replaceable, evaluation_name, write_evaluation
        from avjax.runtime import compilation

    compilation.keep_compiled_programs()
    if values.workdir:
        evaluation = evaluate_run(Path(values.workdir), values.split)
        file = Path(values.workdir) / evaluation_name(values.split)
    else:
        checkpoint = Path(values.checkpoint)
        file = Path(values.out or _beside(checkpoint, evaluation_name(values.split)))
        check_replaceable(file)
        evaluation = evaluate_checkpoint(
            values.checkpoint, values.data, values.fold, values.split, video_only=values.video_only
        )
        source = {"checkpoint": str(checkpoint), "data": values.data, "fold": values.fold}
        write_evaluation(file, source | evaluation)
    print(table(evaluation))
    print(f"evaluation: {file}, clips: {file.with_suffix('.csv')}")


def _beside(checkpoint: Path, name: str) -> str:
    """Returns a file beside the checkpoint, relative if the checkpoint was given so."""
    path = f"{checkpoint.resolve()}-{name}"  # of "." and "..", too
    return path if checkpoint.is_absolute() else os.path.relpath(path)
