"""The run log: numbered events of a run. Postgres is the truth, Redis only rings.

Every append checks the run's epoch and takes the next numbers under the run's row lock, so a former
owner writes nothing and no number is skipped. Appends of many runs of one organisation share a
transaction by natural batching: one is written at once when nothing is in flight, those that come
meanwhile go together in the next.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import orjson
import structlog

from agentcy_ray.agent.follow import Follower, run_channel
from agentcy_ray.core.clock import rfc3339
from agentcy_ray.core.errors import AgentcyError, LeaseLostError
from agentcy_ray.core.events import EventType, RunEvent
from agentcy_ray.core.ids import encode
from agentcy_ray.core.repair import repaired
from agentcy_ray.core.settings import Settings
from agentcy_ray.stores.bell import Bell
from agentcy_ray.stores.postgres import Database

if TYPE_CHECKING:
    import asyncpg
    from asyncpg.pool import PoolConnectionProxy

    Connection = PoolConnectionProxy[asyncpg.Record]

NewEvent = tuple[EventType, Mapping[str, Any]]
"""Type and data of an event that has no number yet."""

ACTIVE = ("queued", "running", "waiting_approval")
INLINE_BYTES = 8 * 1024
"""Events up to this size travel with the ring; readers fetch larger ones."""
EVENT_BYTES = 64 * 1024
BATCH_APPENDS = 128
_log = structlog.get_logger(__name__)

_APPEND = """
WITH want AS (SELECT * FROM unnest($2::uuid[], $3::bigint[], $4::int[]) AS w(run_id, epoch, n)),
locked AS (
  SELECT r.id FROM runs r JOIN want w ON w.run_id = r.id ORDER BY r.id FOR UPDATE OF r
),
head AS (
  UPDATE runs r SET last_seq = r.last_seq + w.n
  FROM want w JOIN locked l ON l.id = w.run_id
  WHERE r.id = w.run_id AND r.epoch = w.epoch AND r.status = ANY($9)
  RETURNING r.id, r.epoch, r.last_seq - w.n AS base
),
put AS (
  INSERT INTO run_events (org_id, run_id, seq, type, data, at)
  SELECT $1, h.id, h.base + e.ord, e.type, e.data, clock_timestamp()
  FROM head h
  JOIN unnest($5::uuid[], $6::bigint[], $7::int[], $8::text[], $10::jsonb[])
    AS e(run_id, epoch, ord, type, data) ON e.run_id = h.id AND e.epoch = h.epoch
  RETURNING run_id, seq, at
)
SELECT put.run_id, head.epoch, put.seq, put.at FROM put JOIN head ON head.id = put.run_id
"""
_READ = """
SELECT run_id, seq, type, data, at FROM run_events
WHERE run_id = $1 AND seq > $2 ORDER BY seq LIMIT $3
"""


@dataclass(frozen=True)
class RunKey:
    """A run as its owner holds it."""

    org_id: UUID
    run_id: UUID
    epoch: int


@dataclass(frozen=True)
class _Append:
    key: RunKey
    events: tuple[NewEvent, ...]
    done: asyncio.Future[list[RunEvent]]


class RunLog:
    """Appends to and reads from the logs of all runs."""

    def __init__(self, db: Database, bell: Bell, settings: Settings) -> None:
        self._db = db
        self._bell = bell
        self._waiting: dict[UUID, list[_Append]] = {}
        self._writers: dict[UUID, asyncio.Task[None]] = {}
        self._follower = Follower(db, bell, self.read, settings)

    async def append(self, key: RunKey, events: Sequence[NewEvent]) -> list[RunEvent]:
        """Write ``events`` as the next of the run, then ring its readers.

        Raises:
            LeaseLostError: the run has a newer owner, or has ended; nothing was written.
            StoreUnavailableError: Postgres does not answer; nothing was written.
        """
        if not events:
            return []
        done: asyncio.Future[list[RunEvent]] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key.org_id, []).append(_Append(key, tuple(events), done))
        if key.org_id not in self._writers:
            task = asyncio.create_task(self._drain(key.org_id), name="run-log-writer")
            self._writers[key.org_id] = task
        return await done

    async def read(
        self, org_id: UUID, run_id: UUID, after: int = 0, limit: int = 500
    ) -> list[RunEvent]:
        """Events with numbers above ``after``, in order."""
        async with self._db.tenant(org_id) as connection:
            rows = await connection.fetch(_READ, run_id, after, limit)
        return [RunEvent.model_validate(dict(row)) for row in rows]

    def follow(self, org_id: UUID, run_id: UUID, after: int = 0) -> AsyncGenerator[RunEvent | None]:
        """Events above ``after``: the backlog, then live ones, each once and in order, to the end.

        Yields None when it is time for a ping. Close the generator to leave.

        Raises:
            NotFoundError: the organisation has no such run.
            GoneError: code ``event_log_gone``: it ended longer ago than logs are kept.
        """
        return self._follower.follow(org_id, run_id, after)

    async def ring(self, events: Sequence[RunEvent]) -> None:
        """Tell readers of events that were written by ``append_on``, after their commit."""
        try:
            for event in events:
                await self._bell.ring(run_channel(event.run_id), _payload(event))
        except AgentcyError as error:  # a ring is a hint; readers poll, and the events stand
            _log.warning("ring_refused", reason=error.message)

    async def _drain(self, org_id: UUID) -> None:
        try:
            while waiting := self._waiting.pop(org_id, None):
                for start in range(0, len(waiting), BATCH_APPENDS):
                    await self._write(org_id, waiting[start : start + BATCH_APPENDS])
        finally:
            del self._writers[org_id]

    async def _write(self, org_id: UUID, batch: Sequence[_Append]) -> None:
        try:
            async with self._db.tenant(org_id) as connection:
                written = await _insert(connection, org_id, [(a.key, a.events) for a in batch])
        except Exception as error:  # noqa: BLE001 - every waiting caller gets it
            for append in batch:
                if not append.done.done():
                    append.done.set_exception(error)
            return
        for append, events in zip(batch, written, strict=True):
            if append.done.done():  # the writer was cancelled; its events stand
                continue
            if events is None:
                append.done.set_exception(lease_lost(append.key.run_id))
            else:
                append.done.set_result(events)
        for events in written:
            await self.ring(events or ())


async def append_on(
    connection: Connection, key: RunKey, events: Sequence[NewEvent]
) -> list[RunEvent]:
    """Append inside the caller's transaction; ring with ``RunLog.ring`` once it has committed.

    Raises:
        LeaseLostError: the run has a newer owner, or has ended.
    """
    if not events:
        return []
    written = (await _insert(connection, key.org_id, [(key, tuple(events))]))[0]
    if written is None:
        raise lease_lost(key.run_id)
    return written


def lease_lost(run_id: UUID) -> LeaseLostError:
    """The refusal that a former owner gets."""
    return LeaseLostError(
        f"run {encode('run', run_id)} has a newer owner or has ended; nothing was written"
    )


def storable(data: Mapping[str, Any]) -> dict[str, Any]:
    """``data`` as the log keeps it: JSON that Postgres accepts, within the size of an event.

    NUL characters and halves of surrogate pairs become U+FFFD; when it is too large, the largest
    fields become their heads and ``truncated`` says so.
    """
    try:
        raw = orjson.dumps(data, default=str)
    except TypeError:  # a lone surrogate, as when a provider cuts an emoji in two
        raw = orjson.dumps(repaired(dict(data)), default=str)
    if b"\\u0000" in raw:
        raw = orjson.dumps(repaired(orjson.loads(raw)))
    kept: dict[str, Any] = orjson.loads(raw)
    while len(orjson.dumps(kept)) > EVENT_BYTES:
        name = max(kept, key=lambda field: len(orjson.dumps(kept[field])))
        whole = kept[name]
        text = whole if isinstance(whole, str) else orjson.dumps(whole).decode()
        kept[name] = text[: len(text) // 2]
        kept["truncated"] = True
    return kept


async def _insert(
    connection: Connection,
    org_id: UUID,
    appends: Sequence[tuple[RunKey, tuple[NewEvent, ...]]],
) -> list[list[RunEvent] | None]:
    """Write all; the answer has an entry for each append, None where the epoch was refused."""
    grouped: dict[RunKey, list[tuple[EventType, dict[str, Any]]]] = {}
    for key, events in appends:
        kept = [(type_, storable(data)) for type_, data in events]
        grouped.setdefault(key, []).extend(kept)
    flat = [
        (key, ord_, type_, data)
        for key, events in grouped.items()
        for ord_, (type_, data) in enumerate(events, start=1)
    ]
    rows = await connection.fetch(
        _APPEND,
        org_id,
        [key.run_id for key in grouped],
        [key.epoch for key in grouped],
        [len(events) for events in grouped.values()],
        [key.run_id for key, *_ in flat],
        [key.epoch for key, *_ in flat],
        [ord_ for _, ord_, _, _ in flat],
        [type_.value for _, _, type_, _ in flat],
        list(ACTIVE),
        [data for *_, data in flat],
    )
    # The statement returns no order across runs; within one, numbers follow the given order.
    stamps: dict[RunKey, list[tuple[int, datetime]]] = {}
    for row in rows:
        key = RunKey(org_id, row["run_id"], row["epoch"])
        stamps.setdefault(key, []).append((row["seq"], row["at"]))
    written: dict[RunKey, list[RunEvent]] = {}
    for key, events in grouped.items():
        taken = sorted(stamps.get(key, ()))
        if not taken:
            continue
        written[key] = [
            RunEvent(run_id=key.run_id, seq=seq, type=type_, data=data, at=at)
            for (seq, at), (type_, data) in zip(taken, events, strict=True)
        ]
    answer: list[list[RunEvent] | None] = []
    for key, events in appends:
        if key not in written:
            answer.append(None)
            continue
        answer.append(written[key][: len(events)])
        written[key] = written[key][len(events) :]
    return answer


def _payload(event: RunEvent) -> dict[str, Any]:
    payload: dict[str, Any] = {"seq": event.seq}
    if len(orjson.dumps(event.data)) <= INLINE_BYTES:
        payload["event"] = {
            "type": event.type.value,
            "data": event.data,
            "at": rfc3339(event.at),
        }
    return payload
