"""The way in, as plain ASGI, since every request pays for it.

Order: request id → header limits → authentication → rate limits → body (``gate.py``) → (in the
route) permission and policy on the action → handler → error shape. CORS, where it is on, lies
between frame and gate.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import structlog
from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agentcy_ray.api.errors import error_response, internal_response
from agentcy_ray.api.sse import ENDING, HELD, OUTSIDE, EventStream
from agentcy_ray.core.errors import BadRequestError
from agentcy_ray.core.ids import base32, new_id

log = structlog.get_logger(__name__)

Observe = Callable[[str, str, int, float], None]
"""(method, route, status, seconds) of an answered request."""

_REQUEST_ID = re.compile(rb"[A-Za-z0-9_-]{8,64}")
_INGEST_TOKEN = re.compile(r"ctx_\w+")
_SECURITY_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=(), payment=(), usb=()"),
]
_HSTS = (b"strict-transport-security", b"max-age=31536000")
_CSP = (
    b"content-security-policy",
    b"default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
)
"""What an answer may load when it does not say so itself: a page of data loads nothing."""
_OF_SERVER = frozenset({
    "type", "asgi", "http_version", "method", "scheme", "path", "raw_path", "query_string",
    "root_path", "headers", "client", "server", "extensions",
})  # fmt: skip
"""What an ASGI server puts into a scope (ASGI 3.0, HTTP connection scope)."""
_NO_STORE = (b"cache-control", b"no-store")


class Frame:
    """Outermost: gives the request its id, answers what nothing else has, counts and times.

    Event streams are sent from here, when everything below has returned; their time is that of
    their head.
    """

    def __init__(self, app: ASGIApp, observe: Observe, *, https: bool = False) -> None:
        self._app = app
        self._observe = observe
        self._headers = [*_SECURITY_HEADERS, _HSTS] if https else _SECURITY_HEADERS

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        held: list[Callable[[], None]] = []
        try:
            await self._answer(scope, receive, send, held)
        finally:
            for release in held:
                release()

    async def _answer(
        self, scope: Scope, receive: Receive, send: Send, held: list[Callable[[], None]]
    ) -> None:
        request_id = _request_id(scope)
        streams: list[EventStream] = []
        state = {"request_id": request_id, OUTSIDE: streams, HELD: held}
        scope.setdefault("state", {}).update(state)
        began, status = time.perf_counter(), 0

        async def sender(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                self._dress(message, request_id)
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
            if (ending := scope["state"].get(ENDING)) is not None:
                held.append(ending(stream.stop))
            _forget_request(scope)
            await _run_stream(stream, request_id, receive, send)

    def _dress(self, message: Message, request_id: str) -> None:
        """Add the headers that every answer carries."""
        headers = message["headers"] = list(message.get("headers", ()))
        said = {name for name, _ in headers}
        headers.append((b"x-request-id", request_id.encode()))
        headers.extend(self._headers)
        if b"cache-control" not in said:
            headers.append(_NO_STORE)
        if _CSP[0] not in said:
            headers.append(_CSP)


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


class Cors(CORSMiddleware):
    """Cross-origin requests from the allowed origins; a refused preflight has our error shape."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http" or scope["method"] != "OPTIONS":
            await super().__call__(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if "origin" not in headers or "access-control-request-method" not in headers:
            await super().__call__(scope, receive, send)
            return
        answer: Response = self.preflight_response(headers)
        if answer.status_code >= 400:
            said = bytes(answer.body).decode()
            error = BadRequestError(f"{said}; allow the origin by CORS_ALLOWED_ORIGINS")
            answer = error_response(error, scope["state"]["request_id"], scope["path"])
        await answer(scope, receive, send)
