"""Taking entities over from another engine, with the times that they had there.

A row that arrives has the version of when it was last seen, so it is what a publish of that moment
would have written: any later write counts over it, in whatever order they come.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import pyarrow as pa
from sqlglot import Expr, exp

from agentcy_ray.context.advanced.layout import (
    SEPARATOR,
    STORED,
    TABLES,
    VERSION_DIGITS,
    edge_rows,
    hidden_rows,
    node_rows,
)
from agentcy_ray.context.advanced.sql import listed, one_of, over, texts
from agentcy_ray.context.advanced.store import Store
from agentcy_ray.context.basic.layout import stamp
from agentcy_ray.context.engine import EntityKind, Scope
from agentcy_ray.context.kyma.arrow import pc
from agentcy_ray.context.languages.current import column
from agentcy_ray.context.migration.entities import Entities
from agentcy_ray.context.migration.tally import CENSUS, Group

SCAN_MS = 3_600_000
IDS = 2_000
"""Ids of one ``IN`` list."""
_STAMP = "%Y-%m-%dT%H:%M:%SZ"
_COLUMNS = {"node": ("id", "realm", "label_set", "content_hash"),
            "edge": ("id", "realm", "type", "content_hash")}  # fmt: skip


class Arriving:
    """One organisation's way into the Advanced engine."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def adopt(
        self, org_id: UUID, kind: EntityKind, entities: Entities, *, over_all: bool = False
    ) -> int:
        """Write entities; the same ones again change nothing. Returns how many.

        Args:
            org_id: whose.
            kind: nodes or edges; the ends of edges may come later.
            entities: which ones, all live or all archived.
            over_all: count over every row that the engine has of them, however new.

        Raises:
            InvalidError: a label, type or the properties of a row cannot be stored.
        """
        if not entities.rows.num_rows:
            return 0
        newest: dict[str, str] = {}
        if over_all:
            newest = await self._newest(org_id, kind, entities.rows.column("id").to_pylist())
        rows = await asyncio.to_thread(_adopted, kind, entities, newest)
        return await self._store.append(org_id, TABLES[kind], rows, key_scope="adopt")

    async def hide(self, org_id: UUID, kind: EntityKind, ids: Sequence[str], at: datetime) -> int:
        """Let entities be gone, by rows that are only just newer than what they hide."""
        total = 0
        names = [name for name in STORED[TABLES[kind]] if name != "at"]
        for start in range(0, len(ids), IDS):
            shown = ", ".join(
                "arrow_cast(props, 'Utf8') AS props" if name == "props" else f'"{name}"'
                for name in names
            )
            outer = ", ".join(f'"{name}"' for name in names)
            sql = (
                f"SELECT {outer} FROM (SELECT {shown}, row_number() OVER (PARTITION BY id"
                f' ORDER BY "version" DESC, "op" DESC) AS "_rank" FROM {TABLES[kind]}'
                f" WHERE id IN ({listed(ids[start : start + IDS])}))"
                " WHERE \"_rank\" = 1 AND op = 'upsert'"
            )
            rows = await self._store.read(org_id, sql, texts(*names))
            if rows.num_rows:
                made = await asyncio.to_thread(hidden_rows, rows, at, "purge")
                total += await self._store.append(org_id, TABLES[kind], made, key_scope="hide")
        return total

    async def census(self, org_id: UUID, kind: EntityKind) -> AsyncIterator[pa.RecordBatch]:
        """All visible entities of a kind as ``CENSUS`` batches."""
        async for batch in self._scan(org_id, kind, []):
            yield batch

    async def group(self, org_id: UUID, group: Group) -> AsyncIterator[pa.RecordBatch]:
        """The visible entities of one group as ``CENSUS`` batches."""
        conditions: list[Expr] = [one_of("realm", [group.realm])]
        if group.kind == "edge":
            conditions.append(one_of("type", [group.name]))
        async for batch in self._scan(org_id, group.kind, conditions):
            if group.kind == "node":
                batch = _labelled(batch, group.name)
            if batch.num_rows:
                yield batch

    async def event_ids(
        self, org_id: UUID, since: datetime, until: datetime
    ) -> set[tuple[str, str]]:
        """(pipeline, event) of what is there of a time."""
        at = column("at")
        conditions = [
            exp.GTE(this=at.copy(), expression=_moment(since)),
            exp.LT(this=at.copy(), expression=_moment(until)),
        ]
        events = over(Scope(org_id=org_id), {"context_events": conditions})
        names = ("pipeline_id", "event_id")
        sql = f"WITH {events} SELECT pipeline_id, event_id FROM _events"
        rows = await self._store.read(org_id, sql, texts(*names), timeout_ms=SCAN_MS)
        return set(zip(*(rows[name].to_pylist() for name in names), strict=True))

    async def _newest(self, org_id: UUID, kind: EntityKind, ids: Sequence[str]) -> dict[str, str]:
        found: dict[str, str] = {}
        for start in range(0, len(ids), IDS):
            sql = (
                f'SELECT id, max("version") AS "version" FROM {TABLES[kind]}'
                f" WHERE id IN ({listed(ids[start : start + IDS])}) GROUP BY id"
            )
            rows = await self._store.read(org_id, sql, texts("id", "version"))
            found |= dict(zip(rows["id"].to_pylist(), rows["version"].to_pylist(), strict=True))
        return found

    async def _scan(
        self, org_id: UUID, kind: EntityKind, conditions: Sequence[Expr]
    ) -> AsyncIterator[pa.RecordBatch]:
        shown = _COLUMNS[kind]
        columns = shown if kind == "node" else (*shown, "src", "dst")  # which its ends need
        entities = over(
            Scope(org_id=org_id), {TABLES[kind]: list(conditions)}, narrow={TABLES[kind]: columns}
        )
        names = ", ".join(f'"{name}"' for name in shown)
        sql = f"WITH {entities} SELECT {names} FROM _{kind}s"
        stream = self._store.batches(org_id, sql, texts(*shown), timeout_ms=SCAN_MS)
        async for batch in stream:
            if batch.num_rows:
                yield _census(batch, kind)


