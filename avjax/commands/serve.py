"""Serves a page and a JSON endpoint for clips: ``avjax serve --checkpoint RUN``.

The page takes a clip by upload, webcam or microphone. ``curl -F clip=@clip.mp4
http://127.0.0.1:7860/api/predict`` answers like ``avjax predict --json``. Needs Gradio 6: ``pip
install 'gradio>=6'``.
"""

import os

from absl import flags

from avjax import cli
from avjax.errors import InputError
from avjax.runtime.signals import loading

RESUMES = False


def define_flags(values: flags.FlagValues, argv: list[str]) -> None:
    """Defines the command's flags."""

    def text(name: str, default: str | None, help_: str) -> None:
        flags.DEFINE_string(name, default, help_, flag_values=values)

    text(
        "checkpoint",
        "voice",
        "A run (its best epoch), a converted checkpoint, or a model that avjax carries.",
    )
    text("host", "127.0.0.1", "Address to listen at; others than loopback need a token.")
    flags.DEFINE_integer("port", 7860, "Port; 0 takes a free one.", 0, 65535, flag_values=values)
    text("token", None, "What clients must show, 16 characters or more; default: $AVJAX_TOKEN.")


def job(values: flags.FlagValues, positional: list[str]) -> None:
    """Serves until interrupted."""
    cli.no_arguments(positional)
    if not values.host:
        raise InputError("--host is empty; name an address such as 127.0.0.1")
    with loading():
        from avjax.serve import serve

    token = values.token or os.environ.get("AVJAX_TOKEN") or None
    serve(values.checkpoint, host=values.host, port=values.port, token=token)
