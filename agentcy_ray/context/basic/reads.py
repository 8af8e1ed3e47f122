"""Reading entities: by id, by neighbourhood, by source."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any
from uuid import UUID

import orjson
import pyarrow as pa

from agentcy_ray.context.basic.bolt import Bolt
from agentcy_ray.context.basic.layout import name_of, to_edge, to_node
from agentcy_ray.context.basic.slices import Nodes, sliced
from agentcy_ray.context.engine import Direction, Edge, Node, Scope, Subgraph
from agentcy_ray.core.batches import NODES
from agentcy_ray.core.errors import InvalidError

MAX_DEPTH = 3
MAX_NODES = 2_000
MAX_EDGES = 10_000
"""Edges of one picture; beyond it the picture is marked as truncated."""
EXPORT_ROWS = 2_000

_ARROWS: dict[Direction, tuple[str, str]] = {
    "out": ("-", "->"),
    "in": ("<-", "-"),
    "both": ("-", "-"),
}

_EXISTING = """
UNWIND $ids AS id MATCH (n:Entity {id: id})
WHERE n.org = $org AND n.archived_at IS NULL RETURN n.id AS id
"""
_BY_ID = "UNWIND $ids AS id MATCH (n:Entity {{id: id}}) WHERE {n} RETURN n"
_WITH_DEGREE = """
MATCH (n:Entity {{id: $id}}) WHERE {n}
OPTIONAL MATCH (n)-[r]-(m:Entity) WHERE {r} AND {m}
RETURN n, count(DISTINCT r) AS degree
"""
_HOP = """
UNWIND $ids AS id MATCH (a:Entity {{id: id}}){left}[r{types}]{right}(b:Entity)
WHERE {r} AND {b} RETURN DISTINCT b.id AS id LIMIT $limit
"""
_AMONG = """
UNWIND $ids AS id MATCH (a:Entity {{id: id}})-[r{types}]->(b:Entity)
WHERE {r} AND $among[b.id] RETURN r, type(r) AS type LIMIT $limit
"""
_CONNECTED = """
MATCH (n:Entity)-[r]-(m:Entity) WHERE {n} AND {r} AND {m}
WITH n, count(r) AS degree ORDER BY degree DESC, n.id LIMIT $limit
RETURN n, degree
"""
_SOME = "MATCH (n:Entity) WHERE {n} RETURN n LIMIT $limit"
_OF_SOURCE = Nodes("n.org = $org AND n.source_id = $source AND n.archived_at IS NULL")


def visible(name: str, scope: Scope) -> str:
    """The condition that a node or edge lies in the scope and is live; see ``scope_params``."""
    realms = "" if scope.realms is None else f" AND {name}.realm IN $realms"
    return f"{name}.org = $org{realms} AND {name}.archived_at IS NULL"


def scope_params(scope: Scope) -> dict[str, Any]:
    """Parameters of ``visible``."""
    params: dict[str, Any] = {"org": scope.org_id.hex}
    if scope.realms is not None:
        params["realms"] = list(scope.realms)
    return params


async def existing(bolt: Bolt, org_id: UUID, ids: Sequence[str]) -> set[str]:
    """Those of the ids that are live nodes."""
    rows = await bolt.read(_EXISTING, {"ids": list(ids), "org": org_id.hex})
    return {row["id"] for row in rows}


async def nodes_by_id(bolt: Bolt, scope: Scope, ids: Sequence[str]) -> list[Node]:
    """Live nodes in the order of the ids."""
    text = _BY_ID.format(n=visible("n", scope))
    rows = await bolt.read(text, {"ids": list(dict.fromkeys(ids)), **scope_params(scope)})
    found = {(node := to_node(row["n"])).id: node for row in rows}
    return [found[id_] for id_ in ids if id_ in found]


async def node(bolt: Bolt, scope: Scope, node_id: str) -> Node | None:
    """One live node and how many edges in the scope touch it."""
    text = _WITH_DEGREE.format(**{name: visible(name, scope) for name in "nrm"})
    rows = await bolt.read(text, {"id": node_id, **scope_params(scope)})
    return to_node(rows[0]["n"], degree=rows[0]["degree"]) if rows else None


async def neighbors(
    bolt: Bolt,
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
    start = await nodes_by_id(bolt, scope, [node_id])
    if not start:
        return Subgraph(nodes=(), edges=())
    only = f":{'|'.join(name_of('type', name) for name in types)}" if types else ""
    left, right = _ARROWS[direction]
    hop = _HOP.format(left=left, right=right, types=only, r=visible("r", scope),
                      b=visible("b", scope))  # fmt: skip
    found = {node_id: None}
    frontier, truncated = [node_id], False
    for _ in range(depth):
        room = limit - len(found)
        # Nodes found before may come again, so they are asked for on top of the room.
        params = {"ids": frontier, "limit": limit + 1, **scope_params(scope)}
        rows = await bolt.read(hop, params)
        fresh = [row["id"] for row in rows if row["id"] not in found]
        truncated = truncated or len(fresh) > room
        frontier = fresh[:room]
        found |= dict.fromkeys(frontier)
        if truncated or not frontier:
            break
    nodes = await nodes_by_id(bolt, scope, list(found))
    edges = await _edges_among(bolt, scope, list(found), only)
    return Subgraph(
        nodes=tuple(nodes),
        edges=tuple(edges[:MAX_EDGES]),
        truncated=truncated or len(edges) > MAX_EDGES,
    )


async def overview(bolt: Bolt, scope: Scope, limit: int) -> Subgraph:
    """The best-connected nodes, filled up with unconnected ones, and the edges among them."""
    if not 1 <= limit <= MAX_NODES:
        raise InvalidError(f"limit is 1 to {MAX_NODES}, not {limit}")
    params = {"limit": limit + 1, **scope_params(scope)}
    conditions = {name: visible(name, scope) for name in "nrm"}
    nodes = [
        to_node(row["n"], degree=row["degree"])
        for row in await bolt.read(_CONNECTED.format(**conditions), params)
    ]
    if len(nodes) <= limit:
        connected = {each.id for each in nodes}
        some = [
            to_node(row["n"], degree=0)
            for row in await bolt.read(_SOME.format(**conditions), params)
        ]
        nodes += [each for each in some if each.id not in connected]
    edges = await _edges_among(bolt, scope, [each.id for each in nodes[:limit]], "")
    return Subgraph(
        nodes=tuple(nodes[:limit]),
        edges=tuple(edges[:MAX_EDGES]),
        truncated=len(nodes) > limit or len(edges) > MAX_EDGES,
    )


async def _edges_among(bolt: Bolt, scope: Scope, ids: list[str], types: str) -> list[Edge]:
    text = _AMONG.format(types=types, r=visible("r", scope))
    params = {"ids": ids, "among": dict.fromkeys(ids, True), "limit": MAX_EDGES + 1}
    rows = await bolt.read(text, params | scope_params(scope))
    return [to_edge(row["r"], row["type"]) for row in rows]


async def export_nodes(bolt: Bolt, org_id: UUID, source_id: UUID) -> AsyncIterator[pa.RecordBatch]:
    """Live nodes of a source as ``NODES`` batches; nulls in properties are gone."""
    rows: list[dict[str, Any]] = []
    given = {"org": org_id.hex, "source": source_id.hex}
    async for record in sliced(bolt, _OF_SOURCE, "RETURN n", given):
        rows.append(_exported(to_node(record["n"])))
        if len(rows) == EXPORT_ROWS:
            yield pa.RecordBatch.from_pylist(rows, schema=NODES)
            rows = []
    if rows:
        yield pa.RecordBatch.from_pylist(rows, schema=NODES)


def _exported(found: Node) -> dict[str, Any]:
    return {
        "id": found.id,
        "labels": list(found.labels),
        "realm": found.realm,
        "name": found.name,
        "properties": orjson.dumps(found.properties, option=orjson.OPT_SORT_KEYS).decode(),
        "connector": found.source.connector,
        "source_id": found.source.source_id,
        "external_id": found.source.external_id,
        "content_hash": found.content_hash,
    }
