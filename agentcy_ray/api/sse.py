"""Server-sent events (WHATWG HTML, "Server-sent events"): run logs and audit tails as streams.

``id:`` is the event's ``seq``, so a client that comes back with ``Last-Event-ID`` goes on where it
stopped, on any replica. A ping without an id keeps idle connections open.

Where an outer layer offers ``OUTSIDE``, a stream is sent from there once its head is out: all that
the way in holds for a request (exit stacks, dependencies, the records that the handler read) is
gone by then, and an idle stream costs little more than its socket.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any

import orjson
import structlog
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from agentcy_ray.api.pagination import MAX_SEQ
from agentcy_ray.core.errors import AgentcyError, BadRequestError

log = structlog.get_logger(__name__)

PING = b"event: ping\ndata: {}\n\n"
RETRY = b"retry: 2000\n\n"
_LINE_ENDS = tuple((char.encode(), b"\\u%04x" % ord(char)) for char in "\x85\u2028\u2029")
"""No line ends here, but many clients split text where Unicode does."""
OUTSIDE = "streams"
"""Key of the request's state: a list that takes the stream to send after the handler is done."""
HELD = "held"
"""Key of the request's state: a list of what to call once the request and its stream have ended."""
ENDING = "ending"
"""Key of the request's state: takes what stops the stream, gives what takes that back."""
SLOW_READER_SECS = 30.0
"""A client that takes nothing for so long is cut off; it may resume."""


def frame(event: str, data: Any, event_id: int | None = None) -> bytes:
    """One event as bytes; ``data`` becomes one line of JSON."""
    head = b"" if event_id is None else b"id: %d\n" % event_id
    return head + b"event: %s\ndata: %s\n\n" % (event.encode(), one_line(data))


def one_line(data: Any) -> bytes:
    """``data`` as JSON that no client takes for more than one line."""
    line = orjson.dumps(data, default=str)
    for raw, escaped in _LINE_ENDS:
        line = line.replace(raw, escaped)
    return line


def resume_after(headers: Mapping[str, str], after: int | None) -> int:
    """The seq to go on after: ``?after=``, else ``Last-Event-ID``, else 0.

    Raises:
        BadRequestError: the header is no number.
    """
    if after is not None:
        return after
    given = headers.get("last-event-id", "").strip()
    if not given:
        return 0
    if not (given.isascii() and given.isdecimal() and len(given) <= len(str(MAX_SEQ))):
        raise BadRequestError(f"Last-Event-ID {given!r} is not a seq; send the id of an event")
    return int(given)


class EventStream(Response):
    """Streams frames; ends them when the client leaves, and cuts off one that does not read.

    ``on_leave`` runs when the client goes before the stream has ended; ``lead`` is sent first.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        frames: AsyncGenerator[bytes],
        on_leave: Callable[[], Awaitable[None]] | None = None,
        *,
        slow_secs: float = SLOW_READER_SECS,
        lead: bytes = RETRY,
    ) -> None:
        self._frames = frames
        self._on_leave = on_leave
        self._slow_secs = slow_secs
        self._lead = lead
        self._leaving: asyncio.Task[None] | None = None
        self.status_code = 200
        self.background = None
        self.body = b""
        self.init_headers({"cache-control": "no-store", "x-accel-buffering": "no"})
        self.raw_headers = [h for h in self.raw_headers if h[0] != b"content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the head, and the stream itself unless an outer layer will."""
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        outside: list[EventStream] | None = scope.get("state", {}).get(OUTSIDE)
        if outside is None:
            await self.run(receive, send)
        else:
            outside.append(self)

    async def run(self, receive: Receive, send: Send) -> None:
        """Send what follows the head, watching for the client's leave."""
        sending = asyncio.create_task(self._send_all(send))
        leaving = self._leaving = asyncio.create_task(left(receive))
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                await sending
            elif self._on_leave is not None:
                await self._on_leave()
        finally:
            for task in (sending, leaving):
                task.cancel()
            await asyncio.gather(sending, leaving, return_exceptions=True)

    def stop(self) -> None:
        """End the stream as if its client had left, and close the connection."""
        if self._leaving is not None:
            self._leaving.cancel()

    async def _send_all(self, send: Send) -> None:
        async def write(body: bytes, *, more: bool = True) -> None:
            async with asyncio.timeout(self._slow_secs):
                await send({"type": "http.response.body", "body": body, "more_body": more})

        try:
            async with aclosing(self._frames) as frames:
                if self._lead:
                    await write(self._lead)
                await self._write_all(frames, write)
            await write(b"", more=False)
        except TimeoutError:
            # Left unfinished, so that the server closes the connection.
            log.info("cut off a reader that takes nothing", after_secs=self._slow_secs)

    async def _write_all(
        self, frames: AsyncGenerator[bytes], write: Callable[[bytes], Awaitable[None]]
    ) -> None:
        try:
            async for piece in frames:
                await write(piece)
        except AgentcyError as error:
            # The status line is out already; the error becomes the last event.
            await write(frame("error", {**error.body(), "retryable": error.transient}))


async def left(receive: Receive) -> None:
    """Return when the client has gone."""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
