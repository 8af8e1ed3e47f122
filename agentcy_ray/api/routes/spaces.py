"""Embedding spaces: what made the vectors, how far one is filled, which one answers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict

from agentcy_ray.api.idempotency import once
from agentcy_ray.api.pagination import Cursor, Limit, Page
from agentcy_ray.api.permit import Allowed, permit
from agentcy_ray.api.services import services_of
from agentcy_ray.api.witness import witness
from agentcy_ray.core.ids import decode, encode
from agentcy_ray.ingest.backfill.records import EmbedError
from agentcy_ray.ingest.swap.desk import BackfillChange, BackfillStart, NewSpace, SpaceState

router = APIRouter(prefix="/rag/spaces", tags=["retrieval"])
Manager = Annotated[Allowed, permit("embedding.manage")]
Wait = Annotated[float, Query(ge=0, le=60, description="Seconds to wait for progress.")]


class Activation(BaseModel):
    """Whether a space answers whatever its gate says."""

    model_config = ConfigDict(extra="forbid")

    force: bool = False


@router.get("", response_model=Page[SpaceState])
async def list_spaces(
    caller: Manager, request: Request, limit: Limit = 50, cursor: Cursor = None
) -> Any:
    """Spaces of the organisation, newest first; dropped ones are not among them."""
    services = services_of(request)
    rows = list(await services.embedding.states(caller.org_id))
    position = services.cursors.decode(cursor)
    if position is not None:
        places = [encode("spc", row.space.id) for row in rows]
        rows = rows[places.index(position) + 1 :] if position in places else []
    return services.cursors.page(rows, limit, lambda row: encode("spc", row.space.id))


@router.post("", status_code=202, response_model=SpaceState)
async def create_space(body: NewSpace, caller: Manager, request: Request) -> Response:
    """Make a space of another model beside the one that answers, and fill it in the background.

    409 ``space_active`` or ``state_conflict`` where the organisation has one like it.
    """

    async def create() -> SpaceState:
        state = await services_of(request).embedding.create(caller.principal, body)
        await witness(request, caller, "embedding.space_created", _resource(state))
        return state

    return await once(request, caller, create, 202)


@router.get("/{space_id}")
async def read_space(
    space_id: str, caller: Manager, request: Request, wait_secs: Wait = 0
) -> SpaceState:
    """A space with its backfill; with ``wait_secs`` the answer waits for progress, or its end."""
    services, found = services_of(request), decode("spc", space_id)
    async with services.bell.listen(f"ch:jobs:{caller.org_id.hex}") as ear:
        state = await services.embedding.state(caller.org_id, found)
        if wait_secs and state.open:
            await ear.next(wait_secs)
            state = await services.embedding.state(caller.org_id, found)
    return state


@router.delete("/{space_id}", status_code=204)
async def drop_space(space_id: str, caller: Manager, request: Request) -> Response:
    """Remove a space and its vectors for good.

    409 ``space_active`` where it answers, ``state_conflict`` while it is being filled or a swap
    goes to it.
    """
    await services_of(request).embedding.drop(caller.principal, decode("spc", space_id))
    resource = {"type": "embedding_space", "id": space_id, "status": "dropped"}
    await witness(request, caller, "embedding.space_dropped", resource)
    return Response(status_code=204)


@router.post("/{space_id}/backfill", status_code=202)
async def fill_space(
    space_id: str, caller: Manager, request: Request, body: BackfillStart | None = None
) -> SpaceState:
    """Fill a space that is being built; one that is under way is answered instead."""
    desk = services_of(request).embedding
    state = await desk.fill(caller.principal, decode("spc", space_id), body or BackfillStart())
    await witness(request, caller, "embedding.backfill_started", _resource(state))
    return state


@router.post("/{space_id}/backfill/pause")
async def pause_backfill(space_id: str, caller: Manager, request: Request) -> SpaceState:
    """Hold the backfill; its worker stops within a few seconds."""
    return await _control(space_id, caller, request, "pause")


@router.post("/{space_id}/backfill/resume")
async def resume_backfill(
    space_id: str, caller: Manager, request: Request, body: BackfillChange | None = None
) -> SpaceState:
    """Go on with a backfill that is paused or failed, within other bounds where some are named."""
    return await _control(space_id, caller, request, "resume", body)


@router.post("/{space_id}/backfill/cancel")
async def cancel_backfill(space_id: str, caller: Manager, request: Request) -> SpaceState:
    """End the backfill; its space fails, and may be dropped."""
    return await _control(space_id, caller, request, "cancel")


@router.get("/{space_id}/backfill/errors", response_model=Page[EmbedError])
async def list_backfill_errors(
    space_id: str, caller: Manager, request: Request, limit: Limit = 50, cursor: Cursor = None
) -> Any:
    """Texts that the model refused, by key; they are tried again apart and fail no backfill."""
    services = services_of(request)
    latest = await services.embedding.latest(caller.org_id, decode("spc", space_id))
    rows = await services.embedding.backfills.errors(
        caller.org_id, latest.id, after=services.cursors.decode(cursor), limit=limit + 1
    )
    return services.cursors.page(rows, limit, lambda row: row.chunk_key)


@router.post("/{space_id}/check")
async def check_space(space_id: str, caller: Manager, request: Request) -> SpaceState:
    """Compare the index with an exact search over 200 sampled vectors."""
    return await services_of(request).embedding.check(caller.principal, decode("spc", space_id))


@router.post("/{space_id}/activate")
async def activate_space(
    space_id: str, caller: Manager, request: Request, body: Activation | None = None
) -> SpaceState:
    """Let this space answer from now on; of a retired one that is the roll-back.

    409 ``space_active``, or ``state_conflict`` while it is not complete or its gate says no.
    """
    force = body is not None and body.force
    desk = services_of(request).embedding
    state = await desk.activate(caller.principal, decode("spc", space_id), force=force)
    resource = {**_resource(state), "forced": force}
    await witness(request, caller, "embedding.space_activated", resource)
    return state


async def _control(
    space_id: str,
    caller: Allowed,
    request: Request,
    verb: Literal["pause", "resume", "cancel"],
    change: BackfillChange | None = None,
) -> SpaceState:
    desk = services_of(request).embedding
    state = await desk.control(caller.principal, decode("spc", space_id), verb, change)
    await witness(request, caller, f"embedding.backfill_{verb}", _resource(state))
    return state


def _resource(state: SpaceState) -> dict[str, Any]:
    space = state.space
    return {
        "type": "embedding_space",
        "id": encode("spc", space.id),
        "embedder": space.embedder,
        "status": space.status,
    }
