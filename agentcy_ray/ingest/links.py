"""Link rules: edges between nodes of two sources whose properties are equal.

A realm's rule ``{from_label, from_property, to_label, to_property, type}`` draws an edge from each
node of the realm to every node of another source with an equal value (not empty, case-folded); the
edge lies in the realm of its start and belongs to that node's source. The values that rules name
are kept in ``link_values`` and what was drawn in ``link_edges``, so a publish finds by a join what
to draw and what to take away, for its own source only.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import TYPE_CHECKING, Any
from uuid import UUID

import asyncpg
import orjson
import pyarrow as pa

from agentcy_ray.core.batches import EDGES
from agentcy_ray.core.ids import edge_id
from agentcy_ray.ingest.arrow import pc
from agentcy_ray.ingest.diff import Difference, Window
from agentcy_ray.ingest.fence import Lease
from agentcy_ray.ingest.merge import flat
from agentcy_ray.ingest.pipeline import ahead
from agentcy_ray.ingest.state import State

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

    from agentcy_ray.context.engine import ContextEngine
    from agentcy_ray.stores.postgres import Database

VALUE_CHARS = 512
"""Longer values are texts, not keys; no rule joins them."""

_RULES = "SELECT name, link_rules FROM realms WHERE link_rules <> '[]' ORDER BY name"
_INDEXED = "SELECT linked_rules FROM sources WHERE id = $1"
_NOTE = "UPDATE sources SET linked_rules = $2 WHERE id = $1"
_FORGET_NODES = "DELETE FROM link_values WHERE source_id = $1 AND node_id = ANY($2)"
_FORGET_ALL = "DELETE FROM link_values WHERE source_id = $1"
_PUT_VALUES = """
INSERT INTO link_values (org_id, source_id, node_id, realm, label, property, value)
SELECT $1, $2, v.* FROM unnest($3::text[], $4::text[], $5::text[], $6::text[], $7::text[]) AS v
ON CONFLICT (org_id, node_id, label, property) DO UPDATE SET value = excluded.value
"""
_DESIRED = """
WITH rules AS (SELECT * FROM jsonb_to_recordset($2) AS r(realm text, from_label text,
  from_property text, to_label text, to_property text, type text)),
desired AS (
  SELECT DISTINCT a.node_id AS src, b.node_id AS dst, r.type, a.realm, a.source_id,
    b.source_id AS dst_source_id
  FROM rules r
  JOIN link_values a ON a.label = r.from_label AND a.property = r.from_property
    AND a.realm = r.realm
  JOIN link_values b ON b.label = r.to_label AND b.property = r.to_property AND b.value = a.value
    AND b.source_id <> a.source_id
  WHERE a.source_id = $1 OR b.source_id = $1)
"""
_SAME = "e.src = d.src AND e.dst = d.dst AND e.type = d.type"
_MISSING = f"""{_DESIRED}
SELECT * FROM desired d WHERE NOT EXISTS (SELECT 1 FROM link_edges e WHERE {_SAME}) LIMIT $3
"""
_STALE = f"""{_DESIRED}
SELECT e.edge_id FROM link_edges e WHERE (e.source_id = $1 OR e.dst_source_id = $1)
  AND NOT EXISTS (SELECT 1 FROM desired d WHERE {_SAME}) LIMIT $3
