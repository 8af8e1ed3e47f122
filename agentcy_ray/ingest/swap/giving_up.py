"""Giving up the space of a swap that was called off."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentcy_ray.core.errors import NotFoundError
from agentcy_ray.ingest.backfill.records import OPEN

if TYPE_CHECKING:
    from agentcy_ray.ingest.backfill.store import BackfillStore
    from agentcy_ray.ingest.swap.records import Swap
    from agentcy_ray.retrieval.spaces import SpaceStore


async def give_up(spaces: SpaceStore, backfills: BackfillStore, swap: Swap) -> None:
    """Let publishes pass by the space that nobody wants any more, and upkeep drop it.

    One that answered before stays, since it may do so again; one that is gone needs nothing.
    """
    if swap.to_space is None:
        return
    org_id = swap.org_id
    try:
        space = await spaces.get(org_id, swap.to_space)
    except NotFoundError:
        return
    if space.status not in {"building", "ready"}:
        return
    filling = await backfills.list(org_id, space_id=space.id, limit=1)
    if filling and filling[0].status in OPEN:
        await backfills.cancel(org_id, filling[0].id)
    space = await spaces.get(org_id, space.id)
    if space.status in {"building", "ready"}:
        error = {"code": "cancelled", "message": "its swap was cancelled", "details": {}}
        await spaces.fail(org_id, space.id, error)
