"""The API as one FastAPI application.

The application is made without services and opens them in its lifespan: Serve builds it on the
replica, tests build it in process, and neither shares an open connection with anyone.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.middleware.cors import CORSMiddleware

from agentcy_ray import __version__
from agentcy_ray.api import errors
from agentcy_ray.api.authentication import Caller
from agentcy_ray.api.metrics import Metrics
from agentcy_ray.api.middleware import Authentication, BodyLimit, RequestFrame
from agentcy_ray.api.routes import all_routers, outside
from agentcy_ray.api.services import Services
from agentcy_ray.core.errors import StoreUnavailableError
from agentcy_ray.core.settings import Settings

PREFIX = "/api/v1"
Opener = Callable[[], Awaitable[Services]]


def create_app(settings: Settings, open_services: Opener) -> FastAPI:
    """The application; ``open_services`` is awaited when it starts.

    Errors of the opener end the start: a replica that cannot reach its stores must not serve.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        services = await open_services()
        app.state.services = services
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
    )
    app.state.settings = settings
    app.state.metrics = Metrics()
    errors.install(app)
    for router in all_routers():
        app.include_router(router, prefix=PREFIX)
    outside(app)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    # The last one added is the outermost.
    app.add_middleware(Authentication, authenticator=_LateAuthenticator(app))
    app.add_middleware(
        CORSMiddleware,
        allow_origins=list(settings.cors_allowed_origins),
        allow_methods=["*"],
        allow_headers=["authorization", "content-type", "idempotency-key", "last-event-id"],
        expose_headers=["x-request-id", "idempotent-replay"],
    )
    app.add_middleware(BodyLimit, limit=settings.agentcy_max_body_bytes)
    app.add_middleware(RequestFrame, observe=app.state.metrics.request)
    return app


class _LateAuthenticator:
    """Middleware is built before the services are open; this finds them at the request."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app

    async def bearer(self, header: bytes) -> Caller:
        services: Services | None = getattr(self._app.state, "services", None)
        if services is None:
            raise StoreUnavailableError("the platform is starting; try again in a moment")
        return await services.authenticator.bearer(header)


def _openapi(app: FastAPI) -> dict[str, Any]:
    """The schema with the one error body on every operation, built once."""
    if app.openapi_schema is None:
        schema = get_openapi(
            title=app.title,
            version=app.version,
            description=app.description,
            routes=app.routes,
        )
        schemas = schema.setdefault("components", {}).setdefault("schemas", {})
        model = errors.ErrorBody.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas |= model.pop("$defs", {}) | {"ErrorBody": model}
        schemas.pop("HTTPValidationError", None)
        schemas.pop("ValidationError", None)
        schema["components"]["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}
        }
        answer = {
            "description": "Error",
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorBody"}}},
        }
        for path in schema.get("paths", {}).values():
            for operation in path.values():
                operation["responses"].pop("422", None)
                operation["responses"]["4XX"] = operation["responses"]["5XX"] = answer
        app.openapi_schema = schema
    return app.openapi_schema
