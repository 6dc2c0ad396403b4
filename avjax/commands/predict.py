"""Predicts the emotion in raw clips: ``avjax predict clip.mp4 --checkpoint RUN``.

Without ``--checkpoint``, the carried model ``voice`` listens to the sound alone. A folder
stands for the media files below it. Files of any length: windows of the model's length slide over a
long one.
"""

from pathlib import Path

from absl import flags

from avjax.errors import InputError
from avjax.runtime.signals import loading

RESUMES = False
_OUTPUTS = ("csv", "plot", "annotate")


def define_flags(values: flags.FlagValues, argv: list[str]) -> None:
    """Defines the command's flags."""

    def text(name: str, help_: str) -> None:
        flags.DEFINE_string(name, None, help_, flag_values=values)

    flags.DEFINE_string(
        "checkpoint",
        "voice",
        "A run (its best epoch), a converted checkpoint, or a model that avjax carries.",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "debug", False, "Show the traceback of a clip that fails.", flag_values=values
    )
    flags.DEFINE_float(
        "hop",
        None,
        "Seconds from one window to the next, a multiple of a frame's share of a window; by "
        "default about half a window.",
        flag_values=values,
    )
    flags.DEFINE_bool("json", False, "Print one line of JSON per clip.", flag_values=values)
    text("csv", "Table to write: a row per window (.csv, or .tsv with tabs).")
    text("plot", "Figure to write: probabilities over time (.png, .svg, .pdf, .jpg).")
    text("annotate", "Video to write: the clip with face box, label and bars (.mp4).")


def job(values: flags.FlagValues, positional: list[str]) -> int:
    """Predicts the emotion in every clip."""
    if not positional:
        raise InputError("no clip given; name one or more video or sound files")

    with loading():
        from avjax.predict import predict_files
        from avjax.runtime import compilation

    compilation.keep_compiled_programs()
    return predict_files(
        values.checkpoint,
        positional,
        hop=values.hop,
        as_json=values.json,
        outputs={name: Path(values[name].value) for name in _OUTPUTS if values[name].value},
        debug=values.debug,
    )
