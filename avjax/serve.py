"""Serves a page and a JSON endpoint that judge clips with a trained model."""

import sys

from avjax import commands

if __name__ == "__main__":  # before the slow imports
    sys.exit(commands.run("serve"))

import contextlib
import functools
import logging
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path

from avjax.errors import InputError
from avjax.predict import Model
from avjax.runtime.signals import terminable
from avjax.serving.access import check_token
from avjax.serving.app import Server, import_gradio
from avjax.serving.judging import Judging
from avjax.serving.limits import Limits
from avjax.serving.worker import BrokenError

__all__ = ["Limits", "main", "serve"]


def serve(
    checkpoint: str | Path,
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    token: str | None = None,
    limits: Limits = Limits(),
) -> None:
    """Serves until interrupted.

    Args:
      checkpoint: see `avjax.predict.Model.load`.
      host: name or address to listen at; others than loopback need a token.
      port: 0 takes a free one.
      token: what clients must show.
      limits: of clips.

    Raises:
      InputError: no model, no Gradio, no token for this host, or a port that is taken.
    """
    check_token(host, token)
    serve_model(functools.partial(Model.load, checkpoint), host, port, token, limits)


def serve_model(
    load: Callable[[], Judging], host: str, port: int, token: str | None, limits: Limits
) -> None:
    """As `serve`, with a model that ``load`` returns in the worker's process."""
    import_gradio()
    import uvicorn

    class Quiet(uvicorn.Server):
        """Ends without complaint about pages that are still open."""

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
            await super().shutdown(sockets)

    with contextlib.ExitStack() as stack:
        stack.enter_context(terminable())  # SIGTERM must not leave the folder behind
        listening = stack.enter_context(_listen(host, port))
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="avjax-serve-"))
        print("loading and compiling the model", file=sys.stderr)
        try:
            server = Server(load, Path(folder), limits, token)
        except BrokenError as error:
            raise InputError(f"{error}; see the traceback above") from error
        stack.callback(server.worker.close)
        if server.facts.statement:
            print(server.facts.statement, file=sys.stderr)
        shown = f"[{host}]" if ":" in host else host
        print(f"http://{shown}:{listening.getsockname()[1]}/  (Ctrl-C ends)", flush=True)
        config = uvicorn.Config(
            server.app,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=3,
            timeout_keep_alive=5,
            h11_max_incomplete_event_size=32_000,
        )
        Quiet(config).run(sockets=[listening])


def _listen(host: str, port: int) -> socket.socket:
    """Returns a socket that listens."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        raise InputError(
            f"{host}:{port} cannot be served ({error.strerror}); choose another --host or --port"
        ) from error


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; see `avjax.commands.serve`."""
    return commands.run("serve", argv)
