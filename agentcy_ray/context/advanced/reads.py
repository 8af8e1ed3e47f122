"""Reading entities: by id, by neighbourhood, by connectedness, by source."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from uuid import UUID

import orjson
import pyarrow as pa
from sqlglot import Expr, exp

from agentcy_ray.context.advanced.sql import (
    EDGE,
    ENDS,
    NODE,
    among,
    counts,
    entities,
    listed,
    named,
    one_of,
    over,
    texts,
)
from agentcy_ray.context.advanced.store import Store
from agentcy_ray.context.advanced.values import edges_of, labels_of, nodes_of, properties_of
from agentcy_ray.context.basic.reads import MAX_DEPTH, MAX_EDGES, MAX_NODES
from agentcy_ray.context.engine import Direction, Edge, Node, Scope, Subgraph
from agentcy_ray.context.languages.current import Table
from agentcy_ray.core.batches import NODES
from agentcy_ray.core.errors import InvalidError

_EXPORTED = (
    "id", "label_set", "realm", "name", "props", "connector", "source_id", "external_id",
    "content_hash",
)  # fmt: skip
_IDS: dict[Table, Sequence[str]] = {"context_nodes": ("id",)}
EXPORT_MS = 600_000
_DEGREES = """
SELECT id, count(*) AS "count" FROM (
  SELECT src AS id FROM _edges UNION ALL SELECT dst AS id FROM _edges WHERE src <> dst
) GROUP BY id
"""


async def nodes_by_id(store: Store, scope: Scope, ids: Sequence[str]) -> list[Node]:
    """Live nodes in the order of the ids."""
    if not ids:
        return []
    nodes = over(scope, {"context_nodes": [one_of("id", dict.fromkeys(ids))]})
    sql = f"WITH {nodes} SELECT {named(NODE)} FROM _nodes"
    rows = await store.read(scope.org_id, sql, entities(NODE))
    found = {node.id: node for node in await asyncio.to_thread(nodes_of, rows)}
    return [found[id_] for id_ in ids if id_ in found]


async def node(store: Store, scope: Scope, node_id: str) -> Node | None:
    """One live node and how many edges in the scope touch it."""
    edges = over(
        scope, {"context_edges": [_touching([node_id], "both")]}, ends=False,
        narrow={"context_edges": ENDS},
    )  # fmt: skip
    others = over(scope, {"context_nodes": [among("id", "SELECT id FROM _others")]}, narrow=_IDS)
    sql = (
        f"WITH {edges}, _others AS (SELECT src AS id FROM _edges UNION SELECT dst FROM _edges),"
        f" {others} SELECT CAST(count(*) AS BIGINT) AS \"count\", 'degree' AS id FROM _edges"
        " WHERE src IN (SELECT id FROM _nodes) AND dst IN (SELECT id FROM _nodes)"
    )
    found, degree = await asyncio.gather(
        nodes_by_id(store, scope, [node_id]), store.read(scope.org_id, sql, counts("id"))
    )
    if not found:
        return None
    count = degree["count"][0].as_py() if degree.num_rows else 0
    return found[0].model_copy(update={"degree": count})


async def neighbors(
    store: Store,
    scope: Scope,
    node_id: str,
    *,
    depth: int,
    direction: Direction,
    types: Sequence[str],
    limit: int,
) -> Subgraph:
    """Breadth first, one query per hop, so a limit cuts the farthest nodes.

    The edges are all those of the asked types among the nodes found.
    """
    if not 1 <= depth <= MAX_DEPTH:
        raise InvalidError(f"depth is 1 to {MAX_DEPTH}, not {depth}")
    if not 1 <= limit <= MAX_NODES:
        raise InvalidError(f"limit is 1 to {MAX_NODES}, not {limit}")
    if not await nodes_by_id(store, scope, [node_id]):
        return Subgraph(nodes=(), edges=())
    found = {node_id: None}
    frontier, truncated = [node_id], False
    for _ in range(depth):
        room = limit - len(found)
        # Nodes found before may come again, so they are asked for on top of the room.
        sql = _hop(scope, frontier, direction, types, limit + 1)
        rows = await store.read(scope.org_id, sql, texts("id"))
        fresh = [id_ for id_ in rows["id"].to_pylist() if id_ not in found]
        truncated = truncated or len(fresh) > room
        frontier = fresh[:room]
        found |= dict.fromkeys(frontier)
        if truncated or not frontier:
            break
    nodes, edges = await asyncio.gather(
        nodes_by_id(store, scope, list(found)), _edges_among(store, scope, list(found), types)
    )
    return Subgraph(
        nodes=tuple(nodes),
        edges=tuple(edges[:MAX_EDGES]),
        truncated=truncated or len(edges) > MAX_EDGES,
    )


async def overview(store: Store, scope: Scope, limit: int) -> Subgraph:
    """The best-connected nodes, filled up with unconnected ones, and the edges among them."""
    if not 1 <= limit <= MAX_NODES:
        raise InvalidError(f"limit is 1 to {MAX_NODES}, not {limit}")
    both = over(
        scope, {"context_nodes": [], "context_edges": []}, narrow={"context_edges": ENDS, **_IDS}
    )
    sql = (
        f'WITH {both} SELECT n.id AS id, coalesce(d."count", 0) AS "count" FROM _nodes n'
        f" LEFT JOIN ({_DEGREES}) d ON d.id = n.id"
        f' ORDER BY "count" DESC, id LIMIT {limit + 1}'
    )
    rows = await store.read(scope.org_id, sql, counts("id"))
    degrees = dict(zip(rows["id"].to_pylist(), rows["count"].to_pylist(), strict=True))
    shown = list(degrees)[:limit]
    nodes, edges = await asyncio.gather(
        nodes_by_id(store, scope, shown), _edges_among(store, scope, shown, ())
    )
    return Subgraph(
        nodes=tuple(each.model_copy(update={"degree": degrees[each.id]}) for each in nodes),
        edges=tuple(edges[:MAX_EDGES]),
        truncated=len(degrees) > limit or len(edges) > MAX_EDGES,
    )


async def export_nodes(
    store: Store, org_id: UUID, source_id: UUID
) -> AsyncIterator[pa.RecordBatch]:
    """Live nodes of a source as ``NODES`` batches; nulls in properties are gone."""
    nodes = over(Scope(org_id=org_id), {"context_nodes": [one_of("source_id", [source_id.hex])]})
    sql = f"WITH {nodes} SELECT {named(_EXPORTED)} FROM _nodes"
    schema = entities(_EXPORTED)
    async for batch in store.batches(org_id, sql, schema, timeout_ms=EXPORT_MS):
        if batch.num_rows:
            yield await asyncio.to_thread(_exported, batch)


def _hop(
    scope: Scope, frontier: Sequence[str], direction: Direction, types: Sequence[str], limit: int
) -> str:
    """The visible nodes one step from the frontier.

    The edges are found first, and only the nodes at their ends are looked up.
    """
    conditions = [_touching(frontier, direction)]
    if types:
        conditions.append(one_of("type", types))
    edges = over(scope, {"context_edges": conditions}, ends=False, narrow={"context_edges": ENDS})
    here = listed(frontier)
    ways = {
        "out": f"SELECT dst AS id FROM _edges WHERE src IN ({here})",
        "in": f"SELECT src AS id FROM _edges WHERE dst IN ({here})",
    }
    step = " UNION ".join(ways.values()) if direction == "both" else ways[direction]
    nodes = over(scope, {"context_nodes": [among("id", "SELECT id FROM _step")]}, narrow=_IDS)
    return f"WITH {edges}, _step AS ({step}), {nodes} SELECT id FROM _nodes LIMIT {limit}"


async def _edges_among(
    store: Store, scope: Scope, ids: Sequence[str], types: Sequence[str]
) -> list[Edge]:
    """Edges between visible nodes."""
    if not ids:
        return []
    conditions = [one_of("src", ids), one_of("dst", ids)]
    if types:
        conditions.append(one_of("type", types))
    edges = over(scope, {"context_edges": conditions}, ends=False)
    sql = f"WITH {edges} SELECT {named(EDGE)} FROM _edges LIMIT {MAX_EDGES + 1}"
    rows = await store.read(scope.org_id, sql, entities(EDGE))
    return await asyncio.to_thread(edges_of, rows)


def _touching(ids: Sequence[str], direction: Direction) -> Expr:
    if direction == "both":
        return exp.or_(one_of("src", ids), one_of("dst", ids))
    return one_of("src" if direction == "out" else "dst", ids)


def _exported(batch: pa.RecordBatch) -> pa.RecordBatch:
    rows = [
        {
            **{name: row[name] for name in _EXPORTED if name not in ("label_set", "props")},
            "labels": list(labels_of(row["label_set"])),
            "properties": orjson.dumps(
                properties_of(row["props"]), option=orjson.OPT_SORT_KEYS
            ).decode(),
        }
        for row in batch.to_pylist()
    ]
    return pa.RecordBatch.from_pylist(rows, schema=NODES)
