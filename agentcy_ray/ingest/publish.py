"""Publishing a plan: the engine and the vectors beside each other, either cut off at will.

Vectors go to every space that is written: the active one, one that a swap is filling, and a former
one that may be gone back to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import asyncpg

from agentcy_ray.core.errors import StoreUnavailableError
from agentcy_ray.ingest.dangling import dangling_keys
from agentcy_ray.ingest.fence import Lease
from agentcy_ray.ingest.graph_publish import GraphPublisher, Probe
from agentcy_ray.ingest.links import LinkPublisher, read_rules
from agentcy_ray.ingest.pipeline import tasks
from agentcy_ray.ingest.plan import Plan
from agentcy_ray.ingest.progress import Meter
from agentcy_ray.ingest.texts import Texts
from agentcy_ray.ingest.vector_publish import PART, Target, VectorCounts, VectorPublisher

if TYPE_CHECKING:
    from agentcy_ray.context.engine import ContextEngine
    from agentcy_ray.retrieval.chunkers import Chunkers
    from agentcy_ray.retrieval.index import VectorIndex
    from agentcy_ray.retrieval.one_embedder import AnyEmbedders
    from agentcy_ray.retrieval.spaces import SpaceStore


@dataclass(frozen=True)
class Stores:
    """Where a publish writes."""

    engine: ContextEngine
    index: VectorIndex
    spaces: SpaceStore
    embedders: AnyEmbedders
    chunkers: Chunkers
    model: str
    """Of the space that an organisation without any is given."""


async def publish(
    stores: Stores,
    lease: Lease,
    plan: Plan,
    cursor: dict[str, Any],
    *,
    at: datetime,
    batch_rows: int,
    meter: Meter,
    probe: Probe,
) -> dict[str, Any]:
    """Bring engine and vectors to the plan's new state.

    Args:
        stores: where to write.
        lease: the fence.
        plan: what to write.
        cursor: ``{graph, vectors}`` that an earlier attempt saved, or empty.
        at: when the sync saw what it writes.
        batch_rows: rows per engine write.
        meter: told about the progress.
        probe: called at named points.

    Returns:
        ``{chunks, embedded, links}``.

    Raises:
        LeaseLostError: a newer owner publishes.
        BackendError: a store failed; the publish can be resumed.
    """
    rules = await read_rules(lease.db, lease.org_id)
    links = LinkPublisher(stores.engine, lease, rules, plan.difference, at, batch_rows)
    if plan.empty:
        return {"chunks": 0, "embedded": 0, "links": await links.run()}
    waiting = await dangling_keys(lease.db, lease.org_id, lease.source_id)
    graph = GraphPublisher(
        stores.engine,
        lease,
        plan.difference.also("edges", waiting),
        plan.ends,
        waiting,
        meter,
        at,
        batch_rows,
        probe,
        links,
    )
    targets = await targets_of(stores, lease.org_id)
    cuts = dict.fromkeys(target.space.chunking for target in targets)
    vectors = [
        VectorPublisher(
            stores.index,
            tuple(target for target in targets if target.space.chunking == chunking),
            stores.chunkers.of(chunking),
            lease,
            Texts(plan.difference),
            meter,
            at,
            probe,
        )
        for chunking in cuts
    ]
    await stores.engine.prepare()
    async with tasks() as group:
        drawing = group.create_task(graph.run(cursor.get("graph", {}), plan.rows))
        embedding = group.create_task(_embed(vectors, cursor.get(PART, {}), plan.texts))
    return {**asdict(embedding.result()), "links": drawing.result()}


async def targets_of(stores: Stores, org_id: UUID) -> tuple[Target, ...]:
    """The spaces that a publish has to write, each with its model; the active one first.

    Raises:
        EmbedderUnavailableError: a model is away, or is not the one that made its space.
    """
    spaces = await stores.spaces.writable(org_id)
    if not any(space.status == "active" for space in spaces):
        embedder = await stores.embedders.of(stores.model)
        await embedder.embed([])  # one in other processes has to be up to know its name
        await stores.spaces.ensure_active(org_id, embedder.info)
        spaces = await stores.spaces.writable(org_id)
    targets: list[Target] = []
    for space in spaces:
        embedder = await stores.embedders.of(space.embedder)
        await embedder.embed([])
        space.require(embedder.info)
        targets.append(Target(space, embedder))
    return tuple(targets)


async def _embed(
    publishers: Sequence[VectorPublisher], cursors: dict[str, Any], total: int
) -> VectorCounts:
    """Write all spaces, those whose texts are cut alike together."""
    try:
        made = [await publisher.run(cursors, total) for publisher in publishers]
    except asyncpg.UndefinedTableError as error:
        raise StoreUnavailableError(
            "an embedding space was dropped while it was written; the publish goes on without it"
        ) from error
    return VectorCounts(made[0].chunks, sum(each.embedded for each in made))
