"""Runs: started by anybody, claimed by one executor at a time, fenced by an epoch.

A run's row says who owns it. Every claim raises the epoch, and every later write of the owner names
the epoch that it claimed, so a former owner that wakes up again changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal
from uuid import UUID

import asyncpg

from agentcy_ray.agent.conversations import add_message, note_read
from agentcy_ray.agent.run_records import Ending, NewRun, Run, RunInput, Started, cancelled
from agentcy_ray.agent.run_writer import NewEvent, RunKey, Stored, append_on, lease_lost
from agentcy_ray.agent.runlog import RunLog
from agentcy_ray.core.errors import ConflictError, NotFoundError, TooLargeError
from agentcy_ray.core.events import EventType
from agentcy_ray.core.ids import encode, new_id
from agentcy_ray.core.states import RUN, sources_of
from agentcy_ray.core.tenancy import Principal
from agentcy_ray.stores.bell import Bell
from agentcy_ray.stores.postgres import Database

if TYPE_CHECKING:
    from agentcy_ray.agent.run_writer import Connection

QUEUED_CHANNEL = "ch:runs:queued"
"""Rung with ``{"run"}`` when a run waits for an executor, with ``{"cancel"}`` to stop one."""
MESSAGE_BYTES = 64 * 1024
RUNS_PER_ORG = 50
"""Runs of one organisation that are executed at a time; further ones queue."""

_COLUMNS = (
    "id, org_id, kind, conversation_id, agent_id, agent, model, principal, realm, input, status,"
    " finish_reason, usage, message_id, parent_run_id, on_disconnect, owner, epoch, lease_until,"
    " cancel_requested, last_seq, created_at, ended_at"
)
_LOCK_CONVERSATION = """
SELECT 1 FROM conversations WHERE id = $1 AND ($2::uuid IS NULL OR user_id = $2) FOR UPDATE
"""
_SAME_KEY = f"""
SELECT {_COLUMNS} FROM runs WHERE conversation_id = $1 AND idempotency_key = $2
"""
_BUSY = """
SELECT id FROM runs WHERE conversation_id = $1
AND status IN ('queued', 'running', 'waiting_approval')
"""
_INSERT = f"""
INSERT INTO runs (id, org_id, kind, conversation_id, agent_id, agent, model, principal, realm,
  input, message_id, parent_run_id, on_disconnect, idempotency_key)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14) RETURNING {_COLUMNS}
"""
_GET = f"""
SELECT {_COLUMNS} FROM runs WHERE id = $1 AND ($2::text IS NULL OR principal->>'user_id' = $2)
"""
_LIST = f"""
SELECT {_COLUMNS} FROM runs
WHERE ($1::text IS NULL OR principal->>'user_id' = $1)
  AND ($2::uuid IS NULL OR conversation_id = $2) AND ($3::uuid IS NULL OR id < $3)
ORDER BY id DESC LIMIT $4
"""
_WAITS = """(r.status = 'queued' OR (r.status IN ('running', 'waiting_approval')
    AND coalesce(r.lease_until, '-infinity') < clock_timestamp()))"""
_CLAIM = f"""
WITH busy AS (
  SELECT org_id, count(*) AS n FROM runs
  WHERE status IN ('running', 'waiting_approval') AND lease_until > clock_timestamp()
  GROUP BY org_id
),
lined_up AS (
  SELECT r.id, coalesce(b.n, 0)
    + row_number() OVER (PARTITION BY r.org_id ORDER BY r.created_at) AS place
  FROM runs r LEFT JOIN busy b ON b.org_id = r.org_id WHERE {_WAITS}
),
ready AS (
  SELECT r.id FROM runs r JOIN lined_up l ON l.id = r.id
  WHERE l.place <= $4 AND {_WAITS}
  ORDER BY r.created_at LIMIT $1 FOR UPDATE OF r SKIP LOCKED
)
UPDATE runs SET status = CASE status WHEN 'queued' THEN 'running' ELSE status END,
  owner = $2, epoch = epoch + 1, lease_until = clock_timestamp() + make_interval(secs => $3)
WHERE id IN (SELECT id FROM ready) RETURNING {_COLUMNS}
"""
_RENEW = """
UPDATE runs r SET lease_until = clock_timestamp() + make_interval(secs => $3)
FROM unnest($1::uuid[], $2::bigint[]) AS w(id, epoch)
WHERE r.id = w.id AND r.epoch = w.epoch AND r.status IN ('running', 'waiting_approval')
RETURNING r.id, r.cancel_requested
"""
_RELEASE = """
UPDATE runs SET owner = NULL, lease_until = NULL
WHERE id = $1 AND epoch = $2 AND status IN ('running', 'waiting_approval') RETURNING id
"""
_LOCK = f"SELECT {_COLUMNS} FROM runs WHERE id = $1 FOR UPDATE"
_REQUEST_CANCEL = "UPDATE runs SET cancel_requested = true WHERE id = $1"
_MOVE = "UPDATE runs SET status = $3 WHERE id = $1 AND epoch = $2 AND status = ANY($4) RETURNING id"
_END = f"""
UPDATE runs SET status = $3, finish_reason = $4, usage = $5, owner = NULL, lease_until = NULL,
  ended_at = clock_timestamp()
