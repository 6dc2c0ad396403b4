"""Servers for tests, in a thread of this process; their workers are processes."""

import contextlib
import threading
import time

import pytest


@pytest.fixture(scope="session", autouse=True)
def _gradio():
    """Skips every test in this folder without Gradio."""
    pytest.importorskip("gradio", reason="Gradio is not installed: pip install 'gradio>=6'")


@contextlib.contextmanager
def running(app):
    """Serves an app on a free port of the loopback; yields its address."""
    import uvicorn

    config = uvicorn.Config(
        app, port=0, log_level="warning", access_log=False, timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def serve():
    """Returns `running`."""
    return running


@pytest.fixture(scope="module")
def start(tmp_path_factory, serve):
    """Returns a function that starts a server with a model; it ends with the module."""
    from avjax.serving.app import Server

    with contextlib.ExitStack() as stack:

        def start(load, limits, token=None):
            folder = tmp_path_factory.mktemp("uploads")
            server = Server(load, folder, limits, token)
            stack.callback(server.worker.close)
            return stack.enter_context(serve(server.app)), folder

        yield start
