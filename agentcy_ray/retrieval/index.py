"""The ``VectorIndex`` protocol: chunks and their vectors, as they are written and compared."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

import numpy as np
import pyarrow as pa

from agentcy_ray.retrieval.embedder import Vectors
from agentcy_ray.retrieval.queries import Filters
from agentcy_ray.retrieval.space import Space

Neighbour = tuple[str, float]
"""Key of a chunk, and its similarity, 0–1."""


class VectorIndex(Protocol):
    """Where the chunks of a space lie. Every method may be repeated: keys are derived, not made."""

    async def upsert(self, space: Space, chunks: pa.RecordBatch, vectors: Vectors) -> int:
        """Write rows of ``CHUNKS`` with a vector each; returns rows written."""
        ...

    async def refresh(self, space: Space, chunks: pa.RecordBatch) -> int:
        """Bring everything but the vector up to date for chunks that are there already.

        Returns:
            How many rows differed; an archived one is live again.
        """
        ...

    async def refresh_nodes(self, space: Space, chunks: pa.RecordBatch) -> int:
        """Bring the properties of nodes up to date in all their chunks, whatever these say.

        Args:
            space: where the chunks lie.
            chunks: at least one row of ``CHUNKS`` for each node; its key and text do not matter.

        Returns:
            How many rows differed.
        """
        ...

    async def existing_keys(self, space: Space, node_ids: Sequence[str]) -> set[str]:
        """Keys of the live chunks of these nodes: what needs no new vector."""
        ...

    async def replace_node_chunks(
        self, space: Space, node_ids: Sequence[str], keep_keys: Sequence[str]
    ) -> int:
        """Drop the chunks of these nodes that are not in ``keep_keys``; returns how many."""
        ...

    async def archive_nodes(self, space: Space, node_ids: Sequence[str], at: datetime) -> int:
        """Take the chunks of these nodes out of every search; returns how many."""
        ...

    async def prune(self, space: Space, source_id: UUID, archived_before: datetime) -> int:
        """Delete chunks of a source that were archived before a time; returns how many."""
        ...

    async def count(self, space: Space, source_id: UUID | None = None) -> int:
        """Live chunks of the space, or of one source in it."""
        ...

    async def hide(self, space: Space, keys: Sequence[str]) -> None:
        """Told of chunks that were archived in Postgres itself, where vectors may lie elsewhere."""
        ...

    async def nearest(
        self,
        space: Space,
        vector: np.ndarray[Any, np.dtype[np.float32]],
        realms: Sequence[str] | None,
        filters: Filters,
        limit: int,
    ) -> list[Neighbour]:
        """The live chunks nearest to ``vector``, nearest first.

        Args:
            space: where they lie.
            vector: shape (dim,), of unit length.
            realms: realms that may be seen; None = all.
            filters: what else must hold of a chunk before it counts towards ``limit``.
            limit: how many at most; so many if there are so many that pass.
        """
        ...
