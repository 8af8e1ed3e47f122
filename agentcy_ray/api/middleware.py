"""The way in: request id, body limit, authentication. Plain ASGI, since every request pays for it.

Order: request id → body and header limits → CORS → authentication → (in the route) permission and
policy on the action → handler → error shape.
"""

from __future__ import annotations

import re
import time
from contextlib import suppress
from typing import Any

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agentcy_ray.api.authentication import Authenticator
from agentcy_ray.api.errors import error_response, internal_response
from agentcy_ray.core.errors import AgentcyError, TooLargeError
from agentcy_ray.core.ids import base32, new_id

log = structlog.get_logger(__name__)

_REQUEST_ID = re.compile(r"^[A-Za-z0-9_-]{8,64}$")
_SECURITY_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"cache-control", b"no-store"),
)


class RequestFrame:
    """Outermost: gives the request its id, answers what nothing else has, counts and times."""

    def __init__(self, app: ASGIApp, observe: Any) -> None:
        self._app = app
        self._observe = observe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _REQUEST_ID.match(given) else f"req_{base32(new_id().int)}"
        scope.setdefault("state", {})["request_id"] = request_id
        began, status = time.perf_counter(), 0

        async def sender(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(raw=message.setdefault("headers", []))
                headers["x-request-id"] = request_id
                present = {name for name, _ in message["headers"]}
                message["headers"] += [h for h in _SECURITY_HEADERS if h[0] not in present]
            await send(message)

        try:
            await self._app(scope, receive, sender)
        except AgentcyError as error:
            if status:
                raise
            await error_response(error, request_id)(scope, receive, sender)
        except Exception:
            log.exception("request failed", request_id=request_id, path=scope["path"])
            if status:
                raise
            await internal_response(request_id)(scope, receive, sender)
        finally:
            route = scope.get("route")
            self._observe(
                scope["method"], getattr(route, "path", "other"), status or 500,
                time.perf_counter() - began,
            )  # fmt: skip


class BodyLimit:
    """Refuse bodies over the cap, by their declared length or as they arrive."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        with suppress(ValueError):
            if int(Headers(scope=scope).get("content-length", "0")) > self._limit:
                raise self._too_large()
        seen = 0

        async def receiver() -> Message:
            nonlocal seen
            message = await receive()
            if message["type"] == "http.request":
                seen += len(message.get("body", b""))
                if seen > self._limit:
                    raise self._too_large()
            return message

        await self._app(scope, receiver, send)

    def _too_large(self) -> TooLargeError:
        return TooLargeError(f"the body passes {self._limit:,} bytes; send less at once")


class Authentication:
    """Put the principal of a bearer token into the request's state.

    A route that needs one asks for it by its permission; a bad token is refused here, on any route.
    """

    def __init__(self, app: ASGIApp, authenticator: Authenticator) -> None:
        self._app = app
        self._authenticator = authenticator

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] == "http":
            for name, value in scope["headers"]:
                if name == b"authorization":
                    scope["state"]["caller"] = await self._authenticator.bearer(value)
                    break
        await self._app(scope, receive, send)
