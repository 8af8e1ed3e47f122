"""Bodies of requests: bounded in size and in the time that they may take to arrive."""

from __future__ import annotations

import asyncio

from starlette.types import Message, Receive

from agentcy_ray.core.errors import BadRequestError, TooLargeError

BODY_SECS = 120.0
"""A body that has not arrived whole by then is refused."""
PIECE_SECS = 20.0
"""The longest wait for a further piece of it."""


def too_large(limit: int) -> TooLargeError:
    """The refusal of a body over the cap."""
    return TooLargeError(f"the body passes {limit:,} bytes; send less at once")


class Bounded:
    """A ``receive`` that counts the body as it arrives, and watches the clock."""

    def __init__(
        self, receive: Receive, limit: int, secs: float = BODY_SECS, piece_secs: float = PIECE_SECS
    ) -> None:
        self._receive = receive
        self._limit = limit
        self._piece_secs = piece_secs
        self._until = asyncio.get_running_loop().time() + secs
        self._seen = 0
        self._whole = False

    async def __call__(self) -> Message:
        """The next message.

        Raises:
            TooLargeError: the body passes the limit.
            BadRequestError: it takes too long.
        """
        if self._whole:  # what follows is the client's leave, which may take any time
            return await self._receive()
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout_at(min(self._until, loop.time() + self._piece_secs)):
                message = await self._receive()
        except TimeoutError:
            raise BadRequestError("the body did not arrive in time; send it faster") from None
        self._seen += len(message.get("body", b""))
        if self._seen > self._limit:
            raise too_large(self._limit)
        self._whole = not message.get("more_body", False)
        return message

    async def read(self) -> bytes | None:
        """The whole body; None when the client left before.

        Raises:
            As a call.
        """
        pieces: list[bytes] = []
        while not self._whole:
            message = await self()
            if message["type"] == "http.disconnect":
                return None
            pieces.append(message.get("body", b""))
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


class Replayed:
    """A ``receive`` that gives a body which was read already, then what comes after it."""

    __slots__ = ("_body", "_receive")

    def __init__(self, body: bytes, receive: Receive) -> None:
        self._body: bytes | None = body
        self._receive = receive

    async def __call__(self) -> Message:
        """The body, once; then the client's leave."""
        if self._body is None:
            return await self._receive()
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}
