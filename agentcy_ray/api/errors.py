"""One error for every answer of status 400 or above, framework rejections included.

It has the house's shape, and below ``/v1`` the shape that clients of that API read.
"""

from __future__ import annotations

from typing import Any

import asyncpg
import orjson
import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import Response

from agentcy_ray.api.error_shapes import Fault, dialect_of, written
from agentcy_ray.core.errors import AgentcyError, BadRequestError, InvalidError, RateLimitedError

log = structlog.get_logger(__name__)

_FRAMEWORK = {
    400: "bad_request",
    401: "unauthenticated",
    403: "permission_denied",
    404: "not_found",
    405: "method_not_allowed",
    406: "not_acceptable",
    413: "payload_too_large",
    415: "unsupported_media_type",
}


class ErrorDetail(BaseModel):
    """What went wrong, for people (``message``) and programs (``code``)."""

    code: str
    message: str
    request_id: str
    details: dict[str, Any]


class ErrorBody(BaseModel):
    """The body of every answer of status 400 or above."""

    error: ErrorDetail


def error_body(error: AgentcyError, request_id: str) -> dict[str, Any]:
    """The body of the answer for a typed error."""
    return {"error": {**error.body(), "request_id": request_id}}


def fault_of(error: AgentcyError, request_id: str) -> Fault:
    """A typed error, ready to be written in any shape."""
    return Fault(
        error.status, error.code, error.message, request_id, error.details, error.transient
    )


def error_response(error: AgentcyError, request_id: str, path: str = "") -> Response:
    """The answer for a typed error on a path."""
    headers: dict[str, str] = {}
    if isinstance(error, RateLimitedError) or error.status == 503:
        headers["retry-after"] = str(error.details.get("retry_after_secs", 1))
    if isinstance(error, RateLimitedError) and "limit" in error.details:
        for name in ("limit", "remaining", "reset_secs"):
            if name in error.details:
                header = f"x-ratelimit-{name.removesuffix('_secs')}"
                headers[header] = str(error.details[name])
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    return _respond(fault_of(error, request_id), path, headers)


def internal_fault(request_id: str) -> Fault:
    """A fault of ours: nothing of it is shown, the log has it."""
    message = f"something failed on our side; report request id {request_id}"
    return Fault(500, "internal", message, request_id)


def internal_response(request_id: str, path: str = "") -> Response:
    """The answer for a fault of ours on a path."""
    return _respond(internal_fault(request_id), path, {})


def install(app: FastAPI) -> None:
    """Handle typed errors, validation errors and the framework's own rejections."""

    @app.exception_handler(AgentcyError)
    async def typed(request: Request, error: AgentcyError) -> Response:
        if error.status >= 500:
            log.warning("request failed", code=error.code, error=error.message)
        return _answer(error, request)

    @app.exception_handler(asyncpg.DataError)
    async def unstorable(request: Request, error: asyncpg.DataError) -> Response:
        # A value that passed our models and no column takes: a NUL in a text, a number too large.
        message = f"a value in the request cannot be stored: {error.args[0]}; change it"
        return _answer(InvalidError(message), request)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        broken = next((f for f in error.errors() if f["type"] == "json_invalid"), None)
        if broken is not None:
            why = broken.get("ctx", {}).get("error", "it does not parse")
            message = f"the body is not JSON at byte {broken['loc'][-1]}: {why}"
            return _answer(BadRequestError(message), request)
        faults = [
            {"loc": ".".join(str(part) for part in fault["loc"]), "message": fault["msg"]}
            for fault in error.errors()
        ]
        first = f"{faults[0]['loc']}: {faults[0]['message']}" if faults else "see details"
        return _answer(InvalidError(f"the request is not valid: {first}", errors=faults), request)

    @app.exception_handler(HTTPException)
    async def framework(request: Request, error: HTTPException) -> Response:
        if isinstance(error.__cause__, AgentcyError):  # raised while the body was read
            return _answer(error.__cause__, request)
        code = _FRAMEWORK.get(error.status_code, "bad_request")
        message = f"{error.detail}; the routes are listed at /api/v1/openapi.json"
        fault = Fault(error.status_code, code, message, request_id(request))
        return _respond(fault, request.scope["path"], dict(error.headers or {}))

    _ = (typed, unstorable, invalid, framework)


def request_id(request: Request) -> str:
    """The id that the first middleware gave to the request."""
    return str(request.scope.get("state", {}).get("request_id", "req_unknown"))


def _answer(error: AgentcyError, request: Request) -> Response:
    return error_response(error, request_id(request), request.scope["path"])


def _respond(fault: Fault, path: str, headers: dict[str, str]) -> Response:
    status, body, more = written(fault, dialect_of(path))
    return Response(
        orjson.dumps(body, default=str),
        status_code=status,
        media_type="application/json",
        headers={**headers, **more},
    )
