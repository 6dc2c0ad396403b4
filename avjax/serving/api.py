"""The JSON endpoint: one clip in, what ``avjax predict --json`` says of it out."""

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from fastapi import FastAPI, Request
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from avjax.errors import InputError
from avjax.serving.guard import PREDICT, refused
from avjax.serving.judging import Facts
from avjax.serving.limits import Limits
from avjax.serving.worker import BrokenError, BusyError, Worker

RETRY_SECONDS = 5
_CHUNK = 1 << 20
_NAME_LENGTH = 120


def create_api(worker: Worker, facts: Facts, limits: Limits, folder: Path) -> FastAPI:
    """Returns an app with ``POST /api/predict``, ``GET /health`` and ``GET /version``.

    Args:
      worker: judges.
      facts: of the model.
      limits: see `Limits`.
      folder: for uploads; each lies there until it is answered.
    """

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        worker.close()  # also ends what waits for an answer

    api = FastAPI(title="avjax", docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)

    @api.exception_handler(HTTPException)
    async def _(request: Request, error: HTTPException) -> Response:
        return refused(error.status_code, str(error.detail), dict(error.headers or {}))

    @api.get("/health")
    def health() -> dict[str, object]:
        return {"status": "ok", "taken": worker.taken, "places": limits.waiting + 1}

    @api.get("/version")
    def version() -> dict[str, object]:
        return {"version": facts.versions.get("avjax"), **facts._asdict()}

    @api.post(PREDICT)
    async def predict(request: Request) -> Response:
        try:
            with worker.place(), tempfile.TemporaryDirectory(dir=folder) as own:
                path = Path(own) / "clip"
                name = await _received(request, path, limits)
                answer = await asyncio.to_thread(worker.answer, "json", path, name)
        except BusyError:
            reason = "as many clips wait as may; try again"
            return refused(503, reason, {"retry-after": str(RETRY_SECONDS)})
        except InputError as error:
            return refused(422, str(error))
        except BrokenError:
            return refused(500, "the model failed on this clip, which is a bug; see the log")
        return JSONResponse(answer)

    return api


async def _received(request: Request, path: Path, limits: Limits) -> str:
    """Writes an upload to a file; returns what the client calls it.

    The clip is the body, or the only file of a form (``multipart/form-data``).

    Raises:
      HTTPException: the body holds no clip, or is too large.
    """
    async with _clip(request) as (name, chunks):
        size = 0
        with path.open("wb") as file:
            async for chunk in chunks:
                size += len(chunk)
                if size > limits.upload_bytes:
                    raise HTTPException(413, limits.too_large)
                file.write(chunk)
    if not size:
        raise HTTPException(400, "there is no clip in the request; send a file as its body")
    return name


@contextlib.asynccontextmanager
async def _clip(request: Request) -> AsyncIterator[tuple[str, AsyncIterator[bytes]]]:
    """Opens the clip in a request: its name and its bytes."""
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        yield "clip", request.stream()
        return
    async with request.form(max_files=1, max_fields=8) as form:
        files = [value for value in form.values() if isinstance(value, UploadFile)]
        if len(files) != 1:
            raise HTTPException(400, "the form holds no file; send one, as in curl -F clip=@FILE")
        yield _safe(files[0].filename), _chunks(files[0])


async def _chunks(file: UploadFile) -> AsyncIterator[bytes]:
    while chunk := await file.read(_CHUNK):
        yield chunk


def _safe(name: str | None) -> str:
    """Returns the last part of a client's file name, printable and short; never a path."""
    last = (name or "").replace("\\", "/").rpartition("/")[2][-_NAME_LENGTH:]
    return "".join(c if c.isprintable() else "?" for c in last) or "clip"
