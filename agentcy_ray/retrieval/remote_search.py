"""Searching a space whose vectors lie in another store: the same scores from two systems.

The store finds what is near, Postgres what the words of a query are in; of each chunk that either
brings both scores are taken, as the one statement over a table with vectors does it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import asyncpg

from agentcy_ray.retrieval.backed_index import criteria_of
from agentcy_ray.retrieval.queries import HybridQuery, RagQuery
from agentcy_ray.retrieval.space import Space
from agentcy_ray.retrieval.statements import (
    Statement,
    scored_statement,
    shown_statement,
    words_statement,
)
from agentcy_ray.retrieval.vector_backends import VectorBackends
from agentcy_ray.retrieval.vector_store import Vector, similarities
from agentcy_ray.stores.postgres import Database

Fetch = Callable[[Statement], Awaitable[list[asyncpg.Record]]]
"""Runs a statement in the space's organisation."""


class RemoteSearch:
    """Candidates from a ``VectorStore`` and from words, as rows of the statements of pgvector."""

    def __init__(self, db: Database, backends: VectorBackends) -> None:
        self._db = db
        self._backends = backends

    async def hybrid(
        self,
        space: Space,
        vector: Vector,
        seen: Sequence[str] | None,
        query: HybridQuery,
        limit: int,
        fetch: Fetch,
    ) -> list[asyncpg.Record]:
        """Rows as ``hybrid_statement`` gives them.

        Raises:
            ConfigError, StoreUnavailableError: the store cannot be asked.
        """
        store = self._backends.of(space.backend)
        asked = await criteria_of(self._db, space, seen, query.filters)
        found, rows = await asyncio.gather(
            store.nearest(space, vector, asked, limit),
            fetch(words_statement(space, seen, query, limit)),
        )
        near = dict(found)
        lacking = [row["chunk_key"] for row in rows if row["chunk_key"] not in near]
        others = await store.fetch(space, lacking)
        near |= dict.fromkeys(lacking, 0.0) | similarities(space.distance, vector, others)
        return await fetch(scored_statement(space, seen, query, near, len(found)))

    async def search(
        self,
        space: Space,
        vector: Vector,
        seen: Sequence[str] | None,
        query: RagQuery,
        limit: int,
        fetch: Fetch,
    ) -> list[asyncpg.Record]:
        """Rows as ``vector_statement`` gives them; errors as in ``hybrid``."""
        asked = await criteria_of(self._db, space, seen, query.filters)
        found = await self._backends.of(space.backend).nearest(space, vector, asked, limit)
        return await fetch(shown_statement(space, seen, query.filters, dict(found), len(found)))
