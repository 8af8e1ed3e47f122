"""A source that lives in the test: any graph, changed at will, read in full or by difference."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from pydantic import BaseModel

from agentcy_ray.connectors.base import (
    Batch,
    Checkpoint,
    ConnectorSpec,
    Cursors,
    ExtractItem,
    Mode,
    Rejected,
)
from agentcy_ray.connectors.records import BatchBuilder
from agentcy_ray.ingest.extract import OpenedSource

NodeKey = tuple[str, str]
"""(label, external id)"""
EdgeKey = tuple[NodeKey, str, NodeKey]


@dataclass
class Graph:
    """Everything that a source knows."""

    nodes: dict[NodeKey, dict[str, Any]] = field(default_factory=dict)
    """→ properties; ``name`` among them names the node."""
    edges: dict[EdgeKey, dict[str, Any]] = field(default_factory=dict)
    documents: dict[NodeKey, str] = field(default_factory=dict)

    def copy(self) -> Graph:
        return deepcopy(self)

    def drop(self, key: NodeKey) -> None:
        """A node leaves with its document and its edges."""
        self.nodes.pop(key, None)
        self.documents.pop(key, None)
        for edge in [edge for edge in self.edges if key in (edge[0], edge[2])]:
            del self.edges[edge]

    def visible(self) -> dict[EdgeKey, dict[str, Any]]:
        """Edges whose two ends are there."""
        return {
            edge: properties
            for edge, properties in self.edges.items()
            if edge[0] in self.nodes and edge[2] in self.nodes
        }


@dataclass
class MemorySource:
    """A ``Session`` and what opens it. ``history`` holds the states that cursors point to."""

    graph: Graph = field(default_factory=Graph)
    incremental: bool = True
    reports_deletions: bool = True
    batch_rows: int = 500
    history: list[Graph] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    error: Exception | None = None
    on_item: Callable[[], Any] | None = None
    extracts: list[str] = field(default_factory=list)
    """``full`` or ``incremental`` of each extract."""

    @property
    def spec(self) -> ConnectorSpec:
        return ConnectorSpec(
            name="memory",
            title="Memory",
            description="A graph in the test",
            version="1",
            config_model=BaseModel,
            default_realm="development",
            incremental=self.incremental,
            reports_deletions=self.reports_deletions,
        )

    @asynccontextmanager
    async def open(self, org_id: UUID, source_id: UUID) -> AsyncGenerator[OpenedSource]:
        yield OpenedSource(self.spec, "development", self)

    async def check(self) -> None:
        return

    async def close(self) -> None:
        return

    async def call(self, tool: str, args: Mapping[str, Any], **how: Any) -> Any:
        raise AssertionError(f"a sync called the tool {tool}")

    async def extract(self, cursors: Cursors, *, full: bool) -> AsyncIterator[ExtractItem]:
        cursor = cursors.get("graph")
        full = full or cursor is None
        self.extracts.append("full" if full else "incremental")
        yield Mode(full)
        before = Graph() if full or cursor is None else self.history[cursor["at"]]
        now = self.graph.copy()
        for batch in self._batches(before, now, full):
            yield batch
            await asyncio.sleep(0)
            if self.on_item is not None:
                self.on_item()
            if self.error is not None:
                raise self.error
        for rejected in self.rejected:
            yield rejected
        if self.error is not None:
            raise self.error
        if full or now != before:
            self.history.append(now)
            yield Checkpoint("graph", {"at": len(self.history) - 1})

    def _batches(self, before: Graph, now: Graph, full: bool) -> list[Batch]:
        kinds = ("nodes", "edges", "documents", "tombstones", "edge_tombstones")
        builders = {kind: BatchBuilder(kind, self.batch_rows) for kind in kinds}
        builders["document_tombstones"] = BatchBuilder("document_tombstones", self.batch_rows)
        made: list[Batch] = []

        def add(kind: str, **row: Any) -> None:
            batch = builders[kind].add(**row)
            if batch is not None:
                made.append(batch)

        for key, properties in now.nodes.items():
            if before.nodes.get(key) != properties:
                name = properties.get("name")
                add("nodes", labels=[key[0]], external_id=key[1], name=name, properties=properties)
        gone = before.nodes.keys() - now.nodes.keys()
        for edge, properties in now.edges.items():
            # A node that is gone takes its edges along; those that stay have to be said again.
            lost_end = not full and (edge[0] in gone or edge[2] in gone)
            if lost_end or before.edges.get(edge) != properties:
                add("edges", **_ends(edge), properties=properties)
        for key, text in now.documents.items():
            if before.documents.get(key) != text:
                media = "text/markdown"
                add("documents", label=key[0], external_id=key[1], text=text, media_type=media)
        if not full:
            for key in gone:
                add("tombstones", label=key[0], external_id=key[1])
            for edge in before.edges.keys() - now.edges.keys():
                add("edge_tombstones", **_ends(edge))
            for key in before.documents.keys() - now.documents.keys():
                if key in now.nodes:
                    add("document_tombstones", label=key[0], external_id=key[1])
        made += [batch for builder in builders.values() if (batch := builder.flush()) is not None]
        return made


def _ends(edge: EdgeKey) -> dict[str, str]:
    (src_label, src), kind, (dst_label, dst) = edge
    return {
        "src_label": src_label,
        "src_external_id": src,
        "type": kind,
        "dst_label": dst_label,
        "dst_external_id": dst,
    }


def chain(size: int, label: str = "Item") -> Graph:
    """``size`` nodes, each with a text, in one line of edges."""
    graph = Graph()
    for n in range(size):
        graph.nodes[label, f"i{n}"] = {"name": f"item {n}", "n": n}
        if n:
            graph.edges[(label, f"i{n - 1}"), "NEXT", (label, f"i{n}")] = {"step": n}
    return graph
