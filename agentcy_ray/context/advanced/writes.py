"""Writing: every change is a row, so a write is an append, and hiding is one too."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import UTC, datetime
from typing import TypeVar
from uuid import UUID

import pyarrow as pa

from agentcy_ray.context.advanced.layout import (
    STORED,
    TABLES,
    edge_rows,
    event_rows,
    hidden_rows,
    node_rows,
    version_of,
)
from agentcy_ray.context.advanced.sql import listed, one_of, over, quoted, texts
from agentcy_ray.context.advanced.store import Store
from agentcy_ray.context.basic.layout import stamp
from agentcy_ray.context.engine import EntityKind, Scope, Written
from agentcy_ray.context.kyma.arrow import pc

LISTED = 4_000
"""Ids of one ``IN`` list."""
HIDDEN = 2_000
"""Entities that are read, and hidden, at once."""
_END_OF_TIME = datetime(9999, 12, 31, tzinfo=UTC)

_T = TypeVar("_T")


async def write_nodes(
    store: Store, org_id: UUID, batch: pa.RecordBatch, seen_at: datetime
) -> Written:
    """Append a row for each node; whatever was there before is older."""
    rows = await asyncio.to_thread(node_rows, batch, seen_at)
    written = await store.put(org_id, "context_nodes", rows, key_scope=version_of(seen_at))
    return written.model_copy(update={"rows": batch.num_rows - len(written.refused)})


async def write_edges(
    store: Store, org_id: UUID, batch: pa.RecordBatch, seen_at: datetime, *, fresh: bool
) -> Written:
    """Append a row for each edge whose ends are there, archived or not.

    With ``fresh`` the caller knows that they are.
    """
    rows = await asyncio.to_thread(edge_rows, batch, seen_at)
    if not fresh and rows.num_rows:
        ends = pa.concat_arrays([rows.column("src"), rows.column("dst")]).unique()
        known = pa.array(
            await existing(store, org_id, ends.to_pylist(), include_archived=True), pa.string()
        )
        whole = pc.and_(*(pc.is_in(rows.column(name), value_set=known) for name in ("src", "dst")))
        rows = rows.filter(whole)
    return await store.put(org_id, "context_edges", rows, key_scope=version_of(seen_at))


async def write_events(store: Store, org_id: UUID, batch: pa.RecordBatch) -> Written:
    """Append events."""
    rows = await asyncio.to_thread(event_rows, batch)
    return await store.put(org_id, "context_events", rows, key_scope="events")


async def existing(
    store: Store, org_id: UUID, ids: Sequence[str], *, include_archived: bool = False
) -> set[str]:
    """Those of the node ids that are there."""
    found: set[str] = set()
    for some in _parts(ids, LISTED):
        nodes = over(
            Scope(org_id=org_id), {"context_nodes": [one_of("id", some)]},
            include_archived=include_archived, narrow={"context_nodes": ("id",)},
        )  # fmt: skip
        rows = await store.read(org_id, f"WITH {nodes} SELECT id FROM _nodes", texts("id"))
        found.update(rows["id"].to_pylist())
    return found


async def holds(store: Store, org_id: UUID, source_id: UUID) -> bool:
    """Whether a node or an edge of the source is there, archived ones included."""
    for kind in TABLES:
        condition = f"source_id = {quoted(source_id.hex)}"
        rows = await store.read(
            org_id, f"{_newest(kind, condition)} AND op <> 'purge' LIMIT 1", _raw(kind)
        )
        if rows.num_rows:
            return True
    return False


async def archive(
    store: Store, org_id: UUID, kind: EntityKind, ids: Sequence[str], at: datetime
) -> int:
    """Hide live entities; returns how many were live."""
    total = 0
    for some in _parts(list(dict.fromkeys(ids)), HIDDEN):
        sql = f"{_newest(kind, f'id IN ({listed(some)})')} AND op = 'upsert'"
        rows = await store.read(org_id, sql, _raw(kind))
        total += await _hide(store, org_id, kind, rows, at, "archive")
    return total


async def prune(store: Store, org_id: UUID, source_id: UUID, before: datetime, at: datetime) -> int:
    """Let entities that were archived before a time be gone, for readers of archived ones too."""
    total = 0
    kinds: tuple[EntityKind, ...] = ("edge", "node")
    for kind in kinds:
        source = f"source_id = {quoted(source_id.hex)}"
        over_time = f"op = 'archive' AND archived_at < {quoted(stamp(before))}"
        while True:
            sql = f"{_newest(kind, source)} AND {over_time} LIMIT {HIDDEN}"
            rows = await store.read(org_id, sql, _raw(kind))
            if kind == "node":  # their edges go along, and first, since only the nodes lead to them
                await _purge_edges_of(store, org_id, rows["id"].to_pylist(), at)
            total += await _hide(store, org_id, kind, rows, at, "purge")
            if rows.num_rows < HIDDEN:
                break
    return total


async def erase(store: Store, org_id: UUID, at: datetime) -> AsyncIterator[int]:
    """Let every entity of an organisation be gone; yields how many each step took.

    Its rows and events stay in kyma's files: nobody reads the database any more.
    """
    kinds: tuple[EntityKind, ...] = ("edge", "node")
    for kind in kinds:
        last, count = "", HIDDEN
        while count == HIDDEN:
            newest = _newest(kind, f"id > {quoted(last)}")
            sql = f"{newest} AND op = 'upsert' ORDER BY id LIMIT {HIDDEN}"
            rows = await store.read(org_id, sql, _raw(kind))
            count = rows.num_rows
            if count:
                last = rows["id"][-1].as_py()
                await _hide(store, org_id, kind, rows, at, "archive")
                yield count
        of_kind = f"SELECT DISTINCT source_id FROM {TABLES[kind]} WHERE source_id <> ''"
        for source in (await store.read(org_id, of_kind, texts("source_id")))["source_id"]:
            yield await prune(store, org_id, UUID(hex=source.as_py()), _END_OF_TIME, at)


async def _purge_edges_of(store: Store, org_id: UUID, ids: Sequence[str], at: datetime) -> None:
    if not ids:
        return
    here = listed(ids)
    sql = f"{_newest('edge', f'(src IN ({here}) OR dst IN ({here}))')} AND op <> 'purge'"
    await _hide(store, org_id, "edge", await store.read(org_id, sql, _raw("edge")), at, "purge")


async def _hide(
    store: Store, org_id: UUID, kind: EntityKind, rows: pa.Table, at: datetime, op: str
) -> int:
    if not rows.num_rows:
        return 0
    hidden = await asyncio.to_thread(hidden_rows, rows, at, op)
    return await store.append(org_id, TABLES[kind], hidden, key_scope=f"{op}/{version_of(at)}")


def _newest(kind: EntityKind, condition: str) -> str:
    """The newest row of each id under a condition on immutable columns, with all its columns as
    they are stored, hidden ones included."""  # fmt: skip
    names = _columns(kind)
    inner = ", ".join(
        "arrow_cast(props, 'Utf8') AS props" if name == "props" else f'"{name}"' for name in names
    )
    outer = ", ".join(f'"{name}"' for name in names)
    return (
        f"SELECT {outer} FROM (SELECT {inner}, row_number() OVER"
        ' (PARTITION BY "id" ORDER BY "version" DESC, "op" DESC) AS "_rank"'
        f' FROM {TABLES[kind]} WHERE {condition}) WHERE "_rank" = 1'
    )


def _columns(kind: EntityKind) -> tuple[str, ...]:
    return tuple(name for name in STORED[TABLES[kind]] if name != "at")


def _raw(kind: EntityKind) -> pa.Schema:
    return texts(*_columns(kind))


def _parts(items: Sequence[_T], size: int) -> Iterator[Sequence[_T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
