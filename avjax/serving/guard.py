"""The door of the server: who may ask, what, and how much; before Gradio sees any of it."""

import hashlib
import hmac
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from avjax.serving.access import is_loopback
from avjax.serving.bodies import Body, replay
from avjax.serving.limits import Limits

PREDICT, UPLOAD, JOIN, FILE = (
    *("/api/predict", "/gradio_api/upload", "/gradio_api/queue/join"),
    "/gradio_api/file=",
)
# Gradio has some seventy routes; the page needs these.
_ROUTES = {
    "GET": (
        *("/", "/health", "/version", "/config", "/theme.css", "/manifest.json", "/favicon.ico"),
        *("/robots.txt", "/gradio_api/info", "/gradio_api/queue/data"),
        *("/gradio_api/upload_progress", "/gradio_api/startup-events", "/gradio_api/app_id"),
    ),
    "POST": (PREDICT, UPLOAD, JOIN, "/gradio_api/cancel", "/gradio_api/reset"),
}
_FOLDERS = ("/assets/", "/static/", "/gradio_api/heartbeat/")
_SMALL_BODY = 64_000  # bytes, of requests without a clip
_FORM = 64_000  # bytes that a form adds to its file
_AT_ONCE = 16  # bodies received at a time
_COOKIE = "avjax"
_HEADERS = {
    "content-security-policy": (
        "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
        "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
        "media-src 'self' data: blob:; connect-src 'self' data: blob:; font-src 'self' data:; "
        "worker-src 'self' blob:; frame-ancestors 'none'; form-action 'self'; base-uri 'self'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}
_LOGIN = """<!doctype html><html lang="en"><meta charset="utf-8"><title>avjax</title>
<meta name="viewport" content="width=device-width"><style>body{font:16px system-ui,sans-serif;
max-width:22rem;margin:20vh auto;padding:0 1rem}input,button{font:inherit;padding:.4rem .6rem}
</style><form method="post" action="/login"><p><label>The server's token<br>
<input type="password" name="token" autofocus></label> <button>Enter</button></p><p>%s</p></form>"""


class Guard:
    """ASGI middleware that refuses what the page and the endpoint do not need.

    Other routes than theirs; other paths than uploads in what Gradio is told to open, and URLs,
    which it would fetch; requests that another site's page sends; bodies that are too large, too
    slow or too many; and, with a token, whoever does not show it.
    """

    def __init__(self, app: ASGIApp, limits: Limits, uploads: Path, token: str | None) -> None:
        """Takes the app.

        Args:
          app: what to guard.
          limits: see `Limits`.
          uploads: Gradio's folder of uploads.
          token: without one, only loopback names are answered.
        """
        self._app, self._limits, self._uploads = app, limits, uploads.resolve()
        self._token = None if token is None else token.encode()
        self._receiving = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request, or hands it on."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            request = Request(scope)
            limit = self._limit(request.url.path)
            has_body = not {"content-length", "transfer-encoding"}.isdisjoint(request.headers)
            body = Body(receive, limit, self._limits.upload_seconds, has_body)
            await self._http(request, body, _with_headers(send, body))
        else:
            await send({"type": "websocket.close"})

    async def _http(self, request: Request, body: Body, send: Send) -> None:
        scope, receive = request.scope, body.receive
        is_post = request.method == "POST"
        response = self._refusal(request)
        if response is None and is_post and self._receiving >= _AT_ONCE:
            response = refused(503, "too many requests at once; try again", {"retry-after": "2"})
        if response is not None:
            await response(scope, receive, send)
            return
        self._receiving += is_post
        body.ended = self._one_less if is_post else None
        try:
            response = await self._logged_in(request, body)
            if response is None and request.url.path == JOIN:
                content = await body.read()
                receive = replay(content, receive)
                if not self._names_uploads_only(content, request.headers.get("host", "")):
                    response = refused(400, "this names a file that was not uploaded")
            await (response or self._app)(scope, receive, send)
        except HTTPException as error:  # from a body that is read here
            await refused(error.status_code, error.detail)(scope, receive, send)
        finally:
            body.finish()

    def _one_less(self) -> None:
        self._receiving -= 1

    def _limit(self, path: str) -> int:
        """Returns the size of a body in bytes."""
        return self._limits.upload_bytes + _FORM if path in (PREDICT, UPLOAD) else _SMALL_BODY

    def _refusal(self, request: Request) -> Response | None:
        """Returns why a request is refused by its head, if it is."""
        path, host = request.url.path, request.headers.get("host", "")
        origin = request.headers.get("origin")
        name = urlsplit(f"//{host}").hostname or ""
        if self._token is None and not is_loopback(name):
            return refused(403, f"this server answers to localhost, not to {name!r}")
        if origin is not None and urlsplit(origin).netloc != host:
            return refused(403, "a page of another site sent this request")
        method = "GET" if request.method == "HEAD" else request.method
        is_known = path in _ROUTES.get(method, ()) or (path == "/login" and self._token is not None)
        if method == "GET":
            is_known = is_known or path.startswith(_FOLDERS) or self._is_upload(path)
        if not is_known:
            return refused(404, "there is nothing here; see docs/serve.md")
        length = request.headers.get("content-length", "0")
        if not length.isdecimal():
            return refused(400, "the length of the body is no number")
        if int(length) > self._limit(path):
            return refused(413, self._too_large(path))
        return None

    def _too_large(self, path: str) -> str:
        if path not in (PREDICT, UPLOAD):
            return "the request is too large"
        return self._limits.too_large

    def _is_upload(self, path: str) -> bool:
        """Whether a path is Gradio's route to an uploaded file."""
        if not path.startswith(FILE):
            return False
        return self._is_within(unquote(path.removeprefix(FILE)))

    def _is_within(self, name: str) -> bool:
        try:
            return Path(name).resolve().is_relative_to(self._uploads)
        except (OSError, ValueError):
            return False

    def _names_uploads_only(self, content: bytes, host: str) -> bool:
        """Whether every file that a page's request names is an upload."""
        try:
            return all(self._is_within(name) for name in _file_names(json.loads(content), host))
        except (ValueError, RecursionError):
            return False

    # ------------------------------------------------------------------------------------- token

    async def _logged_in(self, request: Request, body: Body) -> Response | None:
        """Returns a response to those who do not show the token, and to the login form."""
        if self._token is None or request.url.path == "/health":
            return None
        if request.url.path == "/login":
            form = parse_qs((await body.read()).decode("utf-8", "replace"))
            if not self._is_token(form.get("token", [""])[0]):
                return HTMLResponse(_LOGIN % "This is not the token.", 401)
            response = RedirectResponse("/", 303)
            response.set_cookie(_COOKIE, self._cookie(), httponly=True, samesite="strict")
            return response
        scheme, _, shown = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self._is_token(shown.strip()):
            return None
        cookie = request.cookies.get(_COOKIE, "")
        if hmac.compare_digest(cookie.encode(), self._cookie().encode()):
            return None
        if "text/html" in request.headers.get("accept", ""):
            return HTMLResponse(_LOGIN % "", 401)
        return refused(
            401,
            "send the server's token, as Authorization: Bearer TOKEN",
            {"www-authenticate": "Bearer"},
        )

    def _is_token(self, shown: str) -> bool:
        return hmac.compare_digest(shown.encode(), self._token or b"")

    def _cookie(self) -> str:
        """Returns what a browser keeps in place of the token."""
        return hashlib.sha256(b"avjax cookie " + (self._token or b"")).hexdigest()


def _with_headers(send: Send, body: Body) -> Send:
    """Returns a channel that adds the headers above to a response.

    An answer before the end of a body ends the connection, or the server would read on, and discard
    what comes, as long as the client sends.
    """
    extra = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]

    async def with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            end = [] if body.is_complete else [(b"connection", b"close")]
            message = {**message, "headers": [*message["headers"], *extra, *end]}
        await send(message)

    return with_headers


def refused(status: int, reason: str, headers: dict[str, str] | None = None) -> Response:
    """Returns a response that tells the reason in one sentence."""
    return JSONResponse({"error": reason}, status, headers)


def _file_names(value: Any, host: str) -> Iterator[str]:
    """Yields the paths and URLs in a JSON value that Gradio could take for files.

    Of a URL at which this server shows an upload, it yields the upload's path.
    """
    if isinstance(value, dict):
        for key, item in value.items():
            if key == "path" and isinstance(item, str):
                yield item
            elif key == "url" and isinstance(item, str):
                url = urlsplit(item)
                shown = url.path.rpartition(FILE)[2] if url.netloc in ("", host) else ""
                yield unquote(shown) or item
            else:
                yield from _file_names(item, host)
    elif isinstance(value, list):
        for item in value:
            yield from _file_names(item, host)
