"""Texts that no model took at first, tried again apart from the blocks they belong to."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING
from uuid import UUID

import pyarrow as pa

from agentcy_ray.core.batches import DOCUMENTS, NODES
from agentcy_ray.ingest.backfill.reading import Block, Cut, hashes_of, one
from agentcy_ray.ingest.backfill.work import Work
from agentcy_ray.ingest.state import Keys
from agentcy_ray.retrieval.passages import chunk_batch

if TYPE_CHECKING:
    from agentcy_ray.retrieval.chunking import Chunker

NODES_AT_ONCE = 500
NO_BLOCK = -1
"""Number of a block that no plan has."""
_FAILED = """
SELECT source_id, node_id, max(attempts) AS attempts FROM embed_errors
WHERE backfill_id = $1 AND attempts < $2 GROUP BY 1, 2 ORDER BY 1, 2
"""


async def retry_errors(work: Work, chunker: Chunker, attempts: int) -> int:
    """Try the nodes again of which a text was refused fewer than ``attempts`` times.

    Each is read from what its source holds now. What passes leaves the table of errors, and so
    does what is no more; what is refused again has one more attempt counted.

    Returns:
        How many texts are left.

    Raises:
        EmbedderRefusedError: the model refuses us, not a text.
        BackendError: a store or the model is away.
    """
    backfill = work.backfill
    async with work.rows.db.tenant(backfill.org_id) as connection:
        rows = await connection.fetch(_FAILED, backfill.id, attempts)
    nodes: defaultdict[UUID, list[str]] = defaultdict(list)
    for row in rows:
        nodes[row["source_id"]].append(row["node_id"])
    for source_id, ids in nodes.items():
        for start in range(0, len(ids), NODES_AT_ONCE):
            cut = await _cut(work, chunker, source_id, ids[start : start + NODES_AT_ONCE])
            wanted = await work.sink.wanted(cut)
            await work.sink.mend(await work.embedding.embed(wanted), ids)
            work.probe("retried")
    return len(await work.rows.errors(backfill.org_id, backfill.id, limit=1_000))


async def _cut(work: Work, chunker: Chunker, source_id: UUID, ids: Sequence[str]) -> Cut:
    package_id, at = await work.reader.current(source_id)
    state = await work.reader.state(package_id)
    within = Keys([pa.array(ids, pa.string())])
    nodes = one(list(state.stream("nodes", NODES.names, within=within)), NODES)
    documents = one(list(state.stream("documents", DOCUMENTS.names, within=within)), DOCUMENTS)
    block = Block(NO_BLOCK, source_id, "", "", 0, again=True)
    chunks = chunk_batch(nodes, documents, chunker, seen_at=at)
    return Cut(block, package_id, nodes["id"], hashes_of(nodes, documents), chunks)
