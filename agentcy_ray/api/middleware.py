"""The way in, as plain ASGI, since every request pays for it.

Order: request id → body and header limits → authentication → (in the route) permission and policy
on the action → handler → error shape. CORS, where it is on, lies between frame and gate.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Protocol

import structlog
from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agentcy_ray.api.authentication import Caller
from agentcy_ray.api.errors import error_response, internal_response
from agentcy_ray.api.sse import OUTSIDE, EventStream
from agentcy_ray.core.errors import (
    AgentcyError,
    BadRequestError,
    MediaTypeError,
    TooLargeError,
)
from agentcy_ray.core.ids import base32, new_id

log = structlog.get_logger(__name__)

MAX_HEADER_BYTES = 65_536
METRICS = "/metrics"
"""Has a bearer of its own, which is no person's."""
Observe = Callable[[str, str, int, float], None]
"""(method, route, status, seconds) of an answered request."""
OwnDoor = Callable[[str], int | None]
"""Path → largest body of a route that authenticates its callers itself; None for any other."""

_REQUEST_ID = re.compile(rb"[A-Za-z0-9_-]{8,64}")
_INGEST_TOKEN = re.compile(r"ctx_\w+")
_BODIES = frozenset({"POST", "PUT", "PATCH"})
_JSON = re.compile(rb"application/(json|[a-z0-9.+-]+\+json)\s*(;|$)", re.IGNORECASE)
_SECURITY_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
]
_OF_SERVER = frozenset({
    "type", "asgi", "http_version", "method", "scheme", "path", "raw_path", "query_string",
    "root_path", "headers", "client", "server", "extensions",
})  # fmt: skip
"""What an ASGI server puts into a scope (ASGI 3.0, HTTP connection scope)."""
_NO_STORE = (b"cache-control", b"no-store")


class BearerAuthenticator(Protocol):
    """Finds the caller behind an ``Authorization`` header."""

    async def bearer(self, header: bytes) -> Caller:
        """The caller, or ``UnauthenticatedError``."""
        ...


class Frame:
    """Outermost: gives the request its id, answers what nothing else has, counts and times.

    Event streams are sent from here, when everything below has returned; their time is that of
    their head.
    """

    def __init__(self, app: ASGIApp, observe: Observe) -> None:
        self._app = app
        self._observe = observe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope)
        streams: list[EventStream] = []
        scope.setdefault("state", {}).update({"request_id": request_id, OUTSIDE: streams})
        began, status = time.perf_counter(), 0

        async def sender(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                _dress(message, request_id)
            await send(message)

        try:
            await self._app(scope, receive, sender)
        except Exception:
            log.exception("request failed", request_id=request_id, path=_shown(scope["path"]))
            if status:
                raise
            await internal_response(request_id, scope["path"])(scope, receive, sender)
        finally:
            route = scope.get("route")
            self._observe(
                scope["method"], getattr(route, "path", "other"), status or 500,
                time.perf_counter() - began,
            )  # fmt: skip
        for stream in streams:
            _forget_request(scope)
            await _run_stream(stream, request_id, receive, send)


def _forget_request(scope: Scope) -> None:
    """Drop what the layers below kept in the scope, which lives as long as its connection."""
    for key in scope.keys() - _OF_SERVER:
        del scope[key]


async def _run_stream(stream: EventStream, request_id: str, receive: Receive, send: Send) -> None:
    try:
        await stream.run(receive, send)
    except Exception:
        log.exception("stream failed", request_id=request_id)
        raise


def _shown(path: str) -> str:
    """A path as logs may have it: an ingest token in it stays out."""
    return _INGEST_TOKEN.sub("ctx_***", path)


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
            return value.decode()
    return f"req_{base32(new_id().int)}"


def _dress(message: Message, request_id: str) -> None:
    """Add the headers that every answer carries."""
    headers = message["headers"] = list(message.get("headers", ()))
    headers.append((b"x-request-id", request_id.encode()))
    headers.extend(_SECURITY_HEADERS)
    if not any(name == b"cache-control" for name, _ in headers):
        headers.append(_NO_STORE)


class Gate:
    """Limits of headers and body, JSON bodies only, and the caller behind a bearer token.

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
    ) -> None:
        self._app = app
        self._authenticator = authenticator
        self._limit = limit
        self._own_door = own_door

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
        """Check the head of the request; returns a ``receive`` that watches its body.

        Raises:
            AgentcyError: why it may not go on.
        """
        size, token, key, length, kind, chunked = 0, None, None, b"", b"", False
        for name, value in scope["headers"]:
            size += len(name) + len(value)
            if name == b"authorization":
                token = value
            elif name == b"x-api-key":
                key = value
            elif name == b"content-length":
                length = value
            elif name == b"content-type":
                kind = value
            elif name == b"transfer-encoding":
                chunked = True
        if size > MAX_HEADER_BYTES:
            raise BadRequestError(f"the headers pass {MAX_HEADER_BYTES:,} bytes; send less")
        own = self._own_door(scope["path"])
        limit = self._limit if own is None else own
        if length.isdigit() and int(length) > limit:
            raise too_large(limit)
        if own is not None:
            return _limited(receive, limit) if chunked else receive
        if token is None and key is not None:
            token = b"Bearer " + key
        if token is not None and scope["path"] != METRICS:
            scope["state"]["caller"] = await self._authenticator.bearer(token)
        if not chunked and length in (b"", b"0"):
            return receive
        if scope["method"] in _BODIES and not _JSON.match(kind):
            raise MediaTypeError("send the body as application/json, with that Content-Type")
        return _limited(receive, limit) if chunked else receive


def _limited(receive: Receive, limit: int) -> Receive:
    """Count a body that came without its length as it arrives."""
    seen = 0

    async def receiver() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > limit:
            raise too_large(limit)
        return message

    return receiver


def too_large(limit: int) -> TooLargeError:
    """The refusal of a body over the cap."""
    return TooLargeError(f"the body passes {limit:,} bytes; send less at once")


class Cors(CORSMiddleware):
    """Cross-origin requests from the allowed origins; a refused preflight has our error shape."""

    def preflight_response(self, request_headers: Headers) -> Response:
        """Answer a preflight request."""
        answer = super().preflight_response(request_headers)
        if answer.status_code < 400:
            return answer
        said = bytes(answer.body).decode()
        error = BadRequestError(f"{said}; allow the origin by CORS_ALLOWED_ORIGINS")
        return error_response(error, "req_preflight")
