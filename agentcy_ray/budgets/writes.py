"""The statements of the ledger: many reservations, settlements and releases in one commit.

The order of locks is the same for everybody: reservations by id, then balances by key. What a batch
closes counts before what it reserves, and reservations take what is left in the order they came.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

from agentcy_ray.budgets.amounts import Amounts, Hold, Key, Scope, Spent
from agentcy_ray.budgets.records import Close, Reservation, Reserve, SoftLimit, Write, exceeded
from agentcy_ray.core.ids import new_id

if TYPE_CHECKING:
    import asyncpg
    from asyncpg.pool import PoolConnectionProxy

    Connection = PoolConnectionProxy[asyncpg.Record]

NOBODY = UUID(int=0)
"""User of what no user asked for, in the usage ledger."""
_CLOSE = """
WITH locked AS (
  SELECT id FROM budget_reservations WHERE id = ANY($1) ORDER BY id FOR UPDATE
)
DELETE FROM budget_reservations r USING locked l WHERE r.id = l.id
RETURNING r.id, r.user_id, r.agent, r.run_id, r.turn, r.model, r.holds
"""
# Settled after somebody had released it: what was used was used, once.
_LATE = """
SELECT e.reservation_id AS id, e.user_id, e.agent, e.run_id, e.turn, e.model, e.holds
FROM budget_entries e
WHERE e.reservation_id = ANY($1) AND e.kind = 'reserved' AND NOT EXISTS (
  SELECT 1 FROM budget_entries s
  WHERE s.reservation_id = e.reservation_id AND s.kind IN ('settled', 'late'))
"""
_LOCK = "SELECT * FROM budget_lock($1, $2, $3, $4, $5, $6)"
_WRITE = """
WITH moved AS (
  UPDATE budget_balances b SET spent = b.spent + w.spent, reserved = b.reserved + w.reserved
  FROM jsonb_to_recordset($2) AS w(scope text, subject text, unit text, period text,
    spent bigint, reserved bigint)
  WHERE b.org_id = $1 AND b.scope = w.scope AND b.subject = w.subject AND b.unit = w.unit
    AND b.period = w.period
),
opened AS (
  INSERT INTO budget_reservations (id, org_id, user_id, agent, run_id, epoch, turn, holder, model,
    holds, expires_at)
  SELECT w.id, $1, w.user_id, w.agent, w.run_id, w.epoch, w.turn, w.holder, w.model,
    w.holds, clock_timestamp() + make_interval(secs => w.ttl)
  FROM jsonb_to_recordset($3) AS w(id uuid, user_id uuid, agent text, run_id uuid, epoch bigint,
    turn int, holder uuid, model text, holds jsonb, ttl float8)
),
noted AS (
  INSERT INTO budget_entries (id, org_id, reservation_id, kind, user_id, agent, run_id, turn, model,
    usd, tokens, gpu_seconds, holds)
  SELECT w.id, $1, w.reservation, w.kind, w.user_id, w.agent, w.run_id, w.turn, w.model,
    w.usd, w.tokens, w.gpu_seconds, w.holds
  FROM jsonb_to_recordset($4) AS w(id uuid, reservation uuid, kind text, user_id uuid, agent text,
    run_id uuid, turn int, model text, usd bigint, tokens bigint, gpu_seconds bigint, holds jsonb)
)
INSERT INTO usage_ledger (id, org_id, day, agent, user_id, model, in_tokens, out_tokens, cost_usd,
  gpu_seconds)
SELECT w.id, $1, budget_day($1), w.agent, w.user_id, w.model, w.in_tokens, w.out_tokens, w.cost_usd,
  w.gpu_seconds
FROM jsonb_to_recordset($5) AS w(id uuid, agent text, user_id uuid, model text, in_tokens bigint,
  out_tokens bigint, cost_usd float8, gpu_seconds float8)
ORDER BY w.agent, w.user_id, w.model
ON CONFLICT (org_id, day, agent, user_id, model) DO UPDATE SET
  in_tokens = usage_ledger.in_tokens + excluded.in_tokens,
  out_tokens = usage_ledger.out_tokens + excluded.out_tokens,
  cost_usd = usage_ledger.cost_usd + excluded.cost_usd,
  gpu_seconds = usage_ledger.gpu_seconds + excluded.gpu_seconds
