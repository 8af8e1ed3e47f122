"""What every HTTP route shares: roles, request ids, bodies and the shapes of refusals."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Awaitable, Callable
from typing import Any, Literal

import orjson
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from agentcy_ray.devkyma.auth import AuthError, require
from agentcy_ray.devkyma.config import Config, Role
from agentcy_ray.devkyma.errors import EngineError, bad_body

log = logging.getLogger(__name__)

Handler = Callable[[Request], Awaitable[Response]]

Errors = Literal["full", "bare", "text"]
"""Code and message with the request id; without it, as graph routes have them; the message only."""

JSON_BYTES = 256 * 1024


class Wire:
    """Makes routes for one configuration."""

    def __init__(self, config: Config) -> None:
        self._config = config

    def header(self, name: str) -> str:
        """A header of kyma's own, under the prefix of this server."""
        return f"X-{self._config.header_prefix.capitalize()}-{name}"

    def route(
        self,
        path: str,
        handler: Handler,
        least: Role,
        method: str = "GET",
        *,
        errors: Errors = "full",
    ) -> Route:
        """A route that asks for a role; ``errors`` is the shape of its refusals."""

        async def guarded(request: Request) -> Response:
            request_id = request.headers.get("x-request-id") or str(uuid.uuid4())
            try:
                require(self._config.tokens, request.headers.get("authorization"), least)
                response = await handler(request)
            except AuthError as error:
                return self._refused(error)
            except EngineError as error:
                response = self._failed(error, request_id, errors)
            except Exception as error:
                log.exception("%s failed", path)
                failure = EngineError(500, "internal", type(error).__name__)
                response = self._failed(failure, request_id, errors)
            response.headers["X-Request-ID"] = request_id
            return response

        return Route(path, guarded, methods=[method])

    async def body(self, request: Request, limit: int) -> bytes:
        """The body of a request.

        Raises:
            EngineError: 413 when it is longer than ``limit`` bytes.
        """
        too_large = EngineError(413, "body_too_large", f"the body is over {limit} bytes")
        if int(request.headers.get("content-length", "0")) > limit:
            raise too_large
        parts: list[bytes] = []
        size = 0
        async for part in request.stream():
            size += len(part)
            if size > limit:
                raise too_large
            parts.append(part)
        return b"".join(parts)

    async def json(self, request: Request) -> dict[str, Any]:
        """The JSON object of a request; an empty body is an empty object.

        Raises:
            EngineError: 400 when it is something else, 413 when it is too long.
        """
        data = await self.body(request, JSON_BYTES)
        try:
            value: Any = orjson.loads(data) if data else {}
        except orjson.JSONDecodeError as error:
            raise bad_body(f"the body is not JSON: {error}") from None
        if not isinstance(value, dict):
            raise bad_body("the body is not a JSON object")
        return value

    async def unknown(self, request: Request, _error: Exception) -> Response:
        """The answer to a path that this server does not have."""
        shown = {"error": "endpoint not available on this server", "path": request.url.path}
        return JSONResponse(shown, 404)

    def _refused(self, error: AuthError) -> Response:
        realm = self._config.header_prefix
        headers = {"WWW-Authenticate": f'Bearer realm="{realm}"'} if error.status == 401 else None
        return PlainTextResponse(error.text, error.status, headers)

    def _failed(self, error: EngineError, request_id: str, errors: Errors) -> Response:
        shown: Any = {"code": error.code, "message": error.message}
        if errors == "full":
            shown["request_id"] = request_id
        elif errors == "text":
            shown = error.message
        headers = {
            self.header(name) if name == "Budget-Limit" else name: value
            for name, value in error.headers.items()
        }
        return JSONResponse({"error": shown}, error.status, headers)


def switch(text: str | None) -> bool:
    """A boolean header; both of ingest's are on unless they are said to be off."""
    return text is None or text.strip().lower() not in {"false", "0", "no", "off"}
