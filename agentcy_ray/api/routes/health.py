"""Is it up? ``/health``, ``/health/live``, ``/health/ready``, ``/metrics``."""

from __future__ import annotations

import hmac
from typing import Any

from fastapi import FastAPI, Request
from pydantic import SecretStr
from starlette.responses import JSONResponse, Response

from agentcy_ray import __version__
from agentcy_ray.api.errors import error_response
from agentcy_ray.api.metrics import exposition
from agentcy_ray.core.errors import UnauthenticatedError


async def health(request: Request) -> Response:
    """Each part's state; 503 only when Postgres is away, ``degraded`` for any other."""
    services = getattr(request.app.state, "services", None)
    if services is None:
        return JSONResponse({"status": "starting", "version": __version__}, 503)
    checks = await services.check()
    ok = all(state == "ok" for state in checks.values())
    away = checks["database"] != "ok"
    settings = request.app.state.settings
    body: dict[str, Any] = {
        "status": "ok" if ok else "degraded",
        "version": __version__,
        "features": {"policies": settings.agentcy_features_policies},
        "checks": checks,
        "engine": services.engine.capabilities.engine,
        "default_model": services.models.default_reference(),
        "embedder": settings.embedding_model,
    }
    return JSONResponse(body, 503 if away else 200)


async def live(_: Request) -> Response:
    """The process answers."""
    return JSONResponse({"status": "ok"})


async def ready(request: Request) -> Response:
    """The stores were opened and Postgres answers."""
    services = getattr(request.app.state, "services", None)
    good = services is not None and (await services.check("database"))["database"] == "ok"
    return JSONResponse({"status": "ok" if good else "starting"}, 200 if good else 503)


async def metrics(request: Request) -> Response:
    """Prometheus text: the figures of every process of the platform, whichever replica answers.

    With ``METRICS_TOKEN`` set it asks for that bearer.
    """
    token: SecretStr | None = request.app.state.settings.metrics_token
    if token is not None:
        sent = request.headers.get("authorization", "")
        if not hmac.compare_digest(sent.encode(), f"Bearer {token.get_secret_value()}".encode()):
            error = UnauthenticatedError("send METRICS_TOKEN as the bearer token")
            return error_response(error, request.state.request_id)
    services = getattr(request.app.state, "services", None)
    if services is None:
        return JSONResponse({"status": "starting", "version": __version__}, 503)
    text = await exposition(services.metrics, services.shared_metrics, services.db)
    return Response(text, media_type="text/plain; version=0.0.4")


def install(app: FastAPI) -> None:
    """Add the routes that lie outside the versioned API."""
    for path, handler in (
        ("/health", health),
        ("/health/live", live),
        ("/health/ready", ready),
        ("/metrics", metrics),
    ):
        app.add_route(path, handler, include_in_schema=False)
