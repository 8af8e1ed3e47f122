"""Collecting what comes to a pipeline into segments.

The first request after a pause is written at once; those that come within a second of a write wait
for the next one together, unless they reach 8 MiB before. A request is answered when its rows are
stored and written down, so what was acknowledged outlives this process.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from uuid import UUID

import pyarrow as pa

from agentcy_ray.core.ids import new_id
from agentcy_ray.ingest.continuous.ledger import Answer, Ledger, RepeatedError, Taken
from agentcy_ray.ingest.continuous.records import Pipeline
from agentcy_ray.ingest.continuous.segments import NewSegment, segment_key, to_parquet

if TYPE_CHECKING:
    from agentcy_ray.stores.objects import ObjectStore

FLUSH_SECS = 1.0
FLUSH_BYTES = 8 * 1024 * 1024


@dataclass
class _Part:
    """One request."""

    pipeline: Pipeline
    taken: Taken
    rows: pa.Table | None
    answer: asyncio.Future[Answer]

    @property
    def bytes(self) -> int:
        return 0 if self.rows is None else int(self.rows.nbytes)


@dataclass
class _Lane:
    """What waits for one pipeline."""

    parts: list[_Part] = field(default_factory=list[_Part])
    bytes: int = 0
    full: asyncio.Event = field(default_factory=asyncio.Event)


class Flusher:
    """Writes segments for the pipelines that this process is fed for."""

    def __init__(
        self, objects: ObjectStore, ledger: Ledger, *, flush_secs: float = FLUSH_SECS
    ) -> None:
        self._objects = objects
        self._ledger = ledger
        self._secs = flush_secs
        self._lanes: dict[UUID, _Lane] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def add(self, pipeline: Pipeline, taken: Taken, rows: pa.Table | None) -> Answer:
        """Store the rows of one request; returns its answer once they are durable.

        Raises:
            NotFoundError: the pipeline was deleted.
            StorageFullError, StoreUnavailableError: a store failed; send the request again, with
                its idempotency key where it has one.
        """
        part = _Part(pipeline, taken, rows, asyncio.get_running_loop().create_future())
        lane = self._lanes.get(pipeline.id)
        if lane is None:
            lane = self._lanes[pipeline.id] = _Lane()
            task = asyncio.create_task(self._run(pipeline.id, lane))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        lane.parts.append(part)
        lane.bytes += part.bytes
        if lane.bytes >= FLUSH_BYTES:
            lane.full.set()
        return await asyncio.shield(part.answer)

    async def close(self) -> None:
        """Write what waits."""
        for lane in self._lanes.values():
            lane.full.set()
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def _run(self, pipeline_id: UUID, lane: _Lane) -> None:
        """Write until nothing has come for the length of a pause."""
        while lane.parts:
            parts, lane.parts, lane.bytes = lane.parts, [], 0
            lane.full.clear()
            try:
                await self._write(parts)
            except Exception as error:  # noqa: BLE001 - it belongs to those who wait for answers
                for part in parts:
                    if not part.answer.done():
                        part.answer.set_exception(error)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._secs):
                    await lane.full.wait()
        del self._lanes[pipeline_id]

    async def _write(self, parts: list[_Part]) -> None:
        """Write requests that belong together; those whose key is taken get that key's answer."""
        waiting = await self._without_repeats(parts)
        while waiting:
            pipeline = waiting[-1].pipeline
            segment = await self._store(pipeline, [p.rows for p in waiting if p.rows is not None])
            segments = [] if segment is None else [segment]
            try:
                answers = await self._ledger.write(
                    pipeline, [part.taken for part in waiting], segments
                )
            except RepeatedError as repeated:
                if segment is not None:
                    await self._objects.delete(segment.object_key)
                waiting = await self._give_known(waiting, repeated.keys)
                continue
            for part, answer in zip(waiting, answers, strict=True):
                part.answer.set_result(answer)
            return

    async def _without_repeats(self, parts: list[_Part]) -> list[_Part]:
        """The first request of each key; later ones get its answer."""
        first: dict[str, _Part] = {}
        kept: list[_Part] = []
        for part in parts:
            key = part.taken.replay_key
            if key is None or key not in first:
                if key is not None:
                    first[key] = part
                kept.append(part)
            else:
                first[key].answer.add_done_callback(_handing_on(part.answer))
        return kept

    async def _give_known(self, parts: list[_Part], keys: frozenset[str]) -> list[_Part]:
        """Answer the requests whose keys others used; returns the rest."""
        rest: list[_Part] = []
        for part in parts:
            key = part.taken.replay_key
            known = await self._ledger.replay(part.pipeline, key) if key in keys and key else None
            if known is None:
                rest.append(part)
            else:
                part.answer.set_result(known)
        return rest

    async def _store(self, pipeline: Pipeline, tables: list[pa.Table]) -> NewSegment | None:
        if not tables:
            return None
        table = pa.concat_tables(tables)
        data = await asyncio.to_thread(to_parquet, table)
        segment_id = new_id()
        key = segment_key(pipeline.org_id, pipeline.source_id, segment_id)
        await self._objects.put_new(key, data)
        return NewSegment(segment_id, key, table.num_rows, len(data))


def _handing_on(to: asyncio.Future[Answer]) -> Callable[[asyncio.Future[Answer]], None]:
    def hand(done: asyncio.Future[Answer]) -> None:
        error = done.exception()
        if to.done():
            return
        if error is None:
            to.set_result(done.result())
        else:
            to.set_exception(error)

    return hand
