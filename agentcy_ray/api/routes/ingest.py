"""Where records are posted: plain routes with an authentication of their own, the ingest token.

They are described in the OpenAPI document by hand, in ``api/ingest_paths.py``.
"""

from __future__ import annotations

import orjson
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import Scope

from agentcy_ray.api.ingest_paths import BY_BEARER, BY_TOKEN, OTLP
from agentcy_ray.api.openapi import PREFIX
from agentcy_ray.api.services import services_of
from agentcy_ray.core.errors import AgentcyError, NotFoundError, UnauthenticatedError
from agentcy_ray.core.ids import encode
from agentcy_ray.ingest.continuous.otlp import SIGNALS
from agentcy_ray.ingest.continuous.records import Pipeline
from agentcy_ray.ingest.continuous.tokens import Ticket

_GRPC = {400: 3, 401: 16, 403: 7, 404: 5, 413: 8, 415: 3, 422: 3, 429: 8, 503: 14, 504: 4}
"""Status codes of gRPC, which OTLP's error bodies speak in."""
_INTERNAL = 13


async def by_token(request: Request) -> Response:
    """Records for the pipeline of the token in the path."""
    ticket = await services_of(request).intake.enter(request.path_params["token"])
    return await _post(request, ticket)


async def by_bearer(request: Request) -> Response:
    """Records for the pipeline in the path, with its token as the bearer."""
    ticket = await services_of(request).intake.enter(_bearer(request))
    _is_of(ticket.pipeline, request.path_params["pipeline_id"])
    return await _post(request, ticket)


async def otlp(request: Request) -> Response:
    """One OTLP export; errors have OTLP's shape too."""
    signal = request.path_params["signal"]
    try:
        intake = services_of(request).intake
        ticket = await intake.enter(_bearer(request))
        _is_of(ticket.pipeline, request.path_params["pipeline"])
        if signal not in SIGNALS:
            raise NotFoundError(f"there is no signal {signal!r}; there are: {', '.join(SIGNALS)}")
        body = await request.body()
        answer = await intake.export(ticket, signal, request.headers, body)
    except AgentcyError as error:
        return _status(error)
    return Response(orjson.dumps(answer), media_type="application/json")


async def _post(request: Request, ticket: Ticket) -> Response:
    body = await request.body()
    answer = await services_of(request).intake.post(ticket, request.headers, body)
    return Response(orjson.dumps(answer.body), answer.status, media_type="application/json")


def _bearer(request: Request) -> str:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise UnauthenticatedError("send `Authorization: Bearer ctx_…`, a token of the pipeline")
    return token


def _is_of(pipeline: Pipeline, asked: str) -> None:
    """A token opens its own pipeline alone, under its id or its name."""
    if asked not in (encode("pip", pipeline.id), pipeline.name):
        raise UnauthenticatedError(
            "the ingest token is another pipeline's; make one for this pipeline",
            code="token_invalid",
        )


def _status(error: AgentcyError) -> Response:
    """A ``google.rpc.Status``, the body of OTLP's errors."""
    headers = {}
    if error.status in (429, 503):
        headers["retry-after"] = str(error.details.get("retry_after_secs", 1))
    body = {"code": _GRPC.get(error.status, _INTERNAL), "message": error.message}
    return Response(orjson.dumps(body), error.status, headers, "application/json")


class _Counted(Route):
    """A plain route that requests are counted under, as those of FastAPI are."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        match, found = super().matches(scope)
        return match, found if match is Match.NONE else {**found, "route": self}


def install(app: FastAPI) -> None:
    """Add the routes."""
    for path, handler in ((BY_TOKEN, by_token), (BY_BEARER, by_bearer), (OTLP, otlp)):
        app.router.routes.append(_Counted(PREFIX + path, handler, methods=["POST"]))