"""
_Place = tuple[str, str, str, str | None]
"""Level, subject, unit and period of a balance, None for today's."""


@dataclass
class _Balance:
    """A locked balance, as it will be once the batch is written."""

    key: Key
    spent: int
    reserved: int
    hard: int | None
    soft: int | None
    """None where nobody is to be asked."""
    asks: int
    new_spent: int = 0
    new_reserved: int = 0

    @property
    def used(self) -> int:
        return self.spent + self.new_spent + self.reserved + self.new_reserved


@dataclass(frozen=True)
class _Ended:
    """A reservation that this batch closes."""

    close: Close
    late: bool
    scope: Scope
    model: str
    holds: tuple[Hold, ...]


class _Batch:
    """What one transaction writes."""

    def __init__(self, org_id: UUID) -> None:
        self.org_id = org_id
        self.opened: list[dict[str, Any]] = []
        self.noted: list[dict[str, Any]] = []
        self._used: dict[tuple[str, UUID, str], list[float]] = {}

    def note(
        self, reservation: UUID, kind: str, scope: Scope, model: str, amounts: Amounts,
        holds: Sequence[Hold],
    ) -> None:  # fmt: skip
        """An entry of the ledger."""
        self.noted.append({
            **_whose(scope, model), "id": str(new_id()), "reservation": str(reservation),
            "kind": kind, **amounts._asdict(), "holds": _listed(holds),
        })  # fmt: skip

    def use(self, scope: Scope, model: str, spent: Spent) -> None:
        """A line of the usage reports; runs write theirs when they end."""
        if scope.run_id is not None:
            return
        line = self._used.setdefault(
            (scope.agent or "", scope.user_id or NOBODY, model), [0, 0, 0.0, 0.0]
        )
        amounts = (spent.in_tokens, spent.out_tokens, spent.cost_usd or 0.0, spent.gpu_seconds)
        for place, amount in enumerate(amounts):
            line[place] += amount

    async def write(self, connection: Connection, balances: Sequence[_Balance]) -> None:
        """Write everything."""
        names = ("in_tokens", "out_tokens", "cost_usd", "gpu_seconds")
        used = [
            {
                "id": str(new_id()), "agent": agent, "user_id": str(user), "model": model,
                **dict(zip(names, line, strict=True)),
            }
            for (agent, user, model), line in self._used.items()
        ]  # fmt: skip
        moved = [
            {
                "scope": b.key.level, "subject": b.key.subject, "unit": b.key.unit,
                "period": b.key.period, "spent": b.new_spent, "reserved": b.new_reserved,
            }
            for b in balances if b.new_spent or b.new_reserved
        ]  # fmt: skip
        if moved or self.opened or self.noted or used:
            await connection.execute(_WRITE, self.org_id, moved, self.opened, self.noted, used)


async def put(
    connection: Connection, org_id: UUID, batch: Sequence[Write]
) -> list[Reservation | bool | Exception]:
    """Write a batch. Answers a reservation with itself or its refusal, and the end of one with
    whether this was it."""
    written = _Batch(org_id)
    ended = await _closed(connection, [write for write in batch if isinstance(write, Close)])
    wanted: dict[_Place, UUID | None] = {}
    for end in ended.values():
        for key, _ in end.holds:
            wanted[key] = end.scope.run_id if key.level == "run" else None
    for write in batch:
        if isinstance(write, Reserve):
            for level, subject, id_, unit in write.draws:
                wanted[level, subject, unit, "run" if level == "run" else None] = id_
    balances = await _locked(connection, org_id, wanted)
    for end in ended.values():
        _end(written, end, balances)
    answers: list[Reservation | bool | Exception] = []
    for write in batch:
        if isinstance(write, Reserve):
            answers.append(_reserve(written, write, balances))
        elif isinstance(write, Close):
            end = ended.get(write.id)
            answers.append(end is not None and end.close is write)
        else:
            written.use(write.scope, write.model, write.spent)
            answers.append(True)
    await written.write(connection, list({id(b): b for b in balances.values()}.values()))
    return answers


