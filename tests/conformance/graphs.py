"""Graphs in plain Python, and the batches that write them: the model that engines are held to."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pyarrow as pa

from agentcy_ray.context.engine import ContextEngine, Scope
from agentcy_ray.core.batches import EDGES, NODES
from agentcy_ray.core.ids import edge_id, node_id

SEEN = datetime(2026, 3, 1, 12, 30, 15, 123456, tzinfo=UTC)
LATER = datetime(2026, 3, 9, 8, 0, 0, tzinfo=UTC)
SOURCE = UUID(int=7)


@dataclass
class Graph:
    """Nodes by a short key, and edges between keys; knows the ids that an engine sees."""

    org: UUID
    source: UUID = SOURCE
    nodes: dict[str, dict[str, Any]] = field(default_factory=dict)
    edges: list[dict[str, Any]] = field(default_factory=list)

    def node(
        self,
        key: str,
        *labels: str,
        realm: str = "development",
        name: str | None = None,
        **properties: Any,
    ) -> str:
        """Add a node; returns its id."""
        labels = labels or ("Thing",)
        id_ = node_id(self.org, realm, self.source, labels[0], key)
        self.nodes[key] = {
            "id": id_,
            "labels": list(labels),
            "realm": realm,
            "name": key if name is None else name,
            "properties": json.dumps(properties),
            "connector": "demo",
            "source_id": self.source.hex,
            "external_id": key,
            "content_hash": "0" * 32,
        }
        return id_

    def edge(self, src: str, type_: str, dst: str, **properties: Any) -> str:
        """Add an edge between two keys; returns its id."""
        start, end = self.nodes[src], self.nodes[dst]
        id_ = edge_id(start["id"], type_, end["id"], self.source)
        self.edges.append({
            "id": id_,
            "src": start["id"],
            "dst": end["id"],
            "type": type_,
            "realm": start["realm"],
            "properties": json.dumps(properties),
            "source_id": self.source.hex,
            "content_hash": "0" * 32,
        })
        return id_

    def id(self, key: str) -> str:
        """The id of a node."""
        return self.nodes[key]["id"]

    def node_batch(self) -> pa.RecordBatch:
        """All nodes as one batch."""
        return pa.RecordBatch.from_pylist(list(self.nodes.values()), schema=NODES)

    def edge_batch(self) -> pa.RecordBatch:
        """All edges as one batch."""
        return pa.RecordBatch.from_pylist(self.edges, schema=EDGES)

    @property
    def scope(self) -> Scope:
        """Every realm of the organisation."""
        return Scope(org_id=self.org)

    def within(self, *realms: str) -> Scope:
        """Some realms of the organisation."""
        return Scope(org_id=self.org, realms=realms)


async def write(engine: ContextEngine, graph: Graph, seen_at: datetime = SEEN) -> None:
    """Upsert the whole graph."""
    await engine.upsert_nodes(graph.org, graph.node_batch(), seen_at)
    if graph.edges:
        await engine.upsert_edges(graph.org, graph.edge_batch(), seen_at)


def small(org: UUID) -> Graph:
    """Three services that call each other, and the team of another realm that owns one."""
    graph = Graph(org)
    for key in "abc":
        graph.node(key, "Service")
        graph.nodes[key]["properties"] = json.dumps({})
    graph.node("team", "Team", realm="crm")
    graph.edge("a", "CALLS", "b")
    graph.edge("b", "CALLS", "c")
    graph.edge("a", "CALLS", "c")
    graph.edge("team", "OWNS", "a")
    return graph
