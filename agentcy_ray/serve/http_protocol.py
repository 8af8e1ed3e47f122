"""HTTP/1.1 of a replica: the head of an answer and its body leave in one packet, without a banner.

uvicorn writes the head of a response and each part of its body apart, and the event loop hands
each write to the kernel at once. On loopback, where HAProxy reads what a replica wrote, every
packet wakes a process. Here the writes of one turn of the event loop leave together.

Serve puts an id of its own on each request and on its answer, after the application did. The
application is the one that judges what a client sent as its id, so Serve's layer is taken out.
"""

from __future__ import annotations

import asyncio
from typing import Any

import uvicorn.config
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_NAME = f"{__name__}:OneWriteProtocol"


def install() -> None:
    """Let servers that this process starts from now on speak it; Serve offers no setting."""
    from ray.serve._private import http_util

    uvicorn.config.HTTP_PROTOCOLS["auto"] = _NAME
    http_util.RequestIdMiddleware = _NoLayer


class _NoLayer:
    """Stands where Serve's layer would; uvicorn knows an ASGI 3 application by its ``__call__``."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        await self._app(scope, receive, send)


class OneWriteProtocol(HttpToolsProtocol):
    """uvicorn's protocol over a transport that gathers writes."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Which server this is, and of which version, is nobody's business. The state's list is made
        # anew each second, from the config's.
        for headers in (self.config.encoded_headers, self.server_state.default_headers):
            headers[:] = [header for header in headers if header[0].lower() != b"server"]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client connected."""
        super().connection_made(_Gathering(transport, self.loop))  # type: ignore[arg-type]


class _Gathering:
    """A transport whose writes leave together at the end of the event loop's turn."""

    __slots__ = ("_held", "_loop", "_transport")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held: list[bytes] = []

    def write(self, data: bytes) -> None:
        """Send ``data`` with whatever else is written in this turn."""
        if not self._held:
            self._loop.call_soon(self._flush)
        self._held.append(data)

    def close(self) -> None:
        """Close once everything written has been sent."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._held:
            held, self._held = self._held, []
            self._transport.write(b"".join(held))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
