"""User activity: what people did in the console."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from agentcy_ray.api.idempotency import replied
from agentcy_ray.api.pagination import Cursor, Limit, Page
from agentcy_ray.api.permit import Allowed, permit
from agentcy_ray.api.services import services_of
from agentcy_ray.core.ids import decode
from agentcy_ray.identity.activity import MAX_EVENTS, Activity, Happened

router = APIRouter(prefix="/activity", tags=["activity"])
Reader = Annotated[Allowed, permit("activity.read")]
Writer = Annotated[Allowed, permit("activity.write")]


class NewActivity(BaseModel):
    """What the caller did since they last told."""

    model_config = ConfigDict(extra="forbid")

    events: list[Happened] = Field(max_length=MAX_EVENTS)


@router.get("", response_model=Page[Activity])
async def list_activity(
    caller: Reader,
    request: Request,
    user_id: Annotated[str | None, Query(description="usr_…; unset: everybody.")] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Any:
    """What the organisation's users did, newest first. It is kept for 90 days."""
    services = services_of(request)
    position = services.cursors.decode(cursor)
    rows = await services.access.activities.list(
        caller.org_id,
        user_id=decode("usr", user_id) if user_id else None,
        limit=limit + 1,
        before=UUID(position) if position else None,
    )
    return services.cursors.page(rows, limit, lambda row: row.id)


@router.post("", status_code=204)
async def note_activity(body: NewActivity, caller: Writer, request: Request) -> Response:
    """Tell what the caller did; 100 events at most."""

    async def note() -> None:
        await services_of(request).access.activities.note(caller.principal, body.events)

    _, replayed = await replied(request, caller, note, 204)
    return Response(status_code=204, headers={"idempotent-replay": "true"} if replayed else None)
