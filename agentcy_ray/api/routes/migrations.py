"""Moving the organisation from the Basic engine to the Advanced one."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict

from agentcy_ray.api.idempotency import once
from agentcy_ray.api.pagination import Cursor, Limit, Page
from agentcy_ray.api.permit import Allowed, permit
from agentcy_ray.api.services import services_of
from agentcy_ray.api.witness import witness
from agentcy_ray.context.migration.records import Migration
from agentcy_ray.core.ids import decode, encode
from agentcy_ray.ingest.migration.requests import MigrationState

router = APIRouter(prefix="/context/migrations", tags=["context"])
Mover = Annotated[Allowed, permit("engine.migrate")]


class NewMigration(BaseModel):
    """Where to; there is one way only."""

    model_config = ConfigDict(extra="forbid")

    to: Literal["advanced", "basic"] = "advanced"


@router.get("", response_model=Page[Migration])
async def list_migrations(
    caller: Mover, request: Request, limit: Limit = 50, cursor: Cursor = None
) -> Any:
    """Migrations of the organisation, newest first."""
    services = services_of(request)
    position = services.cursors.decode(cursor)
    rows = await services.migrations.list(
        caller.org_id, limit=limit + 1, before=UUID(position) if position else None
    )
    return services.cursors.page(rows, limit, lambda row: row.id)


@router.post("", status_code=202, response_model=MigrationState)
async def start_migration(
    caller: Mover, request: Request, body: NewMigration | None = None
) -> Response:
    """Move to the Advanced engine in the background, or go on with a move that failed.

    Queries and syncs go on meanwhile. 409 ``migration_one_way`` once the organisation is there,
    ``state_conflict`` while a move is under way.
    """
    to = (body or NewMigration()).to

    async def start() -> MigrationState:
        state = await services_of(request).migrations.start(caller.principal, to)
        await witness(request, caller, "engine.migration_started", _resource(state))
        return state

    return await once(request, caller, start, 202)


@router.get("/{migration_id}")
async def read_migration(
    migration_id: str,
    caller: Mover,
    request: Request,
    wait_secs: Annotated[float, Query(ge=0, le=60)] = 0,
) -> MigrationState:
    """A migration; with ``wait_secs`` the answer waits for progress, or for its end."""
    services, found = services_of(request), decode("mig", migration_id)
    async with services.bell.listen(f"ch:jobs:{caller.org_id.hex}") as ear:
        state = await services.migrations.get(caller.org_id, found)
        if wait_secs and state.open:
            await ear.next(wait_secs)
            state = await services.migrations.get(caller.org_id, found)
    return state


@router.post("/{migration_id}/cancel")
async def cancel_migration(migration_id: str, caller: Mover, request: Request) -> MigrationState:
    """Call a migration off; Basic was complete all the time, and goes on alone.

    409 ``migration_one_way`` after the cut-over.
    """
    migrations = services_of(request).migrations
    state = await migrations.cancel(caller.principal, decode("mig", migration_id))
    await witness(request, caller, "engine.migration_cancelled", _resource(state))
    return state


def _resource(state: MigrationState) -> dict[str, Any]:
    return {"type": "migration", "id": encode("mig", state.migration.id),
            "status": state.migration.status}  # fmt: skip