def _adopted(kind: EntityKind, entities: Entities, newest: dict[str, str]) -> pa.RecordBatch:
    make = node_rows if kind == "node" else edge_rows
    rows = make(entities.rows, datetime.now().astimezone())
    last, archived = entities.last_seen, entities.archived_at
    moments = pc.cast(last, pa.int64())
    if archived is not None:  # as ``hidden_rows`` counts
        moments = pc.max_element_wise(pc.add(moments, 1), pc.cast(archived, pa.int64()))
    micros = pc.cast(moments, pa.string())
    versions = pc.utf8_lpad(micros, VERSION_DIGITS, "0")
    if newest:
        versions = pa.array(
            [
                max(own, _after(newest[id_])) if id_ in newest else own
                for own, id_ in zip(
                    versions.to_pylist(), rows.column("id").to_pylist(), strict=True
                )
            ],
            pa.string(),
        )
    own: dict[str, Any] = {
        "at": last,
        "first_seen": pc.strftime(entities.first_seen, _STAMP),
        "last_seen": pc.strftime(last, _STAMP),
        "version": versions,
    }
    if archived is not None:
        own |= {
            "archived_at": pc.strftime(archived, _STAMP),
            "op": pa.repeat(pa.scalar("archive"), rows.num_rows),
        }
    columns = {name: own.get(name, rows.column(name)) for name in rows.schema.names}
    return pa.RecordBatch.from_pydict(columns)


def _census(batch: pa.RecordBatch, kind: EntityKind) -> pa.RecordBatch:
    if kind == "node":
        bare = pc.utf8_trim(batch.column("label_set"), SEPARATOR)
        names = pc.split_pattern(bare, SEPARATOR)
    else:
        names = pc.split_pattern(batch.column("type"), SEPARATOR)
    columns = {
        "id": batch.column("id"),
        "realm": batch.column("realm"),
        "names": names,
        "content_hash": batch.column("content_hash"),
    }
    return pa.RecordBatch.from_pydict(columns, schema=CENSUS)


def _labelled(batch: pa.RecordBatch, label: str) -> pa.RecordBatch:
    names = batch.column("names")
    hit = pc.equal(pc.list_flatten(names), label)
    rows = pc.unique(pc.list_parent_indices(names).filter(hit))
    return batch.take(rows)


def _moment(moment: datetime) -> Expr:
    text = exp.Literal.string(stamp(moment))
    return exp.Cast(this=text, to=exp.DataType.build("timestamp"))


def _after(version: str) -> str:
    return f"{int(version) + 1:0{VERSION_DIGITS}d}"
