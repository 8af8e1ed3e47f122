"""The ``VectorIndex`` protocol: the write path of chunks and their vectors."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol
from uuid import UUID

import pyarrow as pa

from agentcy_ray.retrieval.embedder import Vectors
from agentcy_ray.retrieval.spaces import Space


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
