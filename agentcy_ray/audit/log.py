"""The audit log: append, list, follow, verify."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from uuid import UUID

import structlog

from agentcy_ray.audit.entry import AuditEntry, AuditRecord
from agentcy_ray.audit.filters import COLUMNS, EVERYTHING, AuditFilter
from agentcy_ray.audit.tidings import Tidings
from agentcy_ray.audit.verify import Verification, verify
from agentcy_ray.audit.writer import PATIENCE_SECS, ChainWriter
from agentcy_ray.core.errors import NotFoundError
from agentcy_ray.core.meters import Histogram
from agentcy_ray.stores.bell import Bell
from agentcy_ray.stores.postgres import Database

PAGE = 1000
"""Entries read at a time by whoever wants all of them."""

_log = structlog.get_logger(__name__)

_GET = COLUMNS + "AND id = $2"
_HEAD = "SELECT audit_head_seq FROM organizations WHERE id = $1"


class AuditLog:
    """The audit logs of all organisations; each call names one.

    Args:
        db: where the log is.
        bell: tells those who follow a log that it has grown; without it they look every second.
        patience_secs: how long an append waits for a Postgres that is away.
        commits: gets the seconds of each group commit.
    """

    def __init__(
        self,
        db: Database,
        bell: Bell | None = None,
        *,
        patience_secs: float = PATIENCE_SECS,
        commits: Histogram | None = None,
    ) -> None:
        self._db = db
        self._tidings = Tidings(bell)
        self._writer = ChainWriter(db, self._tidings.spread, patience_secs, commits)

    async def append(self, *entries: AuditEntry) -> UUID:
        """Write entries of one organisation; the last one's id, once all of them are durable.

        Raises:
            StoreUnavailableError, StorageFullError: they are not known to be durable; whatever
                they were to witness must not be released.
        """
        await self._writer.append(entries)
        return entries[-1].id

    def note(self, entry: AuditEntry) -> None:
        """Write an entry that nobody waits for: one that witnesses a refusal, not a release.

        Returns at once, so that the time of an answer tells nothing of what was written; a failure
        is logged, and ``close`` waits for what is under way.
        """
        self._writer.hand_in([entry]).add_done_callback(_log_failure)

    async def get(self, org_id: UUID, audit_id: UUID) -> AuditRecord:
        """One entry.

        Raises:
            NotFoundError: there is none with this id.
        """
        async with self._db.tenant(org_id) as connection:
            row = await connection.fetchrow(_GET, org_id, audit_id)
        if row is None:
            raise NotFoundError("no such audit entry; it may be past the log's retention")
        return AuditRecord(**dict(row))

    async def list(
        self,
        org_id: UUID,
        where: AuditFilter = EVERYTHING,
        *,
        limit: int = 50,
        before_seq: int | None = None,
    ) -> Sequence[AuditRecord]:
        """A page, newest first; the last one's ``seq`` is the next ``before_seq``."""
        query = where.query(org_id)
        if before_seq is not None:
            query.add("seq < {}", before_seq)
        sql, arguments = query.ordered("seq DESC", limit)
        async with self._db.tenant(org_id) as connection:
            rows = await connection.fetch(sql, *arguments)
        return [AuditRecord(**dict(row)) for row in rows]

    async def head(self, org_id: UUID) -> int:
        """The ``seq`` of the newest entry, 0 when there is none.

        Raises:
            NotFoundError: there is no such organisation.
        """
        async with self._db.tenant(org_id) as connection:
            head = await connection.fetchval(_HEAD, org_id)
        if head is None:
            raise NotFoundError("no such organisation; it was deleted, or never was")
        return int(head)

    async def pages(
        self,
        org_id: UUID,
        where: AuditFilter = EVERYTHING,
        *,
        after_seq: int = 0,
        upto_seq: int | None = None,
        size: int = PAGE,
    ) -> AsyncGenerator[Sequence[AuditRecord]]:
        """Every matching entry after ``after_seq`` that is there now, oldest first, by pages.

        Each page is a transaction of its own: a reader who takes hours holds no snapshot open.
        """
        upto_seq = await self.head(org_id) if upto_seq is None else upto_seq
        while after_seq < upto_seq:
            query = where.query(org_id)
            query.add("seq > {}", after_seq)
            query.add("seq <= {}", upto_seq)
            sql, arguments = query.ordered("seq", size)
            async with self._db.tenant(org_id) as connection:
                rows = await connection.fetch(sql, *arguments)
            if rows:
                yield [AuditRecord(**dict(row)) for row in rows]
            after_seq = rows[-1]["seq"] if len(rows) == size else upto_seq

    async def tail(
        self,
        org_id: UUID,
        after_seq: int,
        where: AuditFilter = EVERYTHING,
        *,
        ping_secs: float = 15.0,
    ) -> AsyncGenerator[AuditRecord | None]:
        """Entries after ``after_seq`` for as long as the caller listens.

        Yields None when ``ping_secs`` brought nothing: the time for a ping.
        """
        async with self._tidings.listen(org_id) as ear:
            quiet_since = time.monotonic()
            while True:
                head = await self.head(org_id)
                async for page in self.pages(org_id, where, after_seq=after_seq, upto_seq=head):
                    for record in page:
                        yield record
                    quiet_since = time.monotonic()
                after_seq = max(after_seq, head)
                left = quiet_since + ping_secs - time.monotonic()
                if left <= 0:
                    yield None
                    quiet_since, left = time.monotonic(), ping_secs
                await ear.wait(left)

    async def verify(
        self, org_id: UUID, from_seq: int | None = None, to_seq: int | None = None
    ) -> Verification:
        """Recompute the chain; see ``verify.verify``."""
        return await verify(self._db, org_id, from_seq, to_seq)

    async def settle(self) -> None:
        """Wait until everything handed in so far is written, or has failed."""
        await self._writer.settle()

    async def close(self) -> None:
        """Wait for entries in flight, and for the hints about them."""
        await self.settle()
        await self._tidings.close()


def _log_failure(done: asyncio.Future[None]) -> None:
    if not done.cancelled() and (error := done.exception()) is not None:
        _log.error("audit_entry_lost", problem=str(error))
