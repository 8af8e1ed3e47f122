"""Everything that owners write of their runs, many writes a commit.

A write checks the run's epoch and takes the next numbers under the run's row lock, so a former
owner writes nothing and no number is skipped. Writes of many runs of one organisation share a
transaction by natural batching: one goes at once when nothing is in flight, those that come
meanwhile go together in the next, in four statements however many they are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import orjson

from agentcy_ray.core.errors import LeaseLostError, StoreUnavailableError
from agentcy_ray.core.events import EventType, RunEvent
from agentcy_ray.core.ids import encode
from agentcy_ray.core.repair import repaired
from agentcy_ray.stores.postgres import Database

if TYPE_CHECKING:
    import asyncpg
    from asyncpg.pool import PoolConnectionProxy

    Connection = PoolConnectionProxy[asyncpg.Record]

NewEvent = tuple[EventType, Mapping[str, Any]]
"""Type and data of an event that has no number yet."""

ACTIVE = ("queued", "running", "waiting_approval")
EVENT_BYTES = 64 * 1024
BATCH = 512

_EVENTS = """
WITH want AS (SELECT * FROM unnest($2::uuid[], $3::bigint[], $4::int[]) AS w(run_id, epoch, n)),
locked AS (
  SELECT r.id FROM runs r JOIN want w ON w.run_id = r.id ORDER BY r.id FOR NO KEY UPDATE OF r
),
head AS (
  UPDATE runs r SET last_seq = r.last_seq + w.n
  FROM want w JOIN locked l ON l.id = w.run_id
  WHERE r.id = w.run_id AND r.epoch = w.epoch AND r.status = ANY($9)
  RETURNING r.id, r.epoch, r.last_seq - w.n AS base, clock_timestamp() AS at
),
put AS (
  INSERT INTO run_events (org_id, run_id, seq, type, data, at)
  SELECT $1, h.id, h.base + e.ord, e.type, e.data::jsonb, h.at
  FROM head h
  JOIN unnest($5::uuid[], $6::bigint[], $7::int[], $8::text[], $10::text[])
    AS e(run_id, epoch, ord, type, data) ON e.run_id = h.id AND e.epoch = h.epoch
)
SELECT id, epoch, base, at FROM head
"""
_TURNS = """
INSERT INTO run_turns (org_id, run_id, turn, messages, usage)
SELECT $1, t.run_id, t.turn, t.messages::jsonb, t.usage::jsonb
FROM unnest($2::uuid[], $3::int[], $4::text[], $5::text[]) AS t(run_id, turn, messages, usage)
ON CONFLICT (run_id, turn) DO NOTHING RETURNING run_id, turn
"""
_USAGE = """
UPDATE runs r SET usage = u.usage::jsonb
FROM unnest($1::uuid[], $2::text[]) AS u(run_id, usage) WHERE r.id = u.run_id
"""
_RESULTS = """
UPDATE run_turns t SET results = t.results || u.results::jsonb
FROM unnest($1::uuid[], $2::int[], $3::text[]) AS u(run_id, turn, results)
WHERE t.run_id = u.run_id AND t.turn = u.turn RETURNING t.run_id, t.turn
"""


@dataclass(frozen=True)
class RunKey:
    """A run as its owner holds it."""

    org_id: UUID
    run_id: UUID
    epoch: int


@dataclass(frozen=True, slots=True)
class NewTurn:
    """A row of ``run_turns``; ``total`` is the run's usage with it, where that changes."""

    number: int
    body: dict[str, Any]
    usage: dict[str, Any]
    total: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class NewResults:
    """What calls of turn ``number`` brought, by their places in it."""

    number: int
    bodies: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Stored:
    """An event as it is kept, with its JSON."""

    event: RunEvent
    text: str


@dataclass(slots=True)
class _Write:
    key: RunKey
    events: list[tuple[EventType, Mapping[str, Any], str]]
    turn: NewTurn | None
    results: NewResults | None
    done: asyncio.Future[list[Stored]]


