"""Appending to the chain: one writer per organisation and process, many entries a commit.

An entry is written at once when nothing is in flight for its organisation, and else joins the next
batch, so latency is one commit and throughput is many entries a commit. Between processes the
organisation's row is the lock; head and entries change in one statement, so a rollback leaves no
gap in ``seq``. A process that was the last to write goes on from the head that it knows, without
asking; the statement finds nothing to do when somebody else was faster, and then the head is read
under its lock.

When the connection is lost in a commit, nobody knows whether it was done. The batch is then looked
for and, where it is missing, written again: a restart of Postgres costs patience and no result.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from uuid import UUID

from agentcy_ray.audit.canonical import Sealed, next_hash, seal
from agentcy_ray.audit.entry import AuditEntry
from agentcy_ray.core.errors import AgentcyError, NotFoundError, StoreUnavailableError
from agentcy_ray.core.meters import SECONDS, Histogram
from agentcy_ray.stores.postgres import Database

if TYPE_CHECKING:
    import asyncpg
    from asyncpg.pool import PoolConnectionProxy

BATCH = 1024
"""Entries a commit at most."""
BATCH_BYTES = 4 * 1024 * 1024
"""Canonical bytes a commit at most, unless those that were handed in together are more."""
PATIENCE_SECS = 5.0
"""How long entries wait for a Postgres that is away before their callers are told."""
PAUSE_SECS = 0.1

# NO KEY: rows of other tables that reference the organisation may still be inserted meanwhile.
_HEAD = """
SELECT audit_head_seq, audit_head_hash FROM organizations WHERE id = $1 FOR NO KEY UPDATE
"""
# The rows are read out of the very bytes that were hashed; objects as text, of which Postgres makes
# jsonb twice as fast as of a piece of json. The time limit frees the organisation's chain from a
# process that stops between here and COMMIT.
_APPEND = """
WITH head AS (
  UPDATE organizations SET audit_head_seq = $4, audit_head_hash = $5
  WHERE id = $1 AND audit_head_seq = $2 AND audit_head_hash = $3
  RETURNING id, set_config('idle_in_transaction_session_timeout', '10s', true)
)
INSERT INTO audit_log (org_id, seq, id, ts, user_id, api_key_id, category, action, decision,
                       resource, policy_id, rule, reasons, input, context, prev_hash, hash)
SELECT head.id, seq, e.id, ts, user_id, api_key_id, category, action, decision,
       resource::jsonb, policy_id, rule, reasons, input::jsonb, context::jsonb,
       substring($7::bytea, (32 * (seq - $2) - 31)::int, 32),
       substring($7::bytea, (32 * (seq - $2) + 1)::int, 32)
FROM head, json_to_recordset($6::text::json) AS e (
  seq bigint, id uuid, ts timestamptz, user_id uuid, api_key_id uuid, category text, action text,
  decision text, resource text, policy_id text, rule text, reasons text[], input text,
  context text)
"""
_PRESENT = "SELECT id FROM audit_log WHERE org_id = $1 AND id = ANY($2::uuid[])"

_Waiting = tuple[list[Sealed], "asyncio.Future[None]"]
"""Entries that were handed in together, and who waits for them."""


@dataclass
class _Line:
    """One organisation's entries that wait, and what this process knows of its chain."""

    waiting: list[_Waiting] = field(default_factory=list)
    task: asyncio.Task[None] | None = None
    last: tuple[int, bytes] | None = None
    """Head after this process's last commit."""
    alone: bool = False
    """Whether nobody else wrote between this process's last two commits."""


