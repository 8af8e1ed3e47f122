"""Reading a whole organisation out of Basic, for the engine that it moves to."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson
import pyarrow as pa
from neo4j import Record

from agentcy_ray.context.basic.bolt import Bolt
from agentcy_ray.context.basic.events import EVENT
from agentcy_ray.context.basic.layout import ENTITY, moment, name_of, stamp, to_edge, to_node
from agentcy_ray.context.basic.slices import Edges, Nodes, sliced
from agentcy_ray.context.basic.writes import LISTED, edge_types, erase
from agentcy_ray.context.engine import EntityKind, Node
from agentcy_ray.context.migration.entities import MOMENT, SEEN, Entities
from agentcy_ray.context.migration.tally import Group
from agentcy_ray.core.batches import EDGES, EVENTS, NODES

BATCH_ROWS = 10_000
_BESIDE = ("body", "service", "severity", "trace_id", "span_id", "duration_ms")

# Events have no content hash; they are no entities of the graph on the other engine.
_NODES = "n:{name} AND n.org = $org AND n.archived_at IS {hidden} AND n.content_hash <> ''"
_EDGES = "r.org = $org AND r.archived_at IS {hidden}"
_SEEN_NODE = """
RETURN n.id, n.realm, n._labels, n.content_hash, n.source_id, n.first_seen, n.last_seen, true
"""
_SEEN_EDGE = """
RETURN r.id, r.realm, '', r.content_hash, r.source_id, r.first_seen, r.last_seen,
  a.archived_at IS NULL AND b.archived_at IS NULL
"""
_NODES_BY_ID = """
UNWIND $ids AS id MATCH (n:Entity {id: id})
WHERE n.org = $org AND n.archived_at IS NULL RETURN n AS entity
"""
_EDGES_BY_ID = """
MATCH ()-[r:{type}]->() WHERE r.id IN $ids AND r.org = $org AND r.archived_at IS NULL
RETURN r AS entity
"""
_HOURS = """
MATCH (n:Event) WHERE n.org = $org AND n.content_hash = ''
RETURN n.last_seen AS hour, count(*) AS count ORDER BY hour
"""
_EVENTS = """
MATCH (n:Event) WHERE n.org = $org AND n.content_hash = '' AND n.last_seen = $hour
RETURN n AS entity
"""


class Leaving:
    """One organisation's way out of Basic. Reads what is live, unless it says otherwise."""

    def __init__(self, bolt: Bolt, *, slice_rows: int | None = None) -> None:
        """``slice_rows``: how many nodes one query looks at, about, whatever is asked for."""
        self._bolt = bolt
        self._slice_rows = slice_rows

    async def seen(self, org_id: UUID, kind: EntityKind) -> AsyncIterator[pa.RecordBatch]:
        """All entities of a kind as ``SEEN`` batches; events are none."""
        names = [ENTITY] if kind == "node" else await edge_types(self._bolt)
        for name in names:
            async for batch in self._scan(org_id, kind, name, None):
                yield batch

    async def group(self, org_id: UUID, group: Group) -> AsyncIterator[pa.RecordBatch]:
        """The entities of one group as ``SEEN`` batches."""
        name = name_of("label" if group.kind == "node" else "type", group.name)
        async for batch in self._scan(org_id, group.kind, name, group.realm):
            yield batch

    async def entities(
        self, org_id: UUID, kind: EntityKind, ids: Sequence[str], type_: str = ""
    ) -> Entities:
        """Whole entities by id, those that are live.

        Args:
            org_id: whose.
            kind: nodes or edges.
            ids: of which ones.
            type_: of the edges.
        """
        found: list[dict[str, Any]] = []
        if kind == "node":
            rows = await self._bolt.read(_NODES_BY_ID, {"org": org_id.hex, "ids": list(ids)})
            found = [_node_row(row["entity"]) for row in rows]
            return _entities(found, NODES)
        text = _EDGES_BY_ID.format(type=name_of("type", type_))
        for start in range(0, len(ids), LISTED):
            some = list(ids[start : start + LISTED])
            rows = await self._bolt.read(text, {"org": org_id.hex, "ids": some})
            found += [_edge_row(row["entity"], type_) for row in rows]
        return _entities(found, EDGES)

    async def archived(self, org_id: UUID, kind: EntityKind) -> AsyncGenerator[Entities]:
        """Whole entities that are archived, a part at a time; events are none."""
        schema = NODES if kind == "node" else EDGES
        of = "n" if kind == "node" else "r"
        for name in [ENTITY] if kind == "node" else await edge_types(self._bolt):
            rows: list[dict[str, Any]] = []
            asked = _asked(kind, name, "NOT NULL")
            async for record in self._sliced(org_id, asked, f"RETURN {of} AS entity"):
                stored = record["entity"]
                row = _node_row(stored) if kind == "node" else _edge_row(stored, _plain(name))
                rows.append({**row, "archived": moment(stored["archived_at"])})
                if len(rows) == LISTED:
                    yield _entities(rows, schema)
                    rows = []
            if rows:
                yield _entities(rows, schema)

    async def edges_among(self, org_id: UUID, ids: Sequence[str]) -> Entities:
        """Whole edges by id, whatever their types."""
        parts = [
            await self.entities(org_id, "edge", ids, _plain(name))
            for name in await edge_types(self._bolt)
        ]
        return Entities(
            _joined([part.rows for part in parts], EDGES),
            pa.concat_arrays([*(part.first_seen for part in parts), pa.array([], MOMENT)]),
            pa.concat_arrays([*(part.last_seen for part in parts), pa.array([], MOMENT)]),
        )

    async def event_hours(self, org_id: UUID) -> dict[datetime, int]:
        """The hours in which events happened, each with their number, oldest first."""
        rows = await self._bolt.read(_HOURS, {"org": org_id.hex})
        return {datetime.fromisoformat(row["hour"]): row["count"] for row in rows}

    async def events(self, org_id: UUID, hour: datetime) -> pa.RecordBatch:
        """The events of an hour as ``EVENTS``."""
        rows = await self._bolt.read(_EVENTS, {"org": org_id.hex, "hour": stamp(hour)})
        found = [_event_row(to_node(row["entity"])) for row in rows]
        return pa.RecordBatch.from_pylist(found, schema=EVENTS)

    def drop(self, org_id: UUID) -> AsyncIterator[int]:
        """Delete everything of an organisation; yields how many nodes each step deleted."""
        return erase(self._bolt, org_id)

    async def _scan(
        self, org_id: UUID, kind: EntityKind, name: str, realm: str | None
    ) -> AsyncIterator[pa.RecordBatch]:
        shown = _SEEN_NODE if kind == "node" else _SEEN_EDGE
        rows: list[list[Any]] = []
        own = None if kind == "node" else [_plain(name)]
        asked = _asked(kind, name, "NULL", realm)
        async for record in self._sliced(org_id, asked, shown, realm):
            rows.append(record.values())
            if len(rows) == BATCH_ROWS:
                yield _seen(rows, own)
                rows = []
        if rows:
            yield _seen(rows, own)

    def _sliced(
        self, org_id: UUID, asked: Nodes | Edges, shown: str, realm: str | None = None
    ) -> AsyncGenerator[Record]:
        if self._slice_rows is not None:
            asked = replace(asked, rows=self._slice_rows)
            if isinstance(asked, Edges):
                asked = replace(asked, at_once=0)
        return sliced(self._bolt, asked, shown, {"org": org_id.hex, "realm": realm})


