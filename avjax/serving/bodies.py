"""Bodies of requests, cut off where they are too large or too slow."""

import asyncio
import time
from typing import Any

from starlette.exceptions import HTTPException
from starlette.types import Message, Receive


def replay(content: bytes, receive: Receive) -> Receive:
    """Returns a channel that gives a body that was read already, then what follows."""
    messages = [{"type": "http.request", "body": content, "more_body": False}]

    async def next_message() -> Message:
        return messages.pop() if messages else await receive()

    return next_message


class Body:
    """A request's body, cut off where it is too large or too slow."""

    def __init__(self, receive: Receive, limit: int, seconds: float) -> None:
        """Takes the channel, the most bytes and the most seconds."""
        self._receive, self._limit = receive, limit
        self._deadline = time.monotonic() + seconds
        self._size, self._complete = 0, False
        self.ended: Any = None  # called once

    async def receive(self) -> Message:
        """Returns the next message."""
        if self._complete:  # waits for the client to leave
            return await self._receive()
        try:
            async with asyncio.timeout(self._deadline - time.monotonic()):
                message = await self._receive()
        except TimeoutError as error:
            raise HTTPException(408, "the upload takes too long; send a smaller file") from error
        self._size += len(message.get("body", b""))
        if self._size > self._limit:
            reason = f"the file is larger than {self._limit / 1e6:.3g} MB; send a smaller one"
            raise HTTPException(413, reason)
        if not message.get("more_body"):
            self._complete = True
            self.finish()
        return message

    async def read(self) -> bytes:
        """Returns the whole body."""
        parts = []
        while not self._complete:
            parts.append((await self.receive()).get("body", b""))
        return b"".join(parts)

    def finish(self) -> None:
        """Tells once that the body is complete, or given up."""
        if self.ended is not None:
            self.ended()
            self.ended = None
