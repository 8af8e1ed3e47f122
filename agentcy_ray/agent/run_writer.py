"""Everything that owners write of their runs, many writes a commit.

A write checks the run's epoch and takes the next numbers under the run's row lock, so a former
owner writes nothing and no number is skipped. Writes of many runs go in four statements, however
many they are (``stores/group_commit.py``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import orjson

from agentcy_ray.core.errors import LeaseLostError
from agentcy_ray.core.events import EventType
from agentcy_ray.core.ids import encode
from agentcy_ray.core.repair import repaired

if TYPE_CHECKING:
    import asyncpg
    from asyncpg.pool import PoolConnectionProxy

    Connection = PoolConnectionProxy[asyncpg.Record]

NewEvent = tuple[EventType, Mapping[str, Any]]
"""Type and data of an event that has no number yet."""

ACTIVE = ("queued", "running", "waiting_approval")
EVENT_BYTES = 64 * 1024

_EVENTS = """
WITH want AS (
  SELECT * FROM unnest($2::uuid[], $3::bigint[], $4::int[], $5::int[])
    WITH ORDINALITY AS w(run_id, epoch, n, before, place)
),
locked AS (
  SELECT r.id FROM runs r JOIN want w ON w.run_id = r.id ORDER BY r.id FOR NO KEY UPDATE OF r
),
head AS (
  UPDATE runs r SET last_seq = r.last_seq + w.n
  FROM want w JOIN locked l ON l.id = w.run_id
  WHERE r.id = w.run_id AND r.epoch = w.epoch AND r.status = ANY($6)
  RETURNING r.id, w.place, w.before, r.last_seq - w.n AS base, clock_timestamp() AS at
),
put AS (
  INSERT INTO run_events (org_id, run_id, seq, type, data, at)
  SELECT $1, h.id, h.base + e.ord - h.before, e.type, e.data::jsonb, h.at
  FROM head h
  JOIN unnest($7::int[], $8::text[], $9::text[]) WITH ORDINALITY AS e(place, type, data, ord)
    ON e.place = h.place
)
SELECT place, base, at FROM head
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


@dataclass(frozen=True, slots=True)
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
    """An event as it is kept."""

    seq: int
    type: EventType
    data: Mapping[str, Any]
    at: datetime
    text: str
    """``data`` as JSON."""


@dataclass(frozen=True, slots=True)
class RunWrite:
    """What an owner writes of a run in one go: all of it is kept, or nothing."""

    key: RunKey
    events: Sequence[tuple[EventType, Mapping[str, Any], str]]
    """As ``storable`` gives them."""
    turn: NewTurn | None = None
    results: NewResults | None = None


async def append_on(
    connection: Connection, key: RunKey, events: Sequence[NewEvent]
) -> list[Stored]:
    """Append inside the caller's transaction; ring with ``RunLog.ring`` once it has committed.

    Raises:
        LeaseLostError: the run has a newer owner, or has ended.
    """
    if not events:
        return []
    write = RunWrite(key, [storable(event) for event in events])
    stored = (await _put_events(connection, key.org_id, [write]))[0]
    if isinstance(stored, Exception):
        raise stored
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


async def put(
    connection: Connection, org_id: UUID, batch: Sequence[RunWrite]
) -> list[list[Stored] | Exception]:
    """Write a batch; answers each with its events, or with what refuses a former owner."""
    written = await _put_events(connection, org_id, batch)
    ours = [
        w for w, stored in zip(batch, written, strict=True) if not isinstance(stored, Exception)
    ]
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
    connection: Connection, org_id: UUID, batch: Sequence[RunWrite]
) -> list[list[Stored] | Exception]:
    # Events of one run stand together: their numbers follow from their places.
    runs: dict[RunKey, list[RunWrite]] = {}
    for write in batch:
        runs.setdefault(write.key, []).append(write)
    counts: list[int] = []
    before: list[int] = []
    places: list[int] = []
    types: list[str] = []
    texts: list[str] = []
    for place, writes in enumerate(runs.values(), 1):
        before.append(len(texts))
        for write in writes:
            for type_, _, text in write.events:
                types.append(type_.value)
                texts.append(text)
        counts.append(len(texts) - before[-1])
        places += [place] * counts[-1]
    rows = await connection.fetch(
        _EVENTS,
        org_id,
        [key.run_id for key in runs],
        [key.epoch for key in runs],
        counts, before, ACTIVE, places, types, texts,
    )  # fmt: skip
    heads: dict[RunKey, tuple[int, datetime]] = {}
    keys = list(runs)
    for place, base, at in rows:
        heads[keys[place - 1]] = base, at
    answer: list[list[Stored] | Exception] = []
    for write in batch:
        head = heads.get(write.key)
        if head is None:
            answer.append(lease_lost(write.key.run_id))
            continue
        seq, at = head
        stored = [
            Stored(number, type_, data, at, text)
            for number, (type_, data, text) in enumerate(write.events, seq + 1)
        ]
        heads[write.key] = seq + len(stored), at
        answer.append(stored)
    return answer


def _text(value: Any) -> str:
    return orjson.dumps(value, default=str).decode()
