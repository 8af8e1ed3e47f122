"""What a request must be before anything else looks at it, and who sent it.

Whatever two servers on the way could read in two ways is refused: a length beside chunks, a second
``Host``, ``Authorization`` or ``Content-Length``, dot segments and backslashes in a path.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Protocol

from starlette.types import ASGIApp, Receive, Scope, Send

from agentcy_ray.api.authentication import Caller
from agentcy_ray.api.body import BODY_SECS, PIECE_SECS, Bounded, Replayed, too_large
from agentcy_ray.api.errors import error_response
from agentcy_ray.api.json_body import check_json
from agentcy_ray.core.errors import AgentcyError, BadRequestError, MediaTypeError

MAX_HEADER_BYTES = 65_536
MAX_HEADERS = 100
MAX_URL_BYTES = 16_384
METRICS = "/metrics"
"""Has a bearer of its own, which is no person's."""
OwnDoor = Callable[[str], int | None]
"""Path → largest body of a route that authenticates its callers itself; None for any other."""

_BODIES = frozenset({"POST", "PUT", "PATCH"})
_JSON = re.compile(rb"application/(json|[a-z0-9.+-]+\+json)\s*(;|$)", re.IGNORECASE)
_ONCE = frozenset({b"authorization", b"content-length", b"content-type", b"host", b"x-api-key"})
# Control characters, backslashes, and segments that a proxy would resolve; the path is decoded.
_ODD_PATH = re.compile(r"[\x00-\x1f\x7f\\]|/\.{1,2}(/|$)")


class BearerAuthenticator(Protocol):
    """Finds the caller behind an ``Authorization`` header."""

    async def bearer(self, header: bytes) -> Caller:
        """The caller, or ``UnauthenticatedError``; ``RateLimitedError`` for one who asks a lot."""
        ...


class Gate:
    """Limits of head and body, JSON bodies only, and the caller behind a bearer token.

    The token may come as ``X-API-Key`` instead of ``Authorization``, as some clients send theirs.

    A route that needs a caller asks for it by its permission; a bad token is refused here, on any
    route but those with an authentication of their own, which read their bodies themselves too.
    """

    def __init__(
        self,
        app: ASGIApp,
        authenticator: BearerAuthenticator,
        limit: int,
        own_door: OwnDoor = lambda _: None,
        body_secs: float = BODY_SECS,
        piece_secs: float = PIECE_SECS,
    ) -> None:
        self._app = app
        self._authenticator = authenticator
        self._limit = limit
        self._own_door = own_door
        self._body_secs, self._piece_secs = body_secs, piece_secs

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            receive = await self._enter(scope, receive)
        except AgentcyError as error:
            refusal = error_response(error, scope["state"]["request_id"], scope["path"])
            await refusal(scope, receive, send)
            return
        await self._app(scope, receive, send)

    async def _enter(self, scope: Scope, receive: Receive) -> Receive:
        """Check the request; returns a ``receive`` that gives its body.

        Raises:
            AgentcyError: why it may not go on.
        """
        head = _Head(scope)
        path = scope["path"]
        own = self._own_door(path)
        limit = self._limit if own is None else own
        if head.length is not None and head.length > limit:
            raise too_large(limit)
        if own is None and head.token is not None and path != METRICS:
            scope["state"]["caller"] = await self._authenticator.bearer(head.token)
        if not head.chunked and not head.length:
            return receive
        bounded = Bounded(receive, limit, self._body_secs, self._piece_secs)
        if own is not None or scope["method"] not in _BODIES:
            return bounded
        if not _JSON.match(head.kind):
            raise MediaTypeError("send the body as application/json, with that Content-Type")
        body = await bounded.read()
        if body is None:
            return receive
        if body:
            check_json(body)
        return Replayed(body, receive)


class _Head:
    """The head of a request, checked, and what the gate asks of it.

    Raises:
        BadRequestError: too large, or to be read in two ways.
    """

    __slots__ = ("chunked", "kind", "length", "token")

    def __init__(self, scope: Scope) -> None:
        size, seen = 0, set[bytes]()
        token = key = length = None
        self.kind = b""
        self.chunked = False
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        for name, value in headers:
            size += len(name) + len(value)
            if name not in _ONCE:
                if name == b"transfer-encoding":
                    self.chunked = True
                continue
            if name in seen:
                raise BadRequestError(f"the header {name.decode()} may be sent once only")
            seen.add(name)
            if name == b"authorization":
                token = value
            elif name == b"x-api-key":
                key = value
            elif name == b"content-length":
                length = value
            elif name == b"content-type":
                self.kind = value
        if size > MAX_HEADER_BYTES or len(headers) > MAX_HEADERS:
            raise BadRequestError(
                f"the headers pass {MAX_HEADER_BYTES:,} bytes or {MAX_HEADERS} lines; send less"
            )
        if length is not None and (self.chunked or not length.isdigit() or len(length) > 18):
            raise BadRequestError("Content-Length must be one number, and not beside chunks")
        self.length = None if length is None else int(length)
        self.token = b"Bearer " + key if token is None and key is not None else token
        _check_url(scope)


def _check_url(scope: Scope) -> None:
    query = scope["query_string"]
    if len(scope.get("raw_path") or b"") + len(query) > MAX_URL_BYTES:
        raise BadRequestError(f"the URL passes {MAX_URL_BYTES:,} bytes; send less in the query")
    if _ODD_PATH.search(scope["path"]):
        raise BadRequestError("the path holds dot segments or control characters; write it plain")
    if b"%00" in query or b"\x00" in query:
        raise BadRequestError("the query holds a NUL (%00), which no text may; drop it")
