"""The server: endpoint and page in one process, behind one door."""

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from avjax.errors import InputError
from avjax.serving.judging import Facts, Judging
from avjax.serving.limits import Limits

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from avjax.serving.worker import Worker

_INSTALL = "avjax serve needs Gradio 6; install it: pip install 'gradio>=6'"

# Nothing is told to anybody; read when Gradio and huggingface_hub are imported.
_QUIET = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
    "DO_NOT_TRACK": "1",
}


def import_gradio() -> None:
    """Imports Gradio, quietly.

    Raises:
      InputError: it is not installed, or too old.
    """
    os.environ.update(_QUIET)
    try:
        import gradio
    except ImportError as error:
        raise InputError(_INSTALL) from error
    if int(gradio.__version__.partition(".")[0]) < 6:
        raise InputError(f"{_INSTALL} (this is {gradio.__version__})")


class Server:
    """A worker, and the app that hands clips to it.

    Attributes:
      app: an ASGI app.
      facts: of the model.
      worker: judges.
    """

    def __init__(
        self, load: Callable[[], Judging], folder: Path, limits: Limits, token: str | None = None
    ) -> None:
        """Starts a worker and waits until its model is compiled.

        Args:
          load: see `avjax.serving.worker.Worker`.
          folder: an empty folder of its own, for uploads.
          limits: see `Limits`.
          token: what clients must show; None answers to loopback names alone.

        Raises:
          InputError: Gradio is missing, or the model cannot be loaded.
        """
        import_gradio()
        from avjax.serving.guard import Guard
        from avjax.serving.worker import Worker

        self.worker = Worker(load, limits)
        try:
            self.facts = self.worker.start()
            with ThreadPoolExecutor(1) as pool:  # this thread may run a loop already
                made = _app(self.worker, self.facts, limits, folder)
                app = pool.submit(asyncio.run, made).result()
        except BaseException:
            self.worker.close()
            raise
        self.app = Guard(app, limits, folder, token)


async def _app(worker: "Worker", facts: Facts, limits: Limits, folder: Path) -> "ASGIApp":
    """Joins endpoint and page; in a loop, as Gradio otherwise opens several and closes none."""
    os.environ["GRADIO_TEMP_DIR"] = str(folder)  # read when the page is mounted
    import gradio

    from avjax.serving.api import create_api
    from avjax.serving.page import STYLE, THEME, create_page

    return gradio.mount_gradio_app(
        create_api(worker, facts, limits, folder),
        create_page(worker, facts, limits, folder),
        "/",
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        mcp_server=False,
        enable_monitoring=False,
        pwa=False,
        allowed_paths=[],
        max_file_size=limits.upload_bytes,
        show_error=False,
        theme=THEME,
        css=STYLE,
    )
