"""The built-in graph: a node per table of every database. Tables here refer to none other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from agentcy_ray.devkyma.catalog import Table
from agentcy_ray.devkyma.engine import Engine
from agentcy_ray.devkyma.errors import EngineError

EPOCH = "1970-01-01T00:00:00Z"

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class SchemaGraph:
    """Answers as a stored graph does."""

    engine: Engine

    async def overview(self, limit: int) -> Json:
        """Every table, up to ``limit``."""
        return {"stats": await self.stats(), "nodes": self._nodes()[:limit], "edges": []}

    async def stats(self) -> Json:
        """How many tables there are."""
        total = len(self._nodes())
        return {
            "total_nodes": total,
            "total_relationships": 0,
            "label_counts": {"Table": total} if total else {},
            "relationship_type_counts": {},
        }

    async def schema(self) -> Json:
        """The one label."""
        return {"node_kinds": ["Table"], "edge_types": ["REFERENCES"], "property_keys": {}}

    async def node(self, node_id: str) -> Json:
        """A table, by ``database::table``.

        Raises:
            EngineError: 404 when there is none.
        """
        for node in self._nodes():
            if node["id"] == node_id:
                return node
        raise EngineError(404, "not_found", "no such node")

    async def subgraph(self, node_id: str, depth: int) -> Json:
        """The table alone, at any depth.

        Raises:
            EngineError: 404 when there is none.
        """
        stats = {"total_nodes": 1, "total_relationships": 0}
        return {"stats": stats, "nodes": [await self.node(node_id)], "edges": []}

    async def search(self, text: str, labels: Sequence[str], limit: int, offset: int) -> Json:
        """Tables whose id holds a text, in any case."""
        found = [node for node in self._nodes() if text.lower() in node["id"].lower()]
        page = found[offset : offset + limit]
        hits = [node for node in page if not labels or "Table" in labels]
        return {"hits": hits, "total": len(hits), "limit": limit, "offset": offset}

    async def neighbors(self, node_ids: Sequence[str], direction: str, limit: int) -> Json:
        """None: tables refer to none other."""
        return {"edges": [], "new_node_ids": []}

    def _nodes(self) -> list[Json]:
        databases = self.engine.catalog.databases()
        return [
            _node(table)
            for _, tables in sorted(databases.items())
            for _, table in sorted(tables.items())
        ]


def _node(table: Table) -> Json:
    columns = {column.name: column.type for column in table.columns}
    metadata = {"created_at": EPOCH, "updated_at": EPOCH, "source_type": "schema"}
    return {
        "id": f"{table.database}::{table.name}",
        "labels": ["Table"],
        "properties": {"name": table.name, "columns": columns},
        "metadata": {**metadata, "realm": table.database},
    }
