"""Graphs over two tables, as the HTTP routes see them: each node and edge once.

A node is one row of those that share its id, an edge one of those that share ends and type; which
row is not said. The query languages see every row.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from agentcy_ray.devkyma.catalog import Graph
from agentcy_ray.devkyma.engine import Engine
from agentcy_ray.devkyma.errors import EngineError
from agentcy_ray.devkyma.queries import Budgets, QueryRequest, run_query
from agentcy_ray.devkyma.sqltext import named, quoted

EPOCH = "1970-01-01T00:00:00Z"
HOP_EDGES = 500
DEEP_EDGES = 200_000
OVERVIEW_EDGES = 4

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class StoredGraph:
    """A registered graph of one database."""

    engine: Engine
    database: str
    graph: Graph

    async def overview(self, limit: int) -> Json:
        """Up to ``limit`` nodes and the edges among them, with the totals of the whole graph."""
        nodes = await self._nodes("TRUE", limit)
        inside = _among(node["id"] for node in nodes)
        where = f"{self._ref('src_col')} IN {inside} AND {self._ref('dst_col')} IN {inside}"
        edges = await self._edges(where, OVERVIEW_EDGES * limit)
        return {"stats": await self.stats(), "nodes": nodes, "edges": edges}

    async def stats(self) -> Json:
        """Totals, by label and by type too."""
        g, ref = self.graph, self._ref
        labels = await self._rows(
            f"SELECT {ref('label_col')} AS k, count(DISTINCT {ref('id_col')}) AS n"
            f" FROM {named(g.node_table)} GROUP BY 1"
        )
        types = await self._rows(
            f"SELECT {ref('type_col')} AS k, count(DISTINCT"
            f" struct({ref('src_col')}, {ref('dst_col')})) AS n"
            f" FROM {named(g.edge_table)} GROUP BY 1"
        )
        total = await self._rows(
            f"SELECT count(DISTINCT {ref('id_col')}) AS n FROM {named(g.node_table)}"
        )
        return {
            "total_nodes": total[0]["n"],
            "total_relationships": sum(row["n"] for row in types),
            "label_counts": {row["k"]: row["n"] for row in labels if row["k"] is not None},
            "relationship_type_counts": {r["k"]: r["n"] for r in types if r["k"] is not None},
        }

    async def schema(self) -> Json:
        """Labels and types that occur."""
        stats = await self.stats()
        return {
            "node_kinds": sorted(stats["label_counts"]),
            "edge_types": sorted(stats["relationship_type_counts"]),
            "property_keys": {},
        }

    async def node(self, node_id: str) -> Json:
        """One node.

        Raises:
            EngineError: 404 when there is none.
        """
        found = await self._nodes(f"{self._ref('id_col')} = {quoted(node_id)}", 1)
        if not found:
            raise EngineError(404, "not_found", "no such node")
        return found[0]

    async def subgraph(self, node_id: str, depth: int) -> Json:
        """What lies within ``depth`` hops of a node, either way.

        Raises:
            EngineError: 404 when there is no such node.
        """
        await self.node(node_id)
        most = HOP_EDGES if depth <= 2 else DEEP_EDGES
        seen, front, edges = {node_id}, [node_id], dict[str, Json]()
        for _ in range(depth):
            if not front:
                break
            step = await self._touching(front, "both", most)
            edges |= {edge["id"]: edge for edge in step}
            ends = {edge[end] for edge in step for end in ("source_id", "target_id")}
            front = sorted(ends - seen)
            seen |= ends
        nodes = await self._nodes(f"{self._ref('id_col')} IN {_among(seen)}", len(seen))
        known = {node["id"] for node in nodes}
        kept = [e for e in edges.values() if e["source_id"] in known and e["target_id"] in known]
        totals = {"total_nodes": len(nodes), "total_relationships": len(kept)}
        return {"stats": totals, "nodes": nodes, "edges": kept}

    async def search(self, text: str, labels: Sequence[str], limit: int, offset: int) -> Json:
        """Nodes whose id or label holds a text, in any case; ``labels`` narrows the page."""
        needle = quoted(text.lower())
        where = " OR ".join(
            f"strpos(lower({self._ref(part)}), {needle}) > 0" for part in ("id_col", "label_col")
        )
        page = await self._nodes(where, limit, offset)
        hits = [node for node in page if not labels or set(node["labels"]) & set(labels)]
        return {"hits": hits, "total": len(hits), "limit": limit, "offset": offset}

    async def neighbors(self, node_ids: Sequence[str], direction: str, limit: int) -> Json:
        """The edges at some nodes and the nodes at their other ends."""
        edges = await self._touching(node_ids, direction, limit)
        ends = {edge[end] for edge in edges for end in ("source_id", "target_id")}
        return {"edges": edges, "new_node_ids": sorted(ends - set(node_ids))}

    async def _touching(self, ids: Iterable[str], direction: str, limit: int) -> list[Json]:
        inside = _among(ids)
        forward, backward = (
            f"{self._ref('src_col')} IN {inside}",
            f"{self._ref('dst_col')} IN {inside}",
        )
        where = {"forward": forward, "backward": backward, "both": f"{forward} OR {backward}"}
        if direction not in where:
            raise EngineError(400, "graph", "direction is forward, backward or both")
        return await self._edges(where[direction], limit)

    async def _nodes(self, where: str, limit: int, offset: int = 0) -> list[Json]:
        g = self.graph
        rows = await self._once(g.node_table, [g.id_col], where, limit, offset)
        return [self._node(row) for row in rows]

    async def _edges(self, where: str, limit: int) -> list[Json]:
        g = self.graph
        rows = await self._once(g.edge_table, [g.src_col, g.dst_col, g.type_col], where, limit)
        return [self._edge(row) for row in rows]

    async def _once(
        self, table: str, keys: Sequence[str], where: str, limit: int, offset: int = 0
    ) -> list[Json]:
        by = ", ".join(map(named, keys))
        return await self._rows(
            f"SELECT * FROM (SELECT *, row_number() OVER (PARTITION BY {by}) AS __row"
            f" FROM {named(table)} WHERE {where}) WHERE __row = 1"
            f" ORDER BY {by} LIMIT {limit} OFFSET {offset}"
        )

    async def _rows(self, sql: str) -> list[Json]:
        limits = self.engine.config.limits
        budgets = Budgets(limits.wall_clock_ms, limits.memory_bytes)
        try:
            batches = await run_query(self.engine, QueryRequest(self.database, "sql", sql, budgets))
        except EngineError as error:
            if error.status == 404:
                raise
            raise EngineError(500, "graph", error.message) from None
        return [row for batch in batches for row in batch.to_pylist()]

    def _node(self, row: Json) -> Json:
        g = self.graph
        realm = row.get(g.realm_col) if g.realm_col else self.database
        metadata = {
            "created_at": EPOCH,
            "updated_at": EPOCH,
            "source_type": "stored",
            "realm": realm or self.database,
        }
        if row.get("source_id") is not None:
            metadata["source_id"] = row["source_id"]
        label = row.get(g.label_col)
        return {
            "id": row[g.id_col],
            "labels": [] if label is None else [label],
            "properties": _properties(row, {g.id_col, g.label_col, g.realm_col}),
            "metadata": metadata,
        }

    def _edge(self, row: Json) -> Json:
        g = self.graph
        source, target, kind = row[g.src_col], row[g.dst_col], row[g.type_col]
        return {
            "id": f"{source}->{target}:{kind}",
            "source_id": source,
            "target_id": target,
            "relationship_type": kind,
            "properties": _properties(row, {g.src_col, g.dst_col, g.type_col, g.realm_col}),
        }

    def _ref(self, role: str) -> str:
        return named(getattr(self.graph, role))


def _among(ids: Iterable[str]) -> str:
    return "(" + (", ".join(map(quoted, ids)) or "NULL") + ")"


def _properties(row: Json, roles: set[str | None]) -> Json:
    """Every column without a role, and the keys of ``props`` that no column has."""
    given: Json = {}
    props = row.get("props")
    if isinstance(props, bytes):
        try:
            decoded: Any = orjson.loads(props)
        except orjson.JSONDecodeError:
            decoded = None
        if isinstance(decoded, dict):
            given |= decoded
    skipped = roles | {"props", "__row"}
    return given | {
        name: _shown(value)
        for name, value in row.items()
        if name not in skipped and value is not None
    }


def _shown(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    return value if isinstance(value, str | int | float | bool | list | dict) else str(value)