"""
_PUT_EDGE = """
INSERT INTO link_edges (org_id, edge_id, src, dst, type, source_id, dst_source_id)
VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (org_id, edge_id) DO NOTHING
"""
_DROP_EDGES = "DELETE FROM link_edges WHERE edge_id = ANY($1)"


@dataclass(frozen=True)
class Rules:
    """The link rules of an organisation."""

    rows: tuple[dict[str, str], ...]
    """Each with the ``realm`` that it belongs to."""
    digest: str
    """Hash of the rules; empty without any."""

    @property
    def named(self) -> dict[str, set[str]]:
        """Label → the properties that some rule compares."""
        found: dict[str, set[str]] = {}
        for rule in self.rows:
            found.setdefault(rule["from_label"], set()).add(rule["from_property"])
            found.setdefault(rule["to_label"], set()).add(rule["to_property"])
        return found


async def read_rules(db: Database, org_id: UUID) -> Rules:
    """The link rules of every realm of an organisation."""
    async with db.tenant(org_id) as connection:
        realms = await connection.fetch(_RULES)
    rows = tuple(
        {**rule, "realm": realm["name"]} for realm in realms for rule in realm["link_rules"]
    )
    text = orjson.dumps(rows, option=orjson.OPT_SORT_KEYS)
    return Rules(rows, sha256(text).hexdigest() if rows else "")


async def rules_changed(lease: Lease, rules: Rules) -> bool:
    """Whether a source was last indexed for other rules than those of now."""
    async with lease.hold() as connection:
        return bool(await connection.fetchval(_INDEXED, lease.source_id) != rules.digest)


@dataclass(frozen=True)
class LinkPublisher:
    """Brings the links of one source in line with its new state; may be repeated."""

    engine: ContextEngine
    lease: Lease
    rules: Rules
    difference: Difference
    at: datetime
    batch_rows: int

    async def run(self) -> dict[str, int]:
        """Index what changed, draw what is missing, archive what is stale.

        Returns:
            ``{added, archived}``, numbers of edges.

        Raises:
            LeaseLostError: a newer owner publishes.
        """
        again = await rules_changed(self.lease, self.rules)
        if not self.rules.rows and not again:
            return {"added": 0, "archived": 0}
        difference = self.difference
        if again:  # other rules name other properties: every node is looked at anew
            difference = Difference(State(), difference.after)
            async with self.lease.hold() as connection:
                await connection.execute(_FORGET_ALL, self.lease.source_id)
        await self._index(difference)
        moved = {"added": await self._draw(), "archived": await self._erase()}
        if again:
            async with self.lease.hold() as connection:
                await connection.execute(_NOTE, self.lease.source_id, self.rules.digest)
        return moved

    async def _index(self, difference: Difference) -> None:
        columns = ["labels", "realm", "properties"]
        windows = difference.windows("nodes", columns=columns)
        named = self.rules.named
        work = ((_moved(each), _values(each.new, each.changed, named)) for each in windows)
        async with aclosing(ahead(work)) as items:
            async for ids, values in items:
                if not ids:
                    continue
                async with self.lease.hold() as connection:
                    await connection.execute(_FORGET_NODES, self.lease.source_id, ids)
                    if values:
                        lists = [list(column) for column in zip(*values, strict=True)]
                        org_id, source_id = self.lease.org_id, self.lease.source_id
                        await connection.execute(_PUT_VALUES, org_id, source_id, *lists)

    async def _draw(self) -> int:
        total = 0
        while True:
            async with self.lease.hold(engine=True) as connection:
                rows = await self._fetch(connection, _MISSING)
                if rows:
                    edges = await asyncio.to_thread(_edges, rows)
                    await self.engine.upsert_edges(self.lease.org_id, edges, self.at)
                    ids = edges["id"].to_pylist()
                    await connection.executemany(
                        _PUT_EDGE,
                        [
                            (self.lease.org_id, each, row["src"], row["dst"], row["type"],
                             row["source_id"], row["dst_source_id"])
                            for each, row in zip(ids, rows, strict=True)
                        ],
                    )  # fmt: skip
            total += len(rows)
            if len(rows) < self.batch_rows:
                return total

    async def _erase(self) -> int:
        total = 0
        while True:
            async with self.lease.hold(engine=True) as connection:
                ids = [row["edge_id"] for row in await self._fetch(connection, _STALE)]
                if ids:
                    await self.engine.archive(self.lease.org_id, "edge", ids, self.at)
                    await connection.execute(_DROP_EDGES, ids)
            total += len(ids)
            if len(ids) < self.batch_rows:
                return total

    async def _fetch(
        self, connection: PoolConnectionProxy[asyncpg.Record], sql: str
    ) -> list[asyncpg.Record]:
        rules = list(self.rules.rows)
        return await connection.fetch(sql, self.lease.source_id, rules, self.batch_rows)


def _moved(window: Window) -> list[str]:
    return [*window.new.filter(window.changed)["id"].to_pylist(), *window.archived.to_pylist()]


def _values(
    nodes: pa.Table, changed: pa.Array, named: dict[str, set[str]]
) -> list[tuple[str, str, str, str, str]]:
    """(node, realm, label, property, value) of the changed nodes that a rule may join."""
    rows = nodes.filter(changed)
    if not rows.num_rows or not named:
        return []
    labels = flat(rows["labels"])
    hit = pc.is_in(labels.flatten(), value_set=pa.array(sorted(named), pa.string()))
    rows = rows.take(pc.unique(pc.list_parent_indices(labels).filter(hit)))
    found: list[tuple[str, str, str, str, str]] = []
    for row in rows.to_pylist():
        properties: dict[str, Any] = orjson.loads(row["properties"])
        for label in dict.fromkeys(row["labels"]):
            for name in sorted(named.get(label, ())):
                value = _folded(properties.get(name))
                if value:
                    found.append((row["id"], row["realm"], label, name, value))
    return found


def _folded(value: Any) -> str:
    """A comparable form of a property, empty for what no rule joins."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return ""
    text = str(value).strip().casefold().replace("\x00", "")
    return text if len(text) <= VALUE_CHARS else ""


def _edges(rows: list[asyncpg.Record]) -> pa.RecordBatch:
    made = [
        {
            "id": edge_id(row["src"], row["type"], row["dst"], row["source_id"]),
            "src": row["src"],
            "dst": row["dst"],
            "type": row["type"],
            "realm": row["realm"],
            "properties": '{"linked":true}',
            "source_id": row["source_id"].hex,
            "content_hash": sha256(row["type"].encode()).hexdigest()[:32],
        }
        for row in rows
    ]
    return pa.RecordBatch.from_pylist(made, schema=EDGES)
