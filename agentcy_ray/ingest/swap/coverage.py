"""Whether the new space shows what the former one does, and mending what differs.

Publishes write every window to the former space first, and take chunks out of it first. So while
they go on, a chunk that the former space has and the new one has not is on its way, or was left
out; one that only the new space has is on its way out, or was written by a block of the backfill
that a publish had overtaken. Either is mended by the text that the former space keeps, and neither
needs a publish to stop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson
import pyarrow as pa

from agentcy_ray.core.batches import CHUNKS
from agentcy_ray.core.errors import AgentcyError, Transient
from agentcy_ray.ingest.swap.records import Coverage

if TYPE_CHECKING:
    from agentcy_ray.retrieval.embedder import Embedder
    from agentcy_ray.retrieval.index import VectorIndex
    from agentcy_ray.retrieval.spaces import Space
    from agentcy_ray.stores.postgres import Database

PAGE = 500
"""Chunks that are mended at a time."""

_LACKS = "NOT EXISTS (SELECT 1 FROM live.{other} o WHERE o.{key} = t.{key})"
_MISSING = f"""
SELECT {", ".join(f"t.{name}" for name in CHUNKS.names)} FROM live.{{old}} t
WHERE t.chunk_key > $1 AND NOT EXISTS (
  SELECT 1 FROM live.{{new}} o WHERE o.chunk_key = t.chunk_key)
ORDER BY t.chunk_key LIMIT {PAGE}
"""
_HIDE = f"""
UPDATE {{new}} t SET archived_at = clock_timestamp()
WHERE archived_at IS NULL AND {_LACKS} RETURNING t.chunk_key
"""
_NODES_MISSING = f"""
SELECT count(DISTINCT t.node_id) FROM live.{{old}} t WHERE {_LACKS}
"""


@dataclass(frozen=True)
class Mender:
    """Makes the new space show what the former one does."""

    db: Database
    index: VectorIndex
    embedder: Embedder
    """Of the new space."""
    check: Callable[[], None]
    """Raises when the work is to stop."""

    async def run(self, old: Space, new: Space) -> Coverage:
        """Compare two spaces of an organisation and mend what differs.

        Spaces whose texts were cut alike have the same chunks. Others have chunks of the same
        nodes; what a node lacks there, only a backfill can bring.

        Raises:
            CancelledByRequestError: a cancel was asked for.
            EmbedderUnavailableError, StoreUnavailableError: it can be done again.
        """
        mended = missing = 0
        alike = old.chunking == new.chunking
        if alike:
            mended, missing = await self._bring(old, new)
        key = "chunk_key" if alike else "node_id"
        hide = _HIDE.format(old=old.table_name, new=new.table_name, other=old.table_name, key=key)
        async with self.db.tenant(new.org_id) as connection:
            hidden = [row[0] for row in await connection.fetch(hide)]
            await self.index.hide(new, hidden)
            mended += len(hidden)
            if not alike:
                lacking = _NODES_MISSING.format(
                    old=old.table_name, other=new.table_name, key="node_id"
                )
                missing = int(await connection.fetchval(lacking))
        return Coverage(
            by="chunks" if alike else "nodes",
            live=await self.index.count(old),
            mended=mended,
            missing=missing,
        )

    async def _bring(self, old: Space, new: Space) -> tuple[int, int]:
        """Embed what the new space lacks; returns how many chunks it has now, and still lacks."""
        sql = _MISSING.format(old=old.table_name, new=new.table_name)
        brought = refused = 0
        after = ""
        while True:
            self.check()
            async with self.db.tenant(old.org_id) as connection:
                rows = await connection.fetch(sql, after)
            if not rows:
                return brought, refused
            after = rows[-1]["chunk_key"]
            written = await self._embed(new, [_row(row) for row in rows])
            brought, refused = brought + written, refused + len(rows) - written

    async def _embed(self, new: Space, rows: Sequence[dict[str, Any]]) -> int:
        """Write rows but those that the model refuses; returns how many."""
        chunks = pa.RecordBatch.from_pylist(list(rows), schema=CHUNKS)
        try:
            vectors = await self.embedder.embed([row["text"] for row in rows])
        except AgentcyError as error:
            if isinstance(error, Transient):
                raise
            if len(rows) == 1:
                return 0
            half = len(rows) // 2
            return await self._embed(new, rows[:half]) + await self._embed(new, rows[half:])
        await self.index.upsert(new, chunks, vectors)
        return len(rows)


def _row(row: Any) -> dict[str, Any]:
    values = dict(row)
    values["source_id"] = values["source_id"].hex
    values["properties"] = orjson.dumps(values["properties"]).decode()
    return values