class ChainWriter:
    """Group commit for the chains of all organisations of one process.

    Args:
        db: where the log is.
        written: hears after each commit whose log has grown; must return at once.
        patience_secs: how long entries wait for a Postgres that is away.
        commits: gets the seconds of each commit.
    """

    def __init__(
        self,
        db: Database,
        written: Callable[[UUID], None],
        patience_secs: float = PATIENCE_SECS,
        commits: Histogram | None = None,
    ) -> None:
        self._db = db
        self._commits = commits or Histogram(SECONDS)
        self._written = written
        self._patience_secs = patience_secs
        self._lines: dict[UUID, _Line] = {}

    async def append(self, entries: Sequence[AuditEntry]) -> None:
        """Return once ``entries`` are durable. Those of a cancelled caller are still written.

        Raises:
            StoreUnavailableError, StorageFullError: they are not known to be durable.
            NotFoundError: there is no such organisation.
        """
        await self.hand_in(entries)

    def hand_in(self, entries: Sequence[AuditEntry]) -> asyncio.Future[None]:
        """Queue entries of one organisation, to be written one after the other in one commit.

        The future is done once they are durable, or holds what went wrong.
        """
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        org_id = entries[0].org_id
        line = self._lines.get(org_id)
        if line is None:
            line = self._lines[org_id] = _Line()
        line.waiting.append(([seal(entry) for entry in entries], done))
        if line.task is None:
            line.task = asyncio.create_task(self._drain(org_id, line))
        return done

    async def settle(self) -> None:
        """Wait until everything handed in is written or has failed."""
        tasks = [line.task for line in self._lines.values() if line.task is not None]
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _drain(self, org_id: UUID, line: _Line) -> None:
        try:
            while line.waiting:
                await self._settle(org_id, line, _take(line))
        finally:
            line.task = None
            for _, done in line.waiting:
                done.cancel()
            line.waiting.clear()

    async def _settle(self, org_id: UUID, line: _Line, batch: Sequence[_Waiting]) -> None:
        try:
            await self._write(org_id, line, [sealed for group, _ in batch for sealed in group])
        except AgentcyError as error:
            for _, done in batch:
                _fail(done, error)
        except Exception as error:  # noqa: BLE001  (the waiting caller gets it)
            if len(batch) == 1:
                _fail(batch[0][1], error)
            else:
                for one in batch:  # so that what cannot be stored fails nobody else's entries
                    await self._settle(org_id, line, [one])
        except BaseException:
            for _, done in batch:
                done.cancel()
            raise
        else:
            for _, done in batch:
                if not done.done():
                    done.set_result(None)
            self._written(org_id)

    async def _write(self, org_id: UUID, line: _Line, entries: list[Sealed]) -> None:
        """Make ``entries`` durable, across a short absence of Postgres."""
        deadline = time.monotonic() + self._patience_secs
        repeated = False
        while True:
            try:
                began = time.perf_counter()
                line.last = await self._commit(org_id, line, entries, repeated=repeated)
                self._commits.observe(time.perf_counter() - began)
                return
            except BaseException as error:
                line.last, line.alone = None, False
                if not isinstance(error, StoreUnavailableError) or time.monotonic() >= deadline:
                    raise
            repeated = True
            await asyncio.sleep(PAUSE_SECS)

    async def _commit(
        self, org_id: UUID, line: _Line, entries: list[Sealed], *, repeated: bool
    ) -> tuple[int, bytes]:
        """One transaction; gives the head after it."""
        async with self._db.tenant(org_id) as connection:
            if line.alone and line.last is not None:
                head = await _append(connection, org_id, line.last, entries)
                if head is not None:
                    return head
            row = await connection.fetchrow(_HEAD, org_id)
            if row is None:
                raise NotFoundError(f"no organisation {org_id}; it was deleted, or never was")
            found: tuple[int, bytes] = (row["audit_head_seq"], bytes(row["audit_head_hash"]))
            if repeated:
                # Under the lock: the attempt before this one has been committed, or never will be.
                ids = [sealed.id for sealed in entries]
                present = {row["id"] for row in await connection.fetch(_PRESENT, org_id, ids)}
                entries = [sealed for sealed in entries if sealed.id not in present]
            line.alone = found == line.last
            head = await _append(connection, org_id, found, entries) if entries else found
            assert head is not None, "the head changed under its lock"
            return head


async def _append(
    connection: PoolConnectionProxy[asyncpg.Record],
    org_id: UUID,
    head: tuple[int, bytes],
    entries: list[Sealed],
) -> tuple[int, bytes] | None:
    """Add ``entries`` after ``head`` and give the new head; None when the head is another one."""
    seq, last = head
    hashes, rows = [last], list[bytes]()
    for sealed in entries:
        seq += 1
        rows.append(sealed.at(seq))
        last = next_hash(last, rows[-1])
        hashes.append(last)
    text = f"[{b','.join(rows).decode()}]"
    status = await connection.execute(_APPEND, org_id, *head, seq, last, text, b"".join(hashes))
    return None if status == "INSERT 0 0" else (seq, last)


def _take(line: _Line) -> list[_Waiting]:
    """The next batch: about ``BATCH`` entries and ``BATCH_BYTES``."""
    size = entries = count = 0
    for group, _ in line.waiting:
        entries += len(group)
        size += sum(len(sealed.head) for sealed in group)
        if count and (entries > BATCH or size > BATCH_BYTES):
            break
        count += 1
    batch, line.waiting = line.waiting[:count], line.waiting[count:]
    return batch


def _fail(done: asyncio.Future[None], error: Exception) -> None:
    if not done.done():
        done.set_exception(error)
        done.exception()  # a caller that was cancelled never looks
