"""The OpenAPI document: every route, its permission, and the one error body on each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

from agentcy_ray.api import ingest_paths
from agentcy_ray.api.error_shapes import V1, AnthropicErrorBody, OpenAiErrorBody, dialect_of
from agentcy_ray.api.errors import ErrorBody
from agentcy_ray.api.permit import ANY, permission_of

PREFIX = "/api/v1"
PING = f"{PREFIX}/auth/ping"
OPEN = frozenset({
    "/auth/config", "/auth/login", "/auth/refresh", "/auth/register", "/auth/oidc/start",
    "/auth/oidc/callback",
})  # fmt: skip
"""Routes below the prefix that ask for no login."""
_BODIES = {
    "house": ErrorBody.__name__,
    "openai": OpenAiErrorBody.__name__,
    "anthropic": AnthropicErrorBody.__name__,
}


def permissions(app: FastAPI) -> dict[tuple[str, str], str | None]:
    """(method, path) of each route below the prefix → its permission; None = it names none."""
    return _permissions(app, PREFIX) | {("GET", PING): ANY}


def v1_permissions(app: FastAPI) -> dict[tuple[str, str], str | None]:
    """The same of the routes that clients of other vendors speak."""
    return _permissions(app, V1)


def _permissions(app: FastAPI, prefix: str) -> dict[tuple[str, str], str | None]:
    return {
        (method, route.path_format): next(_named(route.dependant), None)
        for route in app.routes
        if isinstance(route, APIRoute) and route.path.startswith(f"{prefix}/")
        for method in route.methods
    }


def _named(dependant: Dependant) -> Iterator[str]:
    for child in dependant.dependencies:
        name = permission_of(child.call)
        if name is not None:
            yield name
        yield from _named(child)


def build(app: FastAPI) -> dict[str, Any]:
    """The document, with what FastAPI does not know of."""
    schema = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes
    )
    paths: dict[str, Any] = schema.setdefault("paths", {})
    paths[PING] = {"get": _ping()}
    paths[f"{PREFIX}/openapi.json"] = {"get": _document()}
    components = schema.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for body in (ErrorBody, OpenAiErrorBody, AnthropicErrorBody):
        model = body.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas |= model.pop("$defs", {}) | {body.__name__: model}
    schemas |= ingest_paths.schemas()
    schemas.pop("HTTPValidationError", None)
    schemas.pop("ValidationError", None)
    components["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT or agk_…"},
        "api_key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        ingest_paths.SCHEME: {"type": "http", "scheme": "bearer", "bearerFormat": "ctx_…"},
    }
    needed = permissions(app) | v1_permissions(app)
    for path, methods in paths.items():
        for method, operation in methods.items():
            _complete(operation, needed.get((method.upper(), path)), _BODIES[dialect_of(path)])
    for path, operations in ingest_paths.document().items():
        errors = {"4XX": _error("ErrorBody"), "5XX": _error("ErrorBody")}
        operations["post"]["responses"] = errors | operations["post"]["responses"]
        paths[PREFIX + path] = operations
    return schema


def _complete(operation: dict[str, Any], permission: str | None, error: str) -> None:
    """Put error body and permission into an operation."""
    operation["responses"].pop("422", None)
    operation["responses"]["4XX"] = operation["responses"]["5XX"] = _error(error)
    operation["security"] = [] if permission is None else [{"bearer": []}, {"api_key": []}]
    if permission not in (None, ANY):
        operation["x-permission"] = permission


def _error(body: str) -> dict[str, Any]:
    return {
        "description": "Error",
        "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{body}"}}},
    }


def _ping() -> dict[str, Any]:
    return {
        "tags": ["auth"],
        "summary": "The cheapest authenticated route",
        "operationId": "ping",
        "responses": {
            "200": {
                "description": "The token is good.",
                "content": {"application/json": {"example": {"ok": True}}},
            }
        },
    }


def _document() -> dict[str, Any]:
    return {
        "tags": ["auth"],
        "summary": "This document",
        "operationId": "openapi",
        "responses": {"200": {"description": "OpenAPI 3.1.", "content": {"application/json": {}}}},
    }
