"""Artifacts: whole tool results that were too large for a model, and what agents published."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote
from uuid import UUID

from fastapi import APIRouter, Request
from starlette.responses import Response

from agentcy_ray.agent.artifacts import Artifact
from agentcy_ray.api.pagination import Cursor, Limit, Page
from agentcy_ray.api.permit import Allowed, permit
from agentcy_ray.api.services import services_of
from agentcy_ray.core.ids import decode

router = APIRouter(prefix="/artifacts", tags=["artifacts"])
Reader = Annotated[Allowed, permit("artifact.read")]


@router.get("", response_model=Page[Artifact])
async def list_artifacts(
    caller: Reader, request: Request, limit: Limit = 50, cursor: Cursor = None
) -> Any:
    """Artifacts that the caller may read, newest first: published ones, and results of own calls.

    Owners and admins read every one.
    """
    services = services_of(request)
    position = services.cursors.decode(cursor)
    rows = await services.gates.artifacts.list(
        caller.org_id,
        reader=caller.principal,
        limit=limit + 1,
        before=UUID(position) if position else None,
    )
    return services.cursors.page(rows, limit, lambda row: row.id)


@router.get("/{artifact_id}")
async def read_artifact(artifact_id: str, caller: Reader, request: Request) -> Artifact:
    """One artifact, without its bytes."""
    return await services_of(request).gates.artifacts.get(
        caller.org_id, decode("art", artifact_id), reader=caller.principal
    )


@router.get("/{artifact_id}/content", response_class=Response)
async def read_artifact_content(artifact_id: str, caller: Reader, request: Request) -> Response:
    """Its bytes, as a file to be saved."""
    artifacts, wanted = services_of(request).gates.artifacts, decode("art", artifact_id)
    artifact = await artifacts.get(caller.org_id, wanted, reader=caller.principal)
    return Response(
        await artifacts.read(caller.org_id, wanted),
        media_type=artifact.media_type,
        headers={"content-disposition": f"attachment; filename*=UTF-8''{quote(artifact.name)}"},
    )
