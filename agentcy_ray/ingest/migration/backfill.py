"""Publishing every source's current package into the Advanced engine, as Basic shows it.

Basic says what is live and since when; the package has the rows. A row of the package that Basic
holds with the same content is written with Basic's times. What Basic has otherwise, or beside the
package (links between sources, what a broken-off publish left), comes from Basic itself. Each
window of rows is followed by its cursor ``{source, package, part, after}``, so a worker that takes
over repeats one window at most.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pyarrow as pa
import structlog

from agentcy_ray.context.engine import EntityKind
from agentcy_ray.context.migration.entities import Entities
from agentcy_ray.context.migration.records import Migration
from agentcy_ray.context.migration.router import Engines
from agentcy_ray.context.migration.store import Migrations
from agentcy_ray.core.batches import EDGES, EVENTS, NODES
from agentcy_ray.core.errors import ConflictError, PackageCorruptError
from agentcy_ray.ingest.chains import load_state
from agentcy_ray.ingest.manifest import Kind
from agentcy_ray.ingest.migration.snapshot import Part, Snapshot
from agentcy_ray.ingest.pipeline import ahead, overlapped
from agentcy_ray.ingest.progress import Beats
from agentcy_ray.ingest.state import State
from agentcy_ray.jobs.records import Progress

if TYPE_CHECKING:
    from agentcy_ray.stores.objects import ObjectStore

PARTS: tuple[str, ...] = ("nodes", "edges", "other_nodes", "other_edges")
LATER = frozenset({"archived", "events"})
"""What comes after the parts of every source."""
SAVED_PARTS, BATCH_ROWS, LEAST_ROWS = 400, 20_000, 500
"""A cursor is saved for each so manieth part of the rows, so that a worker that is killed has
written less than a hundredth of the whole in vain; but for so many rows at most and at least."""
_KINDS: dict[str, tuple[Kind, EntityKind, pa.Schema]] = {
    "nodes": ("nodes", "node", NODES),
    "edges": ("edges", "edge", EDGES),
}
AT_ONCE = 2
"""Parts that are written at once: one is encoded while the engine takes the other."""
_SOURCES = "SELECT id, current_package_id FROM sources"
_log = structlog.get_logger(__name__)


@dataclass
class Pace:
    """How far a backfill is, and how long the rest will take at the rate of this attempt."""

    beat: Beats
    total: int
    before: int
    """Rows that lay in the new engine when this attempt began."""
    rows: int = 0
    began: float = field(default_factory=time.monotonic)

    def add(self, rows: int) -> None:
        """Count rows and say so."""
        self.rows += rows
        rate = self.rows / max(1e-3, time.monotonic() - self.began)
        done = min(self.before + self.rows, self.total)
        left = (self.total - done) / rate if rate else None
        self.beat.progress(
            Progress(
                done=done, total=self.total, unit="entities", rate=round(rate, 1),
                eta_secs=None if left is None else round(left, 1), note="backfilling",
            )
        )  # fmt: skip


@dataclass
class Backfill:
    """One attempt at the backfill of one organisation."""

    engines: Engines
    objects: ObjectStore
    migrations: Migrations
    migration: Migration
    epoch: int
    beat: Beats
    folder: Path
    probe: Callable[[str], None]

    async def run(self) -> None:
        """Write everything from the migration's cursor on.

        Raises:
            CancelledByRequestError: a cancel was asked for.
            LeaseLostError: another worker carries the migration out.
            BackendError: a store failed; the next attempt goes on.
        """
        org_id, leaving = self.migration.org_id, self.engines.leaving
        cursor = dict(self.migration.cursor)
        self.beat.progress(Progress(unit="entities", note="looking at Basic"))
        nodes = await Snapshot.read(leaving.seen(org_id, "node"), typed=False)
        edges = await Snapshot.read(leaving.seen(org_id, "edge"), typed=True)
        self.probe("snapshot")
        hours = await leaving.event_hours(org_id)
        self._rows = int(self.migration.counts.get("rows", 0)) if cursor else 0
        total = len(nodes) + len(edges) + sum(hours.values())
        self._part = max(LEAST_ROWS, min(BATCH_ROWS, total // SAVED_PARTS))
        self._pace = Pace(self.beat, total, min(self._rows, total))
        await self._save(None, 0, {"total": total})
        packages = await self._packages()
        for source in sorted(nodes.parts.keys() | edges.parts.keys()):
            if cursor.get("part") in LATER or source < cursor.get("source", ""):
                continue
            mine = cursor if cursor.get("source") == source else {}
            await self._source(source, nodes.of(source), edges.of(source), packages, mine)
            self.probe("source")
        if cursor.get("part") != "events":
            await self._archived()
        await self._events(hours, cursor.get("after", "") if cursor.get("part") == "events" else "")

    async def _packages(self) -> dict[str, UUID | None]:
        async with self.migrations.db.tenant(self.migration.org_id) as connection:
            rows = await connection.fetch(_SOURCES)
        return {row["id"].hex: row["current_package_id"] for row in rows}

    async def _source(
        self,
        source: str,
        nodes: Part,
        edges: Part,
        packages: dict[str, UUID | None],
        cursor: dict[str, Any],
    ) -> None:
        given = cursor.get("package")
        package = UUID(given) if given else packages.get(source)
        try:
            state = await self._state(package)
            await self._parts(source, package, state, nodes, edges, cursor)
        except (ConflictError, FileNotFoundError) as error:
            # A newer package took its place and it was swept away meanwhile.
            current = (await self._packages()).get(source)
            if current == package:
                raise
            _log.info("migration_package_replaced", source=source, reason=str(error))
            state = await self._state(current)
            await self._parts(source, current, state, nodes, edges, {})

    async def _state(self, package: UUID | None) -> State:
        db, org_id = self.migrations.db, self.migration.org_id
        try:
            return await load_state(db, self.objects, org_id, package, self.folder)
        except PackageCorruptError as error:
            _log.warning("migration_without_package", package=str(package), reason=error.message)
            return State()  # Basic has all of its rows, only slower

    async def _parts(
        self,
        source: str,
        package: UUID | None,
        state: State,
        nodes: Part,
        edges: Part,
        cursor: dict[str, Any],
    ) -> None:
        first = PARTS.index(cursor.get("part", PARTS[0]))
        for number, part in enumerate(PARTS):
            mine = nodes if part.endswith("nodes") else edges
            after = cursor.get("after", "") if number == first else ""
            place = {"source": source, "package": package and package.hex, "part": part}
            if part.startswith("other_"):
                if number >= first:
                    await self._others("node" if mine is nodes else "edge", mine, place, after)
                continue
            kind, entity, schema = _KINDS[part]
            if number < first or after:  # what an earlier attempt wrote is only looked at
                await asyncio.to_thread(_mark, state, kind, mine)
            if number >= first:
                await self._rows_of(state, kind, entity, schema, mine, place, after)

    async def _rows_of(
        self,
        state: State,
        kind: Kind,
        entity: EntityKind,
        schema: pa.Schema,
        mine: Part,
        place: dict[str, Any],
        after: str,
    ) -> None:
        windows = state.stream(kind, schema.names, after=after or None)

        async def write(entities: Entities) -> None:
            await self.engines.arriving.adopt(self.migration.org_id, entity, entities)

        async with aclosing(ahead(iter(windows))) as tables:
            async for table in tables:
                found = await asyncio.to_thread(_matched, table, mine, schema)
                parts = found.parts(self._part)
                for start in range(0, len(parts), AT_ONCE):
                    self.beat.check()
                    some = parts[start : start + AT_ONCE]
                    await overlapped(some, write, AT_ONCE)
                    last = some[-1].rows.column("id")[-1].as_py()
                    await self._save(
                        {**place, "after": last}, sum(part.rows.num_rows for part in some)
                    )
                    self.probe(kind)

    async def _others(
        self, entity: EntityKind, mine: Part, place: dict[str, Any], after: str
    ) -> None:
        org_id = self.migration.org_id
        for last, parts in mine.left(after):
            self.beat.check()
            rows = 0
            for type_, ids in parts.items():
                found = await self.engines.leaving.entities(org_id, entity, ids, type_)
                rows += await self.engines.arriving.adopt(org_id, entity, found)
            await self._save({**place, "after": last}, rows)
            self.probe("others")

    async def _archived(self) -> None:
        """What was hidden before writes began to go to both; such rows are in no total.

        An attempt that takes over begins this part anew: equal rows count once.
        """
        org_id = self.migration.org_id
        await self._save({"part": "archived"}, 0)
        kinds: tuple[EntityKind, ...] = ("node", "edge")
        for kind in kinds:
            async with aclosing(self.engines.leaving.archived(org_id, kind)) as parts:
                async for entities in parts:
                    self.beat.check()
                    await self.engines.arriving.adopt(org_id, kind, entities)
                    self.probe("archived")

    async def _events(self, hours: dict[datetime, int], after: str) -> None:
        org_id = self.migration.org_id
        for hour in hours:
            if hour.isoformat() <= after:
                continue
            self.beat.check()
            batch = await self.engines.leaving.events(org_id, hour)
            until = hour + timedelta(hours=1)
            there = await self.engines.arriving.event_ids(org_id, hour, until)
            rows = [
                row
                for row in batch.to_pylist()
                if (row["pipeline_id"], row["event_id"]) not in there
            ]
            fresh = pa.RecordBatch.from_pylist(rows, schema=EVENTS)
            if rows:
                await self.engines.advanced.append_events(org_id, fresh)
            await self._save({"part": "events", "after": hour.isoformat()}, len(rows))
            self.probe("events")

    async def _save(
        self, cursor: dict[str, Any] | None, rows: int, more: dict[str, int] | None = None
    ) -> None:
        self._rows += rows
        counts = {"rows": self._rows, **(more or {})}
        await self.migrations.save(self.migration, self.epoch, cursor, counts)
        self._pace.add(rows)


def _mark(state: State, kind: Kind, mine: Part) -> None:
    """Note which rows of a package are on Basic as they are there."""
    for table in state.stream(kind, ["content_hash"]):
        mine.match(table["id"], table["content_hash"])


def _matched(table: pa.Table, mine: Part, schema: pa.Schema) -> Entities:
    mask, places = mine.match(table["id"], table["content_hash"])
    rows = table.filter(pa.array(mask)).select(schema.names).combine_chunks().cast(schema)
    first, last = mine.times(places)
    batches = rows.to_batches()
    batch = batches[0] if batches else pa.RecordBatch.from_pylist([], schema)
    return Entities(batch, first, last)