def _asked(kind: EntityKind, name: str, hidden: str, realm: str | None = None) -> Nodes | Edges:
    of = "n" if kind == "node" else "r"
    within = "" if realm is None else f" AND {of}.realm = $realm"
    if kind == "node":
        return Nodes(_NODES.format(name=name, hidden=hidden) + within)
    return Edges(name, _EDGES.format(hidden=hidden) + within)


def _seen(rows: list[list[Any]], names: list[str] | None) -> pa.RecordBatch:
    ids, realms, labels, hashes, sources, first, last, visible = (
        list(column) for column in zip(*rows, strict=True)
    )
    columns = {
        "id": ids,
        "realm": realms,
        "names": labels if names is None else [names] * len(rows),
        "content_hash": hashes,
        "source_id": sources,
        "first_seen": pa.array(first, pa.string()).cast(MOMENT),
        "last_seen": pa.array(last, pa.string()).cast(MOMENT),
        "visible": visible,
    }
    return pa.RecordBatch.from_pydict(columns, schema=SEEN)


def _entities(rows: list[dict[str, Any]], schema: pa.Schema) -> Entities:
    hidden = [row.pop("archived", None) for row in rows]
    times = (pa.array([row.pop(name) for row in rows], MOMENT) for name in ("first", "last"))
    first, last = times
    archived = pa.array(hidden, MOMENT) if any(hidden) else None
    return Entities(pa.RecordBatch.from_pylist(rows, schema=schema), first, last, archived)


def _node_row(stored: Any) -> dict[str, Any]:
    node = to_node(stored)
    return {
        "id": node.id,
        "labels": list(node.labels),
        "realm": node.realm,
        "name": node.name,
        "properties": _json(node.properties),
        "connector": node.source.connector,
        "source_id": node.source.source_id,
        "external_id": node.source.external_id,
        "content_hash": node.content_hash,
        "first": node.first_seen,
        "last": node.last_seen,
    }


def _edge_row(stored: Any, type_: str) -> dict[str, Any]:
    edge = to_edge(stored, type_)
    return {
        **edge.model_dump(exclude={"properties"}),
        "properties": _json(edge.properties),
        "source_id": stored["source_id"],
        "content_hash": stored["content_hash"],
        "first": moment(stored["first_seen"]),
        "last": moment(stored["last_seen"]),
    }


def _event_row(node: Node) -> dict[str, Any]:
    properties = dict(node.properties)
    beside = {name: properties.pop(name, None) for name in _BESIDE}
    at = datetime.fromisoformat(properties.pop("at"))
    return {
        **beside,
        "at": at,
        "label": next((name for name in node.labels if name != EVENT), EVENT),
        "properties": _json(properties),
        "realm": node.realm,
        "pipeline_id": node.source.source_id,
        "event_id": node.source.external_id,
    }


def _json(properties: dict[str, Any]) -> str:
    return orjson.dumps(properties, option=orjson.OPT_SORT_KEYS).decode()


def _joined(parts: Sequence[pa.RecordBatch], schema: pa.Schema) -> pa.RecordBatch:
    table = pa.Table.from_batches(list(parts), schema).combine_chunks()
    return next(iter(table.to_batches()), pa.RecordBatch.from_pylist([], schema))


def _plain(quoted: str) -> str:
    """The name of a type that ``edge_types`` quoted."""
    return quoted[1:-1].replace("``", "`") if quoted.startswith("`") else quoted
