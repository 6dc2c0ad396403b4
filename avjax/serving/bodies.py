"""Bodies of requests, cut off where they are too large or too slow."""

import asyncio
import time
from collections.abc import Callable

from starlette.exceptions import HTTPException
from starlette.types import Message, Receive


def replay(content: bytes, receive: Receive) -> Receive:
    """Returns a channel that gives a body that was read already, then what follows."""
    messages = [{"type": "http.request", "body": content, "more_body": False}]

    async def next_message() -> Message:
        return messages.pop() if messages else await receive()

    return next_message


class Body:
    """A request's body, cut off where it is too large or too slow.

    Attributes:
      is_complete: whether it was received to its end.
      ended: called once that is so, or it is given up.
    """

    def __init__(self, receive: Receive, limit: int, seconds: float, has_body: bool) -> None:
        """Takes the channel, the most bytes and the most seconds."""
        self._receive, self._limit = receive, limit
        self._deadline = time.monotonic() + seconds
        self._size = 0
        self.is_complete = not has_body
        self.ended: Callable[[], None] | None = None

    async def receive(self) -> Message:
        """Returns the next message."""
        if self.is_complete:  # an empty body, or waits for the client to leave
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
            self.is_complete = True
            self.finish()
        return message

    async def read(self) -> bytes:
        """Returns the whole body."""
        parts = []
        while not self.is_complete:
            parts.append((await self.receive()).get("body", b""))
        return b"".join(parts)

    def finish(self) -> None:
        """Tells once that the body is complete, or given up."""
        if self.ended is not None:
            self.ended()
            self.ended = None
