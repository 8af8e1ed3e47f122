"""What a package and an engine make of extracts: the graph, as plain dictionaries."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from agentcy_ray.connectors.base import (
    Batch,
    Checkpoint,
    Connector,
    Mode,
    Progress,
    Rejected,
    SessionContext,
)
from tests.egress import loopback_guard

EDGE_KEY = ("src_label", "src_external_id", "type", "dst_label", "dst_external_id")


class Graph:
    """The graph after the extracts that were applied to it, and the last cursors."""

    def __init__(self) -> None:
        self.nodes: dict[tuple[str, str], dict[str, Any]] = {}
        self.edges: dict[tuple[str, ...], dict[str, Any]] = {}
        self.documents: dict[tuple[str, str], str] = {}
        self.cursors: dict[str, Any] = {}
        self.mode: Mode | None = None
        self.rejected: list[Rejected] = []
        self.rows = 0

    def apply(self, items: list[Any]) -> Graph:
        """Apply one extract; what it says is gone must have been there, and is not written too."""
        assert isinstance(items[0], Mode)
        self.mode = items[0]
        rows: dict[str, list[dict[str, Any]]] = {}
        self.rejected = [item for item in items if isinstance(item, Rejected)]
        for item in items:
            match item:
                case Batch(kind, batch):
                    rows.setdefault(kind, []).extend(batch.to_pylist())
                case Checkpoint(stream, cursor):
                    self.cursors[stream] = orjson.loads(orjson.dumps(dict(cursor)))
                case Mode() | Rejected() | Progress():
                    pass
        self.rows = sum(map(len, rows.values()))
        if self.mode.full:
            self.nodes, self.edges, self.documents = {}, {}, {}
            assert not {kind for kind in rows if "tombstones" in kind}
        self._remove(rows)
        for kind in ("nodes", "edges", "documents"):
            keys = [self._key(kind, row) for row in rows.get(kind, [])]
            assert len(keys) == len(set(keys)), f"{kind} are yielded once"
        for row in rows.get("nodes", []):
            properties = orjson.loads(row["properties"])
            self.nodes[self._key("nodes", row)] = {
                "labels": row["labels"], "name": row["name"], **properties,
            }  # fmt: skip
        for row in rows.get("edges", []):
            self.edges[self._key("edges", row)] = orjson.loads(row["properties"])
        for row in rows.get("documents", []):
            self.documents[self._key("documents", row)] = row["text"]
        return self

    @staticmethod
    def _key(kind: str, row: Mapping[str, Any]) -> tuple[str, ...]:
        if kind == "edges":
            return tuple(row[name] for name in EDGE_KEY)
        return (row["labels"][0] if kind == "nodes" else row["label"], row["external_id"])

    def _remove(self, rows: Mapping[str, list[dict[str, Any]]]) -> None:
        written = {(r["labels"][0], r["external_id"]) for r in rows.get("nodes", [])}
        gone = {(r["label"], r["external_id"]) for r in rows.get("tombstones", [])}
        assert gone <= self.nodes.keys()
        assert not gone & written
        for row in rows.get("edge_tombstones", []):
            del self.edges[tuple(row[name] for name in EDGE_KEY)]
        for row in rows.get("document_tombstones", []):
            del self.documents[row["label"], row["external_id"]]
        for key in gone:
            del self.nodes[key]
            self.documents.pop(key, None)
        if gone:
            self.edges = {k: v for k, v in self.edges.items() if not gone & {k[:2], k[3:]}}

    def check(self) -> None:
        """Edges end at nodes, documents belong to nodes."""
        for key in self.edges:
            assert key[:2] in self.nodes, key
            assert key[3:] in self.nodes, key
        assert self.documents.keys() <= self.nodes.keys()

    def of(self, label: str) -> dict[str, dict[str, Any]]:
        """Nodes with a primary label, by external id."""
        return {key[1]: node for key, node in self.nodes.items() if key[0] == label}

    def ends(self, edge_type: str) -> set[tuple[str, str]]:
        """(source, target) of the edges of a type, by external id."""
        return {(key[1], key[4]) for key in self.edges if key[2] == edge_type}

    def __eq__(self, other: object) -> bool:
        assert isinstance(other, Graph)
        return (self.nodes, self.edges, self.documents) == (
            other.nodes, other.edges, other.documents,
        )  # fmt: skip

    __hash__ = None


async def open_session(
    connector: Connector, config: Mapping[str, Any], work: Path, *roots: Path, **context: Any
) -> Any:
    """A session of a connector with a work folder."""
    work.mkdir(parents=True, exist_ok=True)
    surroundings = SessionContext("0" * 32, work, roots, **{"guard": loopback_guard(), **context})
    return await connector.open(connector.validate(config, surroundings), surroundings)


async def extracted(session: Any, before: Graph | None = None, *, full: bool = False) -> Graph:
    """Extract and apply, incrementally onto ``before`` when it is given."""
    graph = before or Graph()
    cursors = graph.cursors if before else {}
    items = [item async for item in session.extract(cursors, full=full)]
    return graph.apply(items)
