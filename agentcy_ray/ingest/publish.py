"""Publishing a plan: the engine and the vectors beside each other, either cut off at will."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from agentcy_ray.ingest.dangling import dangling_keys
from agentcy_ray.ingest.fence import Lease
from agentcy_ray.ingest.graph_publish import GraphPublisher, Probe
from agentcy_ray.ingest.links import LinkPublisher, read_rules
from agentcy_ray.ingest.pipeline import tasks
from agentcy_ray.ingest.plan import Plan
from agentcy_ray.ingest.progress import Meter
from agentcy_ray.ingest.texts import Texts
from agentcy_ray.ingest.vector_publish import VectorPublisher

if TYPE_CHECKING:
    from agentcy_ray.context.engine import ContextEngine
    from agentcy_ray.retrieval.chunking import Chunker
    from agentcy_ray.retrieval.embedder import Embedder
    from agentcy_ray.retrieval.index import VectorIndex
    from agentcy_ray.retrieval.spaces import SpaceStore


@dataclass(frozen=True)
class Stores:
    """Where a publish writes."""

    engine: ContextEngine
    index: VectorIndex
    spaces: SpaceStore
    embedder: Embedder
    chunker: Chunker


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
    await stores.embedder.embed([])  # an embedder in other processes has to be up to know its name
    space = await stores.spaces.ensure_active(lease.org_id, stores.embedder.info)
    vectors = VectorPublisher(
        stores.index,
        space,
        stores.embedder,
        stores.chunker,
        lease,
        Texts(plan.difference),
        meter,
        at,
        probe,
    )
    await stores.engine.prepare()
    async with tasks() as group:
        drawing = group.create_task(graph.run(cursor.get("graph", {}), plan.rows))
        embedding = group.create_task(vectors.run(cursor.get("vectors", {}), plan.texts))
    return {**asdict(embedding.result()), "links": drawing.result()}
