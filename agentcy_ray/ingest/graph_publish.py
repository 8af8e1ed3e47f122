"""Writing a difference into the context engine, in an order that can be cut off anywhere.

Nodes first, then edges, then links to other sources, then what is gone: edges before nodes. Each
window of rows is written under the fence together with its cursor, two batches at a time: the
engine encodes one while its server writes the other. A publish that resumes begins again at the
window it was in; engine writes are idempotent, so doing part of a window twice leaves the same
graph.

The edges of a first publish go in groups: as many as memory allows are gathered and laid in the
order of their ends, and each group, which touches few places of the graph, is one write under the
fence; the cursor moves when all of them are written. (In the order of their ids each edge touches
two places anywhere: at a million nodes the embedded server writes 160 KiB an edge then.)

An edge is applied when both its ends are in the new state, else it waits in ``dangling_edges``. An
edge whose end went away goes back there, and is archived in the engine.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import asyncpg
import pyarrow as pa

from agentcy_ray.core.batches import EDGES, NODES
from agentcy_ray.ingest.arrow import pc
from agentcy_ray.ingest.dangling import drop_dangling, put_dangling
from agentcy_ray.ingest.diff import Difference
from agentcy_ray.ingest.edge_order import by_ends
from agentcy_ray.ingest.fence import Lease
from agentcy_ray.ingest.links import LinkPublisher
from agentcy_ray.ingest.merge import flat
from agentcy_ray.ingest.pipeline import ahead, overlapped
from agentcy_ray.ingest.progress import Meter, Track
from agentcy_ray.ingest.state import Keys
from agentcy_ray.ingest.transitions import put_aside

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

    from agentcy_ray.context.engine import ContextEngine, Refused

GATHERED_ROWS, GATHERED_BYTES = 262_144, 64 * 2**20
"""Edges of a first publish that are ordered together; about 250 bytes are usual for one. Three such
are in memory at most: one that is written, one that is ready and one that is being ordered."""
GROUP_BATCHES = 5
"""Batches of them that are one write."""
GROUPS_HELD = 2
"""Writes under one hold of the fence: others wait for it, and the next is encoded meanwhile."""
STAGES = ("nodes", "edges", "links", "gone_edges", "gone_nodes")
PART = "graph"

Probe = Callable[[str], None]
"""Called at named points of a sync; tests kill the process there."""


@dataclass(frozen=True)
class Upserts:
    """Work of one window: batches to write, and how the waiting edges move."""

    last: str
    batches: tuple[pa.RecordBatch, ...]
    groups: tuple[pa.RecordBatch, ...] = ()
    """Writes that go before, each under the fence by itself."""
    waiting: pa.Table | None = None
    """Edges that lack an end, with ``missing_end``."""
    hidden: tuple[str, ...] = ()
    """Edges that are in the engine and lost an end."""
    settled: pa.Array | None = None
    """Edges that wait no more."""


@dataclass(frozen=True)
class GraphPublisher:
    """Publishes one difference."""

    engine: ContextEngine
    lease: Lease
    difference: Difference
    ends: Keys
    """Ids of all nodes of the new state."""
    waiting: Keys
    """Ids of the edges that waited for an end when the publish began."""
    meter: Meter
    at: datetime
    """When this sync saw what it writes."""
    batch_rows: int
    probe: Probe
    links: LinkPublisher

    async def run(self, cursor: dict[str, Any], rows: int) -> dict[str, int]:
        """Write everything from ``cursor`` on.

        Args:
            cursor: ``{stage, after}`` that an earlier attempt saved, or empty.
            rows: how many rows the whole publish writes, for progress.

        Returns:
            How the links to other sources moved: ``{added, archived}``.

        Raises:
            LeaseLostError: a newer owner publishes.
            EngineError, StoreUnavailableError: a store failed; the publish can be resumed.
        """
        track = self.meter.start("publish", "rows", rows)
        linked = {"added": 0, "archived": 0}
        first = STAGES.index(cursor.get("stage", STAGES[0]))
        # On the first publish of a source nothing can be there already. Whatever an earlier attempt
        # may have left shows as a cursor, or as an entity that the engine holds.
        fresh = not cursor and not await self.engine.holds(self.lease.org_id, self.lease.source_id)
        for number, stage in enumerate(STAGES):
            if number < first:
                continue
            after = cursor.get("after") if number == first else None
            if stage == "nodes":
                await self._upsert(stage, self._node_work(after), track, fresh=fresh)
            elif stage == "edges":
                work = self._edge_work(after)
                if fresh:
                    work = _in_groups(work, self.batch_rows * GROUP_BATCHES)
                await self._upsert(stage, work, track, fresh=fresh)
            elif stage == "links":
                linked = await self.links.run()
            else:
                await self._archive(stage, after, track)
            self.probe(f"{stage}_done")
        self.meter.end(track)
        return linked

    async def _upsert(
        self, stage: str, work: Iterator[Upserts], track: Track, *, fresh: bool
    ) -> None:
        write = self.engine.upsert_nodes if stage == "nodes" else self.engine.upsert_edges

        refused: list[Refused] = []

        async def one(batch: pa.RecordBatch) -> None:
            written = await write(self.lease.org_id, batch, self.at, fresh=fresh)
            refused.extend(written.refused)
            self.meter.add(track, batch.num_rows)
            self.probe(f"{stage}_batch")

        async with aclosing(ahead(work, depth=1 if fresh and stage == "edges" else 2)) as windows:
            async for window in windows:
                for start in range(0, len(window.groups), GROUPS_HELD):
                    async with self.lease.hold(engine=True):
                        await overlapped(window.groups[start : start + GROUPS_HELD], one)
                async with self._window(stage, window.last) as connection:
                    await overlapped(window.batches, one)
                    if refused:
                        await put_aside(connection, self.lease, refused)
                        refused.clear()
                    await self._move_waiting(connection, window)

    async def _move_waiting(
        self, connection: PoolConnectionProxy[asyncpg.Record], window: Upserts
    ) -> None:
        if window.hidden:
            await self.engine.archive(self.lease.org_id, "edge", window.hidden, self.at)
        if window.waiting is not None and window.waiting.num_rows:
            await put_dangling(connection, self.lease.org_id, self.lease.source_id, window.waiting)
        if window.settled is not None and len(window.settled):
            await drop_dangling(connection, self.lease.source_id, window.settled)

    async def _archive(self, stage: str, after: str | None, track: Track) -> None:
        kind = "edge" if stage == "gone_edges" else "node"
        windows = self.difference.windows(
            "edges" if kind == "edge" else "nodes", columns=[], after=after
        )
        gone = ((window.last, window.archived) for window in windows if len(window.archived))
        async with aclosing(ahead(gone)) as items:
            async for last, ids in items:
                async with self._window(stage, last) as connection:
                    for start in range(0, len(ids), self.batch_rows):
                        some = ids.slice(start, self.batch_rows).to_pylist()
                        await self.engine.archive(self.lease.org_id, kind, some, self.at)
                    if kind == "edge":
                        await drop_dangling(connection, self.lease.source_id, ids)
                self.meter.add(track, len(ids))
                self.probe(f"{stage}_batch")

    @asynccontextmanager
    async def _window(
        self, stage: str, last: str
    ) -> AsyncGenerator[PoolConnectionProxy[asyncpg.Record]]:
        """Hold the fence, and record on leaving that everything up to ``last`` is written."""
        async with self.lease.hold(engine=True) as connection:
            yield connection
            await self.lease.save(connection, PART, {"stage": stage, "after": last})

    def _node_work(self, after: str | None) -> Iterator[Upserts]:
        for window in self.difference.windows("nodes", after=after):
            rows = window.new.filter(window.changed)
            if rows.num_rows:
                label = pc.list_element(flat(rows["labels"]), 0)
                yield Upserts(window.last, _batches(rows, label, NODES, self.batch_rows))

    def _edge_work(self, after: str | None) -> Iterator[Upserts]:
        for window in self.difference.windows("edges", after=after):
            rows = window.new
            has_src, has_dst = self.ends.mask(rows["src"]), self.ends.mask(rows["dst"])
            whole = pc.and_(has_src, has_dst)
            waited = self.waiting.mask(rows["id"])
            broken = pc.invert(whole)
            write = rows.filter(pc.and_(whole, pc.or_(window.changed, waited)))
            settle = pc.and_(whole, waited)
            keep = pc.and_(broken, pc.or_(window.changed, pc.invert(waited)))
            hide = pc.and_(broken, pc.invert(pc.or_(window.added, waited)))
            missing = pc.if_else(has_src, flat(rows["dst"]), flat(rows["src"]))
            waiting = rows.append_column("missing_end", missing).filter(keep)
            settled, hidden = rows.filter(settle)["id"], rows.filter(hide)["id"]
            if write.num_rows or waiting.num_rows or len(settled) or len(hidden):
                yield Upserts(
                    window.last,
                    _batches(write, flat(write["type"]), EDGES, self.batch_rows),
                    waiting=waiting,
                    hidden=tuple(hidden.to_pylist()),
                    settled=flat(settled),
                )


def _in_groups(work: Iterator[Upserts], size: int) -> Iterator[Upserts]:
    """Edges of several windows as one, in groups of ``size`` that have their ends together."""
    held: list[Upserts] = []
    rows = weight = 0
    for window in work:
        held.append(window)
        rows += sum(batch.num_rows for batch in window.batches)
        weight += sum(batch.nbytes for batch in window.batches)
        if rows >= GATHERED_ROWS or weight >= GATHERED_BYTES:
            yield _gathered(held, size)
            held, rows, weight = [], 0, 0
    if held:
        yield _gathered(held, size)


def _gathered(windows: list[Upserts], size: int) -> Upserts:
    edges = pa.Table.from_batches([b for each in windows for b in each.batches], schema=EDGES)
    waiting = [each.waiting for each in windows if each.waiting is not None]
    settled = [each.settled for each in windows if each.settled is not None]
    ordered = by_ends(edges, size).combine_chunks()
    return Upserts(
        windows[-1].last,
        (),
        groups=tuple(ordered.to_batches(max_chunksize=size)),
        waiting=pa.concat_tables(waiting) if waiting else None,
        hidden=tuple(id_ for each in windows for id_ in each.hidden),
        settled=pa.concat_arrays(settled) if settled else None,
    )


def _batches(
    rows: pa.Table, group: pa.Array, schema: pa.Schema, size: int
) -> tuple[pa.RecordBatch, ...]:
    """Rows ordered by ``group``, since an engine writes one label or type per statement."""
    if not rows.num_rows:
        return ()
    order = pc.sort_indices(group)
    table = rows.select(schema.names).take(order).combine_chunks().cast(schema)
    return tuple(table.to_batches(max_chunksize=size))