WHERE id = $1 AND epoch = $2 AND status = ANY($6) RETURNING {_COLUMNS}
"""
_LEDGER = """
INSERT INTO usage_ledger (id, org_id, day, agent, user_id, model, in_tokens, out_tokens, cost_usd,
  tool_calls)
VALUES ($1, $2, budget_day($2), $3, $4, $5, $6, $7, $8, $9)
ON CONFLICT (org_id, day, agent, user_id, model) DO UPDATE SET
  in_tokens = usage_ledger.in_tokens + excluded.in_tokens,
  out_tokens = usage_ledger.out_tokens + excluded.out_tokens,
  cost_usd = usage_ledger.cost_usd + excluded.cost_usd,
  tool_calls = usage_ledger.tool_calls + excluded.tool_calls
"""


class RunStore:
    """Rows of ``runs``."""

    def __init__(self, db: Database, bell: Bell, log: RunLog) -> None:
        self._db = db
        self._bell = bell
        self._log = log

    async def start(self, principal: Principal, new: NewRun) -> Started:
        """Queue a run, with the person's message and the first event of its log.

        The same idempotency key in a conversation gives the first run again.

        Raises:
            NotFoundError: no such conversation, or it is somebody else's.
            ConflictError: ``conversation_busy`` with ``details["run_id"]``, or
                ``idempotency_mismatch`` when the key came with another text.
            TooLargeError: the text is longer than 64 KiB.
        """
        if len(new.text.encode()) > MESSAGE_BYTES:
            raise TooLargeError("a message holds 64 KiB at most; put long text into a source")
        async with self._db.tenant(principal.org_id) as connection:
            if new.conversation_id is not None:
                earlier = await _earlier(connection, principal, new)
                if earlier is not None:
                    return Started(earlier, replayed=True)
            run, events = await _insert(connection, principal, new)
        self._log.ring(run.id, events)
        await self._bell.ring(QUEUED_CHANNEL, {"run": run.id.hex})
        return Started(run, replayed=False)

    async def get(self, principal: Principal, run_id: UUID) -> Run:
        """A run that the principal may read.

        Raises:
            NotFoundError: there is none, or it is somebody else's.
        """
        async with self._db.tenant(principal.org_id) as connection:
            row = await connection.fetchrow(_GET, run_id, _owner(principal))
        if row is None:
            raise NotFoundError(f"no run {encode('run', run_id)}; list the runs to find one")
        return _run(row)

    async def list(
        self,
        principal: Principal,
        *,
        conversation_id: UUID | None = None,
        limit: int = 50,
        before: UUID | None = None,
    ) -> list[Run]:
        """Runs that the principal may read, newest first."""
        async with self._db.tenant(principal.org_id) as connection:
            rows = await connection.fetch(_LIST, _owner(principal), conversation_id, before, limit)
        return [_run(row) for row in rows]

    async def cancel(self, principal: Principal, run_id: UUID) -> Run:
        """Ask for the end of a run; one that no executor holds ends here and now.

        Raises:
            NotFoundError: no such run.
            ConflictError: ``state_conflict``: it has ended already.
        """
        await self.get(principal, run_id)
        events: Sequence[Stored] = ()
        async with self._db.tenant(principal.org_id) as connection:
            row = await connection.fetchrow(_LOCK, run_id)
            assert row is not None
            run = _run(row)
            if run.ended:
                raise ConflictError(
                    f"run {encode('run', run_id)} is {run.status} already", code="state_conflict"
                )
            await connection.execute(_REQUEST_CANCEL, run_id)
            if run.status == "queued":
                run, events = await _end(connection, run, cancelled(run))
        self._log.ring(run.id, events)
        if not run.ended:
            await self._bell.ring(QUEUED_CHANNEL, {"cancel": run_id.hex})
        return run

    # -- for executors ----------------------------------------------------------------------

    async def claim(self, owner: str, *, limit: int, lease_secs: float) -> list[Run]:
        """Take up to ``limit`` runs that are queued or whose owner's lease has lapsed."""
        async with self._db.system() as connection:
            rows = await connection.fetch(_CLAIM, limit, owner, lease_secs, RUNS_PER_ORG)
        return [_run(row) for row in rows]

    async def renew(self, keys: Sequence[RunKey], *, lease_secs: float) -> dict[UUID, bool]:
        """Hold on to runs; answers run id → cancel requested, for those that are still ours."""
        async with self._db.system() as connection:
            rows = await connection.fetch(
                _RENEW, [key.run_id for key in keys], [key.epoch for key in keys], lease_secs
            )
        return {row["id"]: row["cancel_requested"] for row in rows}

    async def release(self, key: RunKey) -> None:
        """Hand a run back, so that another executor takes it at once."""
        async with self._db.tenant(key.org_id) as connection:
            released = await connection.fetchval(_RELEASE, key.run_id, key.epoch)
        if released is not None:
            await self._bell.ring(QUEUED_CHANNEL, {"run": key.run_id.hex})

    async def move(
        self,
        key: RunKey,
        status: Literal["running", "waiting_approval"],
        events: Sequence[NewEvent] = (),
    ) -> None:
        """Change between ``running`` and ``waiting_approval``, with the events that tell why.

        Raises:
            LeaseLostError: the run has a newer owner, or has ended.
        """
        async with self._db.tenant(key.org_id) as connection:
            written = await append_on(connection, key, events)
            allowed = [*sources_of(RUN, status), status]
            if await connection.fetchval(_MOVE, key.run_id, key.epoch, status, allowed) is None:
                raise lease_lost(key.run_id)
        self._log.ring(key.run_id, written)

    async def end(self, run: Run, ending: Ending) -> Run:
        """End a run: status, last events, the assistant's message and the ledger, all or nothing.

        Raises:
            LeaseLostError: the run has a newer owner, or has ended.
        """
        async with self._db.tenant(run.org_id) as connection:
            ended, events = await _end(connection, run, ending)
        self._log.ring(run.id, events)
        return ended


