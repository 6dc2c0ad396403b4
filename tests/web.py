"""A web server on this machine whose faults a test chooses."""

import hashlib
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

from avjax.preparation.transfer import Patience, RemoteFile

QUICK = Patience(attempts=3, pause=0.0, timeout=5.0)
FULL, NO_RANGE = "", "no range"  # as asked for; from the beginning whatever was asked for
CUT, WRONG = "cut", "wrong"  # half of what was promised; as many other bytes
CUT_NO_RANGE = "cut, no range"
SHORT, QUIET_SHORT = "short", "quiet short"  # half, honestly announced; with no length announced
LONG, MISPLACED = "long", "misplaced"  # too much, no length announced; another part than asked for


class Server:
    """Serves bytes by name; each request meets the next fault of its file, then none.

    Attributes:
      faults: by name, what the requests meet: one of the constants above, a status such as 503, or
        a function that is called after half of the bytes, which then drip until the client goes.
      requests: name and Range header of each request so far.
    """

    def __init__(self) -> None:
        self.contents: dict[str, bytes] = {}
        self.faults: dict[str, Iterator[str | int | Callable[[], None]]] = defaultdict(
            lambda: iter(())
        )
        self.requests: list[tuple[str, str | None]] = []
        handler = type("BoundHandler", (_Handler,), {"site": self})
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._http.daemon_threads = False  # so that closing waits for them
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def add(self, name: str, content: bytes) -> RemoteFile:
        """Serves a file, and says what a client should know of it."""
        self.contents[name] = content
        url = f"http://127.0.0.1:{self._http.server_port}/{name}"
        return RemoteFile(name, url, len(content), hashlib.md5(content).hexdigest())

    def ranges(self, name: str) -> list[str | None]:
        return [wanted for asked, wanted in self.requests if asked == name]


class _Handler(BaseHTTPRequestHandler):
    site: Server

    def do_GET(self) -> None:
        name, wanted = self.path[1:], self.headers["Range"]
        self.site.requests.append((name, wanted))
        fault = next(self.site.faults[name], FULL)
        content = self.site.contents[name]
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        if isinstance(fault, int):
            self.send_response(fault)
            self.send_header("Retry-After", "0")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if fault in (NO_RANGE, CUT_NO_RANGE):
            start = 0
        self._head(fault, start, len(content))
        half = (start + len(content)) // 2
        if fault == WRONG:
            self.wfile.write(bytes(len(content) - start))
        elif fault in (CUT, CUT_NO_RANGE, SHORT, QUIET_SHORT):
            self.wfile.write(content[start:half])
        elif callable(fault):
            self._drip(content[start:half], fault)
        else:
            self.wfile.write(content[start:] + (b"more" if fault == LONG else b""))

    def _head(self, fault: object, start: int, size: int) -> None:
        self.send_response(206 if start else 200)
        if start:
            first = start - 1 if fault == MISPLACED else start
            self.send_header("Content-Range", f"bytes {first}-{size - 1}/{size}")
        if fault not in (QUIET_SHORT, LONG):
            length = (size - start) // (2 if fault == SHORT else 1)
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def _drip(self, content: bytes, then: Callable[[], None]) -> None:
        try:
            self.wfile.write(content)
            then()
            while True:
                self.wfile.write(bytes(1 << 16))
                time.sleep(0.05)
        except ConnectionError:
            pass  # the client went away, as it should

    def log_message(self, *_) -> None:
        """Nothing: the test says what matters."""