class RunWriter:
    """Group commit for the runs of all organisations that this process executes."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._waiting: dict[UUID, list[_Write]] = {}
        self._writers: dict[UUID, asyncio.Task[None]] = {}

    async def write(
        self,
        key: RunKey,
        events: Sequence[NewEvent],
        turn: NewTurn | None = None,
        results: NewResults | None = None,
    ) -> list[Stored]:
        """Keep all that is given, or nothing; answers the events with their numbers.

        Raises:
            LeaseLostError: the run has a newer owner, or has ended; nothing was written.
            StoreUnavailableError: Postgres does not answer; nothing was written.
        """
        done: asyncio.Future[list[Stored]] = asyncio.get_running_loop().create_future()
        write = _Write(key, [storable(event) for event in events], turn, results, done)
        self._waiting.setdefault(key.org_id, []).append(write)
        if key.org_id not in self._writers:
            task = asyncio.create_task(self._drain(key.org_id), name="run-writer")
            self._writers[key.org_id] = task
        return await done

    async def _drain(self, org_id: UUID) -> None:
        waiting: list[_Write] = []
        try:
            await asyncio.sleep(0)  # whoever else is ready to write now goes along
            while waiting := self._waiting.pop(org_id, []):
                for start in range(0, len(waiting), BATCH):
                    await self._settle(org_id, waiting[start : start + BATCH])
        finally:
            del self._writers[org_id]
            for write in (*waiting, *self._waiting.pop(org_id, [])):
                write.done.cancel()  # when the process ends nobody shall wait for ever

    async def _settle(self, org_id: UUID, batch: Sequence[_Write]) -> None:
        try:
            async with self._db.tenant(org_id) as connection:
                written = await _put(connection, org_id, batch)
        except StoreUnavailableError as error:
            _fail(batch, error)
            return
        except Exception as error:  # noqa: BLE001 - the waiting caller gets it
            if len(batch) == 1:
                _fail(batch, error)
                return
            for one in batch:  # so that a write which cannot be kept fails alone
                await self._settle(org_id, [one])
            return
        for write, stored in zip(batch, written, strict=True):
            if write.done.done():  # the writer was cancelled; what it wrote stands
                continue
            if stored is None:
                write.done.set_exception(lease_lost(write.key.run_id))
            else:
                write.done.set_result(stored)


def _fail(batch: Sequence[_Write], error: Exception) -> None:
    for write in batch:
        if not write.done.done():
            write.done.set_exception(error)


async def append_on(
    connection: Connection, key: RunKey, events: Sequence[NewEvent]
) -> list[Stored]:
    """Append inside the caller's transaction; ring with ``RunLog.ring`` once it has committed.

    Raises:
        LeaseLostError: the run has a newer owner, or has ended.
    """
    if not events:
        return []
    done: asyncio.Future[list[Stored]] = asyncio.get_running_loop().create_future()
    write = _Write(key, [storable(event) for event in events], None, None, done)
    stored = (await _put_events(connection, key.org_id, [write]))[0]
    if stored is None:
        raise lease_lost(key.run_id)
    return stored


def lease_lost(run_id: UUID) -> LeaseLostError:
    """The refusal that a former owner gets."""
    return LeaseLostError(
        f"run {encode('run', run_id)} has a newer owner or has ended; nothing was written"
    )


def storable(event: NewEvent) -> tuple[EventType, Mapping[str, Any], str]:
    """An event as the log keeps it, and its JSON: such that Postgres accepts it, within its bound.

    NUL characters and halves of surrogate pairs become U+FFFD; when it is too large, the largest
    fields become their heads and ``truncated`` says so.
    """
    type_, data = event
    try:
        raw = orjson.dumps(data, default=str)
    except TypeError:  # a lone surrogate, as when a provider cuts an emoji in two
        data = repaired(dict(data))
        raw = orjson.dumps(data, default=str)
    if b"\\u0000" in raw:
        data = repaired(orjson.loads(raw))
        raw = orjson.dumps(data)
    if len(raw) > EVENT_BYTES:
        data = _bounded(orjson.loads(raw))
        raw = orjson.dumps(data)
    return type_, data, raw.decode()


def _bounded(kept: dict[str, Any]) -> dict[str, Any]:
    while len(orjson.dumps(kept)) > EVENT_BYTES:
        name = max(kept, key=lambda field: len(orjson.dumps(kept[field])))
        whole = kept[name]
        text = whole if isinstance(whole, str) else orjson.dumps(whole).decode()
        kept[name] = text[: len(text) // 2]
        kept["truncated"] = True
    return kept


async def _put(
    connection: Connection, org_id: UUID, batch: Sequence[_Write]
) -> list[list[Stored] | None]:
    """Write a batch; the answer has an entry for each, None where the epoch was refused."""
    written = await _put_events(connection, org_id, batch)
    ours = [write for write, stored in zip(batch, written, strict=True) if stored is not None]
    turns = [(write.key.run_id, write.turn) for write in ours if write.turn is not None]
    if turns:
        kept = await connection.fetch(
            _TURNS,
            org_id,
            [run_id for run_id, _ in turns],
            [turn.number for _, turn in turns],
            [_text(turn.body) for _, turn in turns],
            [_text(turn.usage) for _, turn in turns],
        )
        _all_kept({(run_id, turn.number) for run_id, turn in turns}, kept)
        totals = {run_id: turn.total for run_id, turn in turns if turn.total is not None}
        if totals:
            await connection.execute(_USAGE, list(totals), [_text(t) for t in totals.values()])
    results: dict[tuple[UUID, int], dict[str, Any]] = {}
    for write in ours:
        if write.results is not None:
            place = (write.key.run_id, write.results.number)
            results.setdefault(place, {}).update(write.results.bodies)
    if results:
        kept = await connection.fetch(
            _RESULTS,
            [run_id for run_id, _ in results],
            [number for _, number in results],
            [_text(body) for body in results.values()],
        )
        _all_kept(set(results), kept)
    return written


def _all_kept(wanted: set[tuple[UUID, int]], kept: Sequence[Any]) -> None:
    """A turn that is there already, or is not, means that a newer owner was here."""
    lost = wanted - {(row["run_id"], row["turn"]) for row in kept}
    if lost:
        raise lease_lost(min(lost)[0])


async def _put_events(
    connection: Connection, org_id: UUID, batch: Sequence[_Write]
) -> list[list[Stored] | None]:
    counts: dict[RunKey, int] = {}
    runs: list[UUID] = []
    epochs: list[int] = []
    ords: list[int] = []
    types: list[str] = []
    texts: list[str] = []
    for write in batch:
        key = write.key
        count = counts.get(key, 0)
        for type_, _, text in write.events:
            count += 1
            runs.append(key.run_id)
            epochs.append(key.epoch)
            ords.append(count)
            types.append(type_.value)
            texts.append(text)
        counts[key] = count
    rows = await connection.fetch(
        _EVENTS,
        org_id,
        [key.run_id for key in counts],
        [key.epoch for key in counts],
        list(counts.values()),
        runs, epochs, ords, types, list(ACTIVE), texts,
    )  # fmt: skip
    heads: dict[tuple[UUID, int], tuple[int, datetime]] = {
        (row["id"], row["epoch"]): (row["base"], row["at"]) for row in rows
    }
    answer: list[list[Stored] | None] = []
    for write in batch:
        place = (write.key.run_id, write.key.epoch)
        head = heads.get(place)
        if head is None:
            answer.append(None)
            continue
        seq, at = head
        stored: list[Stored] = []
        for type_, data, text in write.events:
            seq += 1
            event = RunEvent.model_construct(
                run_id=write.key.run_id, seq=seq, type=type_, data=data, at=at
            )
            stored.append(Stored(event, text))
        heads[place] = (seq, at)
        answer.append(stored)
    return answer


def _text(value: Any) -> str:
    return orjson.dumps(value, default=str).decode()
