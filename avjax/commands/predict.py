"""Predicts the emotion in raw clips: ``avjax predict --checkpoint RUN clip.mp4``."""

from absl import flags

from avjax.errors import InputError
from avjax.runtime.signals import loading

RESUMES = False


def define_flags(values: flags.FlagValues, argv: list[str]) -> None:
    """Defines the command's flags."""
    flags.DEFINE_string(
        "checkpoint", None, "A run (its best epoch) or a converted checkpoint.", flag_values=values
    )
    flags.DEFINE_bool(
        "debug", False, "Show the traceback of a clip that fails.", flag_values=values
    )
    flags.DEFINE_bool("json", False, "Print one line of JSON per clip.", flag_values=values)


def job(values: flags.FlagValues, positional: list[str]) -> int:
    """Predicts the emotion in every clip."""
    if not values.checkpoint:
        raise InputError("--checkpoint is missing; name a run or a converted checkpoint")
    if not positional:
        raise InputError("no clip given; name one or more video files")

    with loading():
        from avjax.predict import Model, predict_clips
        from avjax.runtime import compilation

    compilation.keep_compiled_programs()
    return predict_clips(Model.load(values.checkpoint), positional, values.json, values.debug)
