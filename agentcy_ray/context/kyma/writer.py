"""Streaming Arrow batches into kyma: slices under keys, a bounded number under way per table.

A key says what a slice holds, not when it was sent, so a batch that is written again after a crash
finds its acknowledged slices replayed and goes on behind them. Who calls waits while the table has
as many slices under way as it may: that is the back-pressure.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol
from uuid import UUID, uuid5
from weakref import WeakValueDictionary

import pyarrow as pa

from agentcy_ray.context.kyma.catalog import Catalog
from agentcy_ray.context.kyma.encoder import (
    DEFAULT_COLUMNS,
    NEW_COLUMNS,
    Slice,
    check_names,
    slices,
)
from agentcy_ray.context.kyma.http import KymaHttp
from agentcy_ray.core.errors import EngineRefusedError, InvalidError
from agentcy_ray.core.metrics import Metrics

KEYS = UUID("6f1d8f0e-6a0b-5c57-9d43-5b7d0f7f2b1a")
"""Namespace of idempotency keys."""
MOST_REJECTED = 100
"""Rows of one batch that may be put aside; more means that the batch itself is wrong."""


@dataclass(frozen=True)
class RejectedRow:
    """A row that kyma does not take: its place in the batch, and kyma's reason."""

    row: int
    reason: str


@dataclass(frozen=True)
class Ingested:
    """What a batch came to. ``replayed`` rows were stored by an earlier attempt."""

    rows: int = 0
    replayed: int = 0
    bytes: int = 0
    slices: int = 0
    rejected: tuple[RejectedRow, ...] = ()

    def plus(self, other: Ingested) -> Ingested:
        """Both together; rejected rows by their place."""
        rejected = sorted((*self.rejected, *other.rejected), key=lambda r: r.row)
        return Ingested(
            self.rows + other.rows, self.replayed + other.replayed, self.bytes + other.bytes,
            self.slices + other.slices, tuple(rejected),
        )  # fmt: skip


class Sink(Protocol):
    """Whatever takes batches for kyma: a writer in this process, or writer actors."""

    async def ingest(
        self, database: str, table: str, batch: pa.RecordBatch, *, key_scope: str
    ) -> Ingested:
        """As ``KymaWriter.ingest``."""
        ...


@dataclass
class _Table:
    """Slices under way into one table, whether kyma has made it, and columns that we have sent."""

    gate: asyncio.Semaphore
    known: bool = False
    columns: set[str] = field(default_factory=set)
    making: asyncio.Lock = field(default_factory=asyncio.Lock)