async def _closed(connection: Connection, closes: Sequence[Close]) -> dict[UUID, _Ended]:
    """Take reservations away; what is settled and was released before is ``late``."""
    if not closes:
        return {}
    first: dict[UUID, Close] = {}
    for close in closes:
        first.setdefault(close.id, close)
    rows = [(row, False) for row in await connection.fetch(_CLOSE, list(first))]
    gone = set(first) - {row["id"] for row, _ in rows}
    missing = [id_ for id_ in gone if first[id_].kind == "settled"]
    if missing:
        rows += [(row, True) for row in await connection.fetch(_LATE, missing)]
    return {
        row["id"]: _Ended(
            first[row["id"]],
            late,
            Scope(UUID(int=0), row["user_id"], row["agent"], row["run_id"], turn=row["turn"]),
            row["model"],
            tuple(
                Hold(Key(level, subject, unit, period), amount)
                for level, subject, unit, period, amount in row["holds"]
            ),
        )
        for row, late in rows
    }


async def _locked(
    connection: Connection, org_id: UUID, wanted: dict[_Place, UUID | None]
) -> dict[_Place, _Balance]:
    if not wanted:
        return {}
    places = list(wanted)
    rows = await connection.fetch(
        _LOCK,
        org_id,
        [level for level, *_ in places],
        [subject for _, subject, *_ in places],
        list(wanted.values()),
        [unit for _, _, unit, _ in places],
        [period for *_, period in places],
    )
    balances: dict[_Place, _Balance] = {}
    for row in rows:
        place = places[row["place"] - 1]
        key = Key(place[0], place[1], place[2], row["period"])  # pyright: ignore[reportArgumentType]
        # The same balance may be asked for as today's and by its date.
        balance = balances.get(key)
        if balance is None:
            asked = row["hard"] is not None and row["soft_share"] is not None and not row["raised"]
            soft = int(row["hard"] * row["soft_share"]) if asked else None
            balance = _Balance(
                key, row["spent"], row["reserved"], row["hard"], soft, row["asks"]
            )  # fmt: skip
        balances[place] = balances[key] = balance
    return balances


def _end(written: _Batch, end: _Ended, balances: dict[_Place, _Balance]) -> None:
    amounts = end.close.amounts
    for key, held in end.holds:
        balance = balances[key]
        balance.new_spent += amounts.of(key.unit)
        if not end.late:
            balance.new_reserved -= held
    kind = "late" if end.late else end.close.kind
    written.note(end.close.id, kind, end.scope, end.model, amounts, end.holds)
    if end.close.kind == "settled":
        written.use(end.scope, end.model, end.close.spent)


def _reserve(
    written: _Batch, write: Reserve, balances: dict[_Place, _Balance]
) -> Reservation | Exception:
    """Hold what is asked for on every balance, or on none."""
    drawn: list[tuple[_Balance, int]] = []
    soft: SoftLimit | None = None
    for level, subject, _, unit in write.draws:
        balance = balances[level, subject, unit, "run" if level == "run" else None]
        amount = write.amounts.of(unit)
        then = balance.used + amount
        if amount and balance.hard is not None and then > balance.hard:
            return exceeded(balance.key, balance.hard, balance.used, amount)
        if amount and soft is None and balance.soft is not None and then > balance.soft:
            assert balance.hard is not None
            soft = SoftLimit(balance.key, balance.soft, balance.hard, then, balance.asks)
        drawn.append((balance, amount))
    for balance, amount in drawn:
        balance.new_reserved += amount
    holds = tuple(Hold(balance.key, amount) for balance, amount in drawn)
    written.opened.append({
        **_whose(write.scope, write.model), "id": str(write.id), "epoch": write.scope.epoch,
        "holder": _text(write.scope.holder), "holds": _listed(holds), "ttl": write.ttl_secs,
    })  # fmt: skip
    written.note(write.id, "reserved", write.scope, write.model, write.amounts, holds)
    return Reservation(write.scope, write.model, write.id, holds, soft)


def _whose(scope: Scope, model: str) -> dict[str, Any]:
    return {
        "user_id": _text(scope.user_id), "agent": scope.agent or "",
        "run_id": _text(scope.run_id), "turn": scope.turn, "model": model,
    }  # fmt: skip


def _listed(holds: Sequence[Hold]) -> list[list[Any]]:
    return [[*key, amount] for key, amount in holds]


def _text(value: UUID | None) -> str | None:
    return None if value is None else str(value)
