"""Dropping spaces that nobody can go back to any more."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from agentcy_ray.core.errors import ConfigError, ConflictError, StoreUnavailableError
from agentcy_ray.core.states import EMBEDDING_SWAP, sources_of

if TYPE_CHECKING:
    from agentcy_ray.retrieval.spaces import SpaceStore
    from agentcy_ray.retrieval.vector_backends import VectorBackends
    from agentcy_ray.stores.postgres import Database

# Apart from the drop, so that a process which ends in between leaves nothing undone.
_OVER = """
UPDATE embedding_swaps s SET status = 'done', ended_at = clock_timestamp()
FROM embedding_spaces e
WHERE e.org_id = s.org_id AND e.id = s.from_space AND e.status = 'dropped' AND s.status = ANY($1)
"""
_log = structlog.get_logger(__name__)


async def drop_expired(db: Database, spaces: SpaceStore, backends: VectorBackends) -> int:
    """Drop retired spaces whose grace is over, and end the swaps that left them; returns how many.

    One that is being read at this moment waits for the next round, and so do vectors in a store
    that cannot be asked; nobody can come by them any more.

    Raises:
        StoreUnavailableError: Postgres does not answer; the next round goes on.
    """
    dropped = 0
    for space in await spaces.expired():
        try:
            await spaces.drop(space.org_id, space.id)
        except ConflictError as error:
            _log.info("space_not_dropped", space=space.id.hex, reason=error.message)
            continue
        dropped += 1
    async with db.system() as connection:
        await connection.execute(_OVER, sources_of(EMBEDDING_SWAP, "done"))
    try:
        await backends.drop_gone(db)
    except (ConfigError, StoreUnavailableError) as error:
        _log.warning("vectors_not_dropped", reason=error.message)
    return dropped
