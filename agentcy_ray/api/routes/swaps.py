"""Changing the embedding model while search answers."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from agentcy_ray.api.idempotency import once
from agentcy_ray.api.pagination import Cursor, Limit, Page
from agentcy_ray.api.permit import Allowed, permit
from agentcy_ray.api.services import services_of
from agentcy_ray.api.witness import witness
from agentcy_ray.core.ids import decode, encode
from agentcy_ray.ingest.swap.desk import SpaceState
from agentcy_ray.ingest.swap.records import Swap, SwapOptions
from agentcy_ray.ingest.swap.requests import SwapState

router = APIRouter(prefix="/rag/swaps", tags=["retrieval"])
Manager = Annotated[Allowed, permit("embedding.manage")]
Wait = Annotated[float, Query(ge=0, le=60, description="Seconds to wait for progress.")]


class NewSwap(BaseModel):
    """The model that is to answer, and how to get there."""

    model_config = ConfigDict(extra="forbid")

    to: str = Field(min_length=3, max_length=300)
    options: SwapOptions = SwapOptions()


@router.get("", response_model=Page[Swap])
async def list_swaps(
    caller: Manager, request: Request, limit: Limit = 50, cursor: Cursor = None
) -> Any:
    """Swaps of the organisation, newest first."""
    services = services_of(request)
    position = services.cursors.decode(cursor)
    rows = await services.embedding.swaps.list(
        caller.org_id, limit=limit + 1, before=UUID(position) if position else None
    )
    return services.cursors.page(rows, limit, lambda row: row.id)


@router.post("", status_code=202, response_model=SwapState)
async def start_swap(body: NewSwap, caller: Manager, request: Request) -> Response:
    """Fill a space of another model, compare it with the one that answers, and cut over.

    Search answers from the former space meanwhile, and publishes write both. A new space that the
    gate refuses waits in ``ready``. 409 ``state_conflict`` while a swap is under way.
    """

    async def start() -> SwapState:
        swaps = services_of(request).embedding.swaps
        state = await swaps.start(caller.principal, body.to, body.options)
        await witness(request, caller, "embedding.swap_started", _resource(state.swap))
        return state

    return await once(request, caller, start, 202)


@router.get("/{swap_id}")
async def read_swap(
    swap_id: str, caller: Manager, request: Request, wait_secs: Wait = 0
) -> SwapState:
    """A swap with the figures of its gate; with ``wait_secs`` the answer waits for progress."""
    services, found = services_of(request), decode("swp", swap_id)
    async with services.bell.listen(f"ch:jobs:{caller.org_id.hex}") as ear:
        state = await services.embedding.swaps.get(caller.org_id, found)
        if wait_secs and state.open:
            await ear.next(wait_secs)
            state = await services.embedding.swaps.get(caller.org_id, found)
    return state


@router.post("/{swap_id}/check", status_code=202)
async def check_swap(swap_id: str, caller: Manager, request: Request) -> SwapState:
    """Take the figures of a swap that waits in ``ready`` anew; it cuts over when they are good."""
    swaps = services_of(request).embedding.swaps
    return await swaps.check(caller.principal, decode("swp", swap_id))


@router.post("/{swap_id}/cancel")
async def cancel_swap(swap_id: str, caller: Manager, request: Request) -> SwapState:
    """Call a swap off before its cut-over; the space that it made is given up."""
    swaps = services_of(request).embedding.swaps
    state = await swaps.cancel(caller.principal, decode("swp", swap_id))
    await witness(request, caller, "embedding.swap_cancelled", _resource(state.swap))
    return state


@router.post("/{swap_id}/rollback")
async def roll_swap_back(swap_id: str, caller: Manager, request: Request) -> SpaceState:
    """Let the space answer again that this swap left; it was written all the time."""
    desk, found = services_of(request).embedding, decode("swp", swap_id)
    space = await desk.swaps.rollback(caller.principal, found)
    swap = await desk.swaps.get(caller.org_id, found)
    await witness(request, caller, "embedding.swap_rolled_back", _resource(swap.swap))
    return await desk.state(caller.org_id, space.id)


def _resource(swap: Swap) -> dict[str, Any]:
    return {
        "type": "embedding_swap",
        "id": encode("swp", swap.id),
        "model": swap.model,
        "status": swap.status,
    }
