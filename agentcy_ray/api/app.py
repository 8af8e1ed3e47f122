"""The API as one FastAPI application.

The application is made without services and opens them in its lifespan: Serve builds it on the
replica, tests build it in process, and neither shares an open connection with anyone.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI

from agentcy_ray import __version__
from agentcy_ray.api import errors, ingest_paths, openapi
from agentcy_ray.api.authentication import Caller
from agentcy_ray.api.gate import Gate
from agentcy_ray.api.metrics import HttpMeters
from agentcy_ray.api.middleware import Cors, Frame
from agentcy_ray.api.openapi import PREFIX
from agentcy_ray.api.origin import Origin
from agentcy_ray.api.routes import all_routers, outside
from agentcy_ray.api.services import Services
from agentcy_ray.core.errors import StoreUnavailableError
from agentcy_ray.core.metrics import Metrics
from agentcy_ray.core.settings import Settings

Opener = Callable[[], Awaitable[Services]]


def create_app(
    settings: Settings, open_services: Opener, *, peer_header: bytes | None = None
) -> FastAPI:
    """The application.

    Args:
        settings: the install's settings.
        open_services: awaited when it starts. Errors of it end the start: a replica that cannot
            reach its stores must not serve.
        peer_header: the header by which the ingress in front tells who connected to it.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        services = await open_services()
        app.state.services = services
        app.state.requests = HttpMeters(services.metrics)
        try:
            yield
        finally:
            await services.close()

    app = FastAPI(
        title="agentcy-ray",
        version=__version__,
        description="A governed agent platform over a company's own knowledge.",
        lifespan=lifespan,
        openapi_url=f"{PREFIX}/openapi.json",
        docs_url=None,
        redoc_url=None,
        separate_input_output_schemas=False,
        redirect_slashes=False,
    )
    app.state.settings = settings
    app.state.requests = HttpMeters(Metrics())  # until the process has its own
    errors.install(app)
    for router in all_routers():
        app.include_router(router, prefix=PREFIX)
    outside(app)
    app.openapi = lambda: _document(app)  # type: ignore[method-assign]

    def own_door(path: str) -> int | None:
        own = path.startswith(PREFIX) and ingest_paths.own_door(path.removeprefix(PREFIX))
        return settings.pipeline_max_body_bytes if own else None

    # The last one added is the outermost.
    app.add_middleware(
        Gate,
        authenticator=_LateAuthenticator(app),
        limit=settings.agentcy_max_body_bytes,
        own_door=own_door,
    )
    if settings.cors_allowed_origins:
        app.add_middleware(
            Cors,
            allow_origins=settings.cors_allowed_origins,
            allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
            allow_headers=[
                "authorization",
                "content-type",
                "idempotency-key",
                "last-event-id",
                "x-api-key",
                "x-request-id",
                "anthropic-version",
            ],
            expose_headers=[
                "x-request-id",
                "idempotent-replay",
                "retry-after",
                "x-ratelimit-limit",
                "x-ratelimit-remaining",
                "x-ratelimit-reset",
            ],
        )

    def observe(method: str, route: str, status: int, seconds: float) -> None:
        app.state.requests.request(method, route, status, seconds)

    https = settings.agentcy_tls_cert is not None or (settings.agentcy_public_url or "").startswith(
        "https://"
    )
    app.add_middleware(Frame, observe=observe, https=https)
    app.add_middleware(Origin, trusted=settings.trusted_proxies, peer_header=peer_header)
    return app


class _LateAuthenticator:
    """Middleware is built before the services are open; this finds them at the request."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app

    async def bearer(self, header: bytes) -> Caller:
        services: Services | None = getattr(self._app.state, "services", None)
        if services is None:
            raise StoreUnavailableError("the platform is starting; try again in a moment")
        access = services.access
        caller = await access.authenticator.bearer(header)
        if not access.limits.admit(caller.principal):
            await access.limits.check(caller.principal)
        return caller


def _document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document, built once."""
    if app.openapi_schema is None:
        app.openapi_schema = openapi.build(app)
    return app.openapi_schema
