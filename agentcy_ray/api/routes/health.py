"""Is it up? ``/health``, ``/health/live``, ``/health/ready``, ``/metrics``."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from starlette.responses import JSONResponse, Response

from agentcy_ray import __version__


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
    """Prometheus text."""
    return Response(request.app.state.metrics.text(), media_type="text/plain; version=0.0.4")


def install(app: FastAPI) -> None:
    """Add the routes that lie outside the versioned API."""
    for path, handler in (
        ("/health", health),
        ("/health/live", live),
        ("/health/ready", ready),
        ("/metrics", metrics),
    ):
        app.add_route(path, handler, include_in_schema=False)
