"""A slow local server of a download's archives, for jobs that are killed while they fetch them."""

import contextlib
import hashlib
import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from avjax.preparation.transfer import RemoteFile
from avjax.preparation.zenodo import Record


@contextlib.contextmanager
def served(contents: Mapping[str, bytes], actors: Sequence[int]) -> Iterator[Record]:
    """Serves files slowly, by a child, since a process with threads should not fork."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = contents[self.path[1:]]
            start = int(self.headers.get("Range", "bytes=0-")[6:-1])
            self.send_response(206 if start else 200)
            if start:
                self.send_header(
                    "Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}"
                )
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            with contextlib.suppress(ConnectionError):
                for first in range(start, len(content), 1 << 16):
                    self.wfile.write(content[first : first + (1 << 16)])
                    time.sleep(0.002)

        def log_message(self, *_: Any) -> None:
            """Logs nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    process = os.fork()
    if not process:
        server.serve_forever()

    def remote(name: str) -> RemoteFile:
        url = f"http://127.0.0.1:{server.server_port}/{name}"
        return RemoteFile(name, url, len(contents[name]), hashlib.md5(contents[name]).hexdigest())

    try:
        yield Record(remote("audio.zip"), 1000, {a: remote(f"{a}.zip") for a in actors})
    finally:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        server.server_close()
