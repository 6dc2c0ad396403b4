"""Predicts the emotion in raw clips: ``avjax predict clip.mp4 --checkpoint RUN``.

Without ``--checkpoint``, the carried model ``voice`` listens to the sound alone.
"""

import sys

from absl import flags

from avjax.errors import InputError
from avjax.runtime.signals import loading

RESUMES = False


def define_flags(values: flags.FlagValues, argv: list[str]) -> None:
    """Defines the command's flags."""
    flags.DEFINE_string(
        "checkpoint",
        "voice",
        "A run (its best epoch), a converted checkpoint, or a model that avjax carries.",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "debug", False, "Show the traceback of a clip that fails.", flag_values=values
    )
    flags.DEFINE_bool("json", False, "Print one line of JSON per clip.", flag_values=values)


def job(values: flags.FlagValues, positional: list[str]) -> int:
    """Predicts the emotion in every clip."""
    if not positional:
        raise InputError("no clip given; name one or more video files")

    with loading():
        from avjax.predict import Model, predict_clips
        from avjax.runtime import compilation

    compilation.keep_compiled_programs()
    model = Model.load(values.checkpoint)
    if model.card.about:
        print(model.card.statement, file=sys.stderr)
    return predict_clips(model, positional, values.json, values.debug)
