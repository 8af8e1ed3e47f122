"""One file per area of the API."""

from __future__ import annotations

from fastapi import APIRouter, FastAPI
from starlette.routing import Route

from agentcy_ray.api.error_shapes import V1
from agentcy_ray.api.openapi import PING
from agentcy_ray.api.routes import (
    access_requests,
    activity,
    agents,
    api_keys,
    approvals,
    artifacts,
    audit,
    auth,
    context,
    context_pipelines,
    context_query,
    conversations,
    health,
    ingest,
    invites,
    jobs,
    migrations,
    oidc,
    org,
    policies,
    rag,
    realms,
    registration,
    runs,
    settings,
    sources,
    spaces,
    swaps,
    tools,
    users,
)
from agentcy_ray.api.routes.v1 import chat, embeddings, models


def all_routers() -> list[APIRouter]:
    """The routers below the versioned prefix."""
    areas = (
        auth, oidc, registration, org, invites, users, api_keys, sources, realms, context,
        context_query, context_pipelines, migrations, rag, spaces, swaps, conversations, runs,
        tools, approvals, agents, audit, jobs, policies, settings, access_requests,
        artifacts, activity,
    )  # fmt: skip
    return [area.router for area in areas]


def outside(app: FastAPI) -> None:
    """Routes outside the versioned API, and the hot ones that bypass FastAPI's machinery."""
    health.install(app)
    ingest.install(app)
    for area in (models, chat, embeddings):
        app.include_router(area.router, prefix=V1)
    # First, so that a request for it is not matched against every other route before.
    app.router.routes.insert(0, Route(PING, auth.ping, methods=["GET"]))
