"""One error shape for every answer of status 400 or above, framework rejections included."""

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


def error_response(error: AgentcyError, request_id: str) -> Response:
    """The answer for a typed error."""
    headers: dict[str, str] = {}
    if isinstance(error, RateLimitedError) or error.status == 503:
        headers["retry-after"] = str(error.details.get("retry_after_secs", 1))
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    return _respond(error.status, {**error.body(), "request_id": request_id}, headers)


def internal_response(request_id: str) -> Response:
    """The answer for a fault of ours: nothing of it is shown, the log has it."""
    body = {
        "code": "internal",
        "message": f"something failed on our side; report request id {request_id}",
        "request_id": request_id,
        "details": {},
    }
    return _respond(500, body, {})


def install(app: FastAPI) -> None:
    """Handle typed errors, validation errors and the framework's own rejections."""

    @app.exception_handler(AgentcyError)
    async def typed(request: Request, error: AgentcyError) -> Response:
        if error.status >= 500:
            log.warning("request failed", code=error.code, error=error.message)
        return error_response(error, request_id(request))

    @app.exception_handler(asyncpg.DataError)
    async def unstorable(request: Request, error: asyncpg.DataError) -> Response:
        # A value that passed our models and no column takes: a NUL in a text, a number too large.
        message = f"a value in the request cannot be stored: {error.args[0]}; change it"
        return error_response(InvalidError(message), request_id(request))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        broken = next((f for f in error.errors() if f["type"] == "json_invalid"), None)
        if broken is not None:
            why = broken.get("ctx", {}).get("error", "it does not parse")
            message = f"the body is not JSON at byte {broken['loc'][-1]}: {why}"
            return error_response(BadRequestError(message), request_id(request))
        faults = [
            {"loc": ".".join(str(part) for part in fault["loc"]), "message": fault["msg"]}
            for fault in error.errors()
        ]
        first = f"{faults[0]['loc']}: {faults[0]['message']}" if faults else "see details"
        return error_response(
            InvalidError(f"the request is not valid: {first}", errors=faults), request_id(request)
        )

    @app.exception_handler(HTTPException)
    async def framework(request: Request, error: HTTPException) -> Response:
        if isinstance(error.__cause__, AgentcyError):  # raised while the body was read
            return error_response(error.__cause__, request_id(request))
        code = _FRAMEWORK.get(error.status_code, "bad_request")
        body = {
            "code": code,
            "message": f"{error.detail}; the routes are listed at /api/v1/openapi.json",
            "request_id": request_id(request),
            "details": {},
        }
        return _respond(error.status_code, body, dict(error.headers or {}))

    _ = (typed, unstorable, invalid, framework)


def request_id(request: Request) -> str:
    """The id that the first middleware gave to the request."""
    return str(request.scope.get("state", {}).get("request_id", "req_unknown"))


def _respond(status: int, error: dict[str, Any], headers: dict[str, str]) -> Response:
    return Response(
        orjson.dumps({"error": error}, default=str),
        status_code=status,
        media_type="application/json",
        headers=headers,
    )