async def _earlier(connection: Connection, principal: Principal, new: NewRun) -> Run | None:
    """The run of the same idempotency key; refuses a busy conversation."""
    own = principal.user_id if principal.require("chat.write") == "own" else None
    if await connection.fetchval(_LOCK_CONVERSATION, new.conversation_id, own) is None:
        assert new.conversation_id is not None
        raise NotFoundError(
            f"no conversation {encode('cnv', new.conversation_id)}; list yours to find one"
        )
    if new.idempotency_key is not None:
        row = await connection.fetchrow(_SAME_KEY, new.conversation_id, new.idempotency_key)
        if row is not None:
            run = _run(row)
            if run.input.text != new.text:
                raise ConflictError(
                    "this Idempotency-Key was used for another message; send a new key",
                    code="idempotency_mismatch",
                )
            return run
    busy = await connection.fetchval(_BUSY, new.conversation_id)
    if busy is not None:
        raise ConflictError(
            f"run {encode('run', busy)} is still answering; wait for its end or cancel it",
            code="conversation_busy",
            run_id=encode("run", busy),
        )
    return None


async def _insert(
    connection: Connection, principal: Principal, new: NewRun
) -> tuple[Run, list[Stored]]:
    run_id, message_id = new_id(), new_id()
    asked = RunInput(
        text=new.text,
        request_id=new.request_id,
        history=new.history,
        instructions=new.instructions,
    )
    row = await connection.fetchrow(
        _INSERT, run_id, principal.org_id, new.kind, new.conversation_id, new.agent.id,
        new.agent.name, new.model, principal.model_dump(mode="json"), new.realm,
        asked.model_dump(mode="json"), message_id, new.parent_run_id, new.on_disconnect,
        new.idempotency_key,
    )  # fmt: skip
    assert row is not None
    run = _run(row)
    if new.conversation_id is not None:
        seq = await add_message(
            connection, principal.org_id, new.conversation_id, message_id=new_id(), role="user",
            content=new.text, run_id=run_id,
        )  # fmt: skip
        await note_read(connection, principal.org_id, new.conversation_id, principal.user_id, seq)
    conversation = new.conversation_id
    start: NewEvent = (
        EventType.MESSAGE_START,
        {
            "message_id": encode("msg", message_id),
            "run_id": encode("run", run_id),
            "conversation_id": None if conversation is None else encode("cnv", conversation),
            "agent": new.agent.name,
            "model": new.model,
        },
    )
    return run, await append_on(connection, run.key, [start])


async def _end(connection: Connection, run: Run, ending: Ending) -> tuple[Run, Sequence[Stored]]:
    events = await append_on(connection, run.key, ending.events)
    row = await connection.fetchrow(
        _END, run.id, run.epoch, ending.status, ending.reason,
        ending.usage.model_dump(mode="json"), sources_of(RUN, ending.status),
    )  # fmt: skip
    if row is None:
        raise lease_lost(run.id)
    if run.conversation_id is not None and ending.text:
        await add_message(
            connection, run.org_id, run.conversation_id, message_id=run.message_id,
            role="assistant", content=ending.text, citations=ending.citations, run_id=run.id,
            usage=ending.usage,
        )  # fmt: skip
    await connection.execute(
        _LEDGER, new_id(), run.org_id, run.agent, run.principal.user_id, run.model,
        ending.usage.in_tokens, ending.usage.out_tokens, ending.usage.cost_usd or 0.0,
        ending.tool_calls,
    )  # fmt: skip
    return _run(row), events


def _owner(principal: Principal) -> str | None:
    """The user whose runs the principal is limited to; None = all of the organisation."""
    own = principal.require("chat.read") == "own"
    return encode("usr", principal.user_id) if own else None


def _run(row: asyncpg.Record) -> Run:
    return Run.model_validate(dict(row))
