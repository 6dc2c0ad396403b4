"""A local web server with faults chosen by tests."""

import hashlib
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

from avjax.preparation.transfer import Patience, RemoteFile

QUICK = Patience(attempts=3, pause=0.0, timeout=5.0)
FULL, NO_RANGE = "", "no range"  # no fault; ignores the requested range
CUT, WRONG = "cut", "wrong"  # closes after half; sends wrong bytes
CUT_NO_RANGE = "cut, no range"
SHORT, QUIET_SHORT = "short", "quiet short"  # half, with its length announced; not announced
LONG, MISPLACED = "long", "misplaced"  # too many bytes, no length announced; wrong range


class Server:
    """Serves bytes by name; each request gets its file's next fault, then none.

    Attributes:
      faults: faults by name: a constant above, a status such as 503, or a function to call after
        half of the bytes; then bytes trickle until the client disconnects.
      requests: name and Range header of all requests.
    """

    def __init__(self) -> None:
        self.contents: dict[str, bytes] = {}
        self.faults: dict[str, Iterator[str | int | Callable[[], None]]] = defaultdict(
            lambda: iter(())
        )
        self.requests: list[tuple[str, str | None]] = []
        handler = type("BoundHandler", (_Handler,), {"site": self})
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._http.daemon_threads = False  # so closing waits for them
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def add(self, name: str, content: bytes) -> RemoteFile:
        """Serves a file and returns its description for clients."""
        self.contents[name] = content
        url = f"http://127.0.0.1:{self._http.server_port}/{name}"
        return RemoteFile(name, url, len(content), hashlib.md5(content).hexdigest())

    def ranges(self, name: str) -> list[str | None]:
        return [range_ for requested, range_ in self.requests if requested == name]


class _Handler(BaseHTTPRequestHandler):
    site: Server

    def do_GET(self) -> None:
        name, range_ = self.path[1:], self.headers["Range"]
        self.site.requests.append((name, range_))
        fault = next(self.site.faults[name], FULL)
        content = self.site.contents[name]
        start = int(range_.removeprefix("bytes=").removesuffix("-")) if range_ else 0
        if isinstance(fault, int):
            self.send_response(fault)
            self.send_header("Retry-After", "0")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if fault in (NO_RANGE, CUT_NO_RANGE):
            start = 0
        self._send_headers(fault, start, len(content))
        half = (start + len(content)) // 2
        if fault == WRONG:
            self.wfile.write(bytes(len(content) - start))
        elif fault in (CUT, CUT_NO_RANGE, SHORT, QUIET_SHORT):
            self.wfile.write(content[start:half])
        elif callable(fault):
            self._trickle(content[start:half], fault)
        else:
            self.wfile.write(content[start:] + (b"more" if fault == LONG else b""))

    def _send_headers(self, fault: object, start: int, size: int) -> None:
        self.send_response(206 if start else 200)
        if start:
            first = start - 1 if fault == MISPLACED else start
            self.send_header("Content-Range", f"bytes {first}-{size - 1}/{size}")
        if fault not in (QUIET_SHORT, LONG):
            length = (size - start) // (2 if fault == SHORT else 1)
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def _trickle(self, content: bytes, callback: Callable[[], None]) -> None:
        try:
            self.wfile.write(content)
            callback()
            while True:
                self.wfile.write(bytes(1 << 16))
                time.sleep(0.05)
        except ConnectionError:
            pass  # the client disconnected, as expected

    def log_message(self, *_) -> None:
        """Logs nothing."""