class KymaWriter:
    """Writes batches; for one event loop."""

    def __init__(
        self, http: KymaHttp, catalog: Catalog, metrics: Metrics, *, slice_bytes: int,
        max_in_flight: int,
    ) -> None:  # fmt: skip
        self._http = http
        self._catalog = catalog
        self._metrics = metrics
        self._slice_bytes = slice_bytes
        self._max_in_flight = max_in_flight
        self._tables: dict[tuple[str, str], _Table] = {}
        self._sending: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        """One for each key that is under way: kyma may store two of a kind that meet."""

    async def ingest(
        self, database: str, table: str, batch: pa.RecordBatch, *, key_scope: str
    ) -> Ingested:
        """Store a batch; returns when all of it is committed, and so visible.

        Args:
            database: made when it is missing.
            table: as well.
            batch: its columns by name; see ``encoder.slices`` for how types travel.
            key_scope: what tells this writing from others of the same rows, such as a publish's id.

        Returns:
            The counts; rows that kyma does not take are named, all others are stored.

        Raises:
            InvalidError: names, types or the number of columns do not suit kyma.
            EngineRefusedError: the token is refused, or more than ``MOST_REJECTED`` rows are.
            EngineBusyError, StoreUnavailableError: kyma did not take everything; write the same
                batch again, what is stored already is not stored twice.
        """
        check_names(batch.schema.names)
        types = await self._catalog.columns(database, table)
        state = self._tables.setdefault(
            (database, table), _Table(asyncio.Semaphore(self._max_in_flight), known=bool(types))
        )
        _check_new(batch.schema.names, {*types, *state.columns})
        waiting = slices(batch, types, self._slice_bytes)
        sending: set[asyncio.Task[Ingested]] = set()
        handed = time.monotonic()
        total = Ingested()
        try:
            while (part := await asyncio.to_thread(_next, waiting)) is not None:
                await state.gate.acquire()
                task = asyncio.create_task(
                    self._one(database, table, state, part, key_scope, handed)
                )
                sending.add(task)
                task.add_done_callback(lambda _: state.gate.release())
                if any(done.done() and done.exception() for done in sending):
                    break
            # A slice whose fate is unknown must not be sent again beside itself: wait for all.
            for result in await asyncio.gather(*sending, return_exceptions=True):
                if isinstance(result, BaseException):
                    raise result
                total = total.plus(result)
        finally:
            for task in sending:
                task.cancel()
        if len(total.rejected) > MOST_REJECTED:
            raise _wrong_batch(table, total.rejected[0].reason)
        if total.slices:
            state.columns.update(batch.schema.names)
        return total

    async def _one(
        self, database: str, table: str, state: _Table, part: Slice, scope: str, handed: float
    ) -> Ingested:
        # One request makes the table and its columns before several try to.
        async with state.making:
            if not state.known:
                stored = await self._store(database, table, part, scope, handed, 0)
                state.known = stored.rows + stored.replayed > 0
                return stored
        return await self._store(database, table, part, scope, handed, 0)

    async def _store(
        self, database: str, table: str, part: Slice, scope: str, handed: float, rejected: int
    ) -> Ingested:
        """Store a slice; when kyma refuses it, its halves, down to the rows that are at fault."""
        try:
            return await self._send(database, table, part, scope, handed)
        except EngineRefusedError as error:
            if error.details.get("status") not in {400, 413}:
                raise
            self._catalog.forget(database)  # the table may have other types than we believed
            if rejected >= MOST_REJECTED:
                raise _wrong_batch(table, error.message) from error
            if part.rows == 1:
                reason = str(error.details.get("engine_message") or error.message)
                self._metrics.kyma_rows.of("rejected").inc()
                return Ingested(rejected=(RejectedRow(part.start, reason),))
        stored = Ingested()
        for half in part.halves():
            some = await self._store(
                database, table, half, scope, handed, rejected + len(stored.rejected)
            )
            stored = stored.plus(some)
        return stored

    async def _send(
        self, database: str, table: str, part: Slice, scope: str, handed: float
    ) -> Ingested:
        digest = await asyncio.to_thread(_digest, part.body)
        key = str(uuid5(KEYS, f"{database}/{table}/{scope}/{digest}"))
        lock = self._sending.setdefault(key, asyncio.Lock())
        size, outcome = len(part.body), "failed"
        try:
            async with lock:
                ack = await self._http.ingest(database, table, part.body, key)
            outcome = "replayed" if ack.replayed else "accepted"
        except EngineRefusedError:
            outcome = "rejected"
            raise
        finally:
            self._metrics.kyma_slices.of(outcome).inc()
            self._metrics.kyma_bytes.of(outcome).inc(size)
        self._metrics.kyma_rows.of(outcome).inc(part.rows)
        self._metrics.kyma_lag.observe(time.monotonic() - handed)
        replayed = part.rows if ack.replayed else 0
        return Ingested(part.rows - replayed, replayed, size, 1)


def _check_new(names: list[str], there: Iterable[str]) -> None:
    known = {name.lower() for name in (*there, *DEFAULT_COLUMNS)}
    new = [name for name in names if name not in known]
    if len(new) > NEW_COLUMNS:
        raise InvalidError(
            f"kyma adds {NEW_COLUMNS} columns a request and drops further ones; write the first"
            f" {NEW_COLUMNS} of the {len(new)} new ones, then the rest",
            columns=new[NEW_COLUMNS:],
        )


def _wrong_batch(table: str, reason: str) -> EngineRefusedError:
    return EngineRefusedError(
        f"kyma refuses more than {MOST_REJECTED} rows for {table!r} ({reason}); check the types of"
        " the table's columns",
        status=400,
    )


def _digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def _next(parts: Iterator[Slice]) -> Slice | None:
    return next(parts, None)
