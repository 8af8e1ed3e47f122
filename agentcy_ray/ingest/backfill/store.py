"""What may be asked of backfills: begin one, look at it, hold it, go on with it, end it."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

import structlog

from agentcy_ray.core.errors import ConflictError
from agentcy_ray.core.ids import encode, new_id
from agentcy_ray.core.states import EMBED_BACKFILL, sources_of
from agentcy_ray.ingest.backfill.budget import allow
from agentcy_ray.ingest.backfill.records import (
    Backfill,
    BackfillOptions,
    EmbedError,
    Engine,
    Status,
)
from agentcy_ray.ingest.backfill.rows import COLUMNS, BackfillRows
from agentcy_ray.jobs.queue import JobQueue
from agentcy_ray.jobs.records import Job, NewJob

if TYPE_CHECKING:
    from agentcy_ray.retrieval.spaces import SpaceStore
    from agentcy_ray.stores.postgres import Database

JOB_KIND = "embed_backfill"
PRIORITY = 3
ATTEMPTS = 100
"""A backfill takes days and goes on where it was; a worker that dies is no reason to give up."""

_log = structlog.get_logger(__name__)

_INSERT = f"""
INSERT INTO embed_backfills AS b (id, org_id, space_id, engine, options, created_by)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (space_id) WHERE status IN ('queued', 'running', 'paused') DO NOTHING
RETURNING {COLUMNS}
"""
_OPEN_OF = f"""
SELECT {COLUMNS} FROM embed_backfills b
WHERE b.space_id = $1 AND b.status IN ('queued', 'running', 'paused')
"""
_LIST = f"""
SELECT {COLUMNS} FROM embed_backfills b
WHERE ($1::uuid IS NULL OR b.space_id = $1) AND ($2::uuid IS NULL OR b.id < $2)
ORDER BY b.id DESC LIMIT $3
"""


def backfill_job(org_id: UUID, backfill_id: UUID, *, delay_secs: float = 0.0) -> NewJob:
    """The job that carries a backfill out."""
    return NewJob(
        org_id=org_id,
        kind=JOB_KIND,
        payload={"backfill_id": str(backfill_id)},
        priority=PRIORITY,
        max_attempts=ATTEMPTS,
        delay_secs=delay_secs,
    )


class BackfillStore:
    """Begins backfills and moves them by request."""

    def __init__(self, db: Database, queue: JobQueue, spaces: SpaceStore) -> None:
        self._db = db
        self._queue = queue
        self._spaces = spaces
        self._rows = BackfillRows(db)

    async def start(
        self,
        org_id: UUID,
        space_id: UUID,
        *,
        engine: Engine = "coordinator",
        options: BackfillOptions | None = None,
        user_id: UUID | None = None,
    ) -> Backfill:
        """Fill a space that is being built; one that is open for it already is answered instead.

        One that failed is gone on with, in the way that is asked for now: what is written is not
        done again.

        Raises:
            NotFoundError: no such space.
            ConflictError: ``state_conflict``, the space is not being built.
        """
        space = await self._spaces.get(org_id, space_id)
        if space.status != "building":
            raise ConflictError(
                f"{encode('spc', space_id)} is {space.status} and needs no backfill; "
                "make a new space to fill",
                code="state_conflict",
                status=space.status,
            )
        latest = await self.list(org_id, space_id=space_id, limit=1)
        if latest and latest[0].status == "failed":
            return await self.resume(org_id, latest[0].id, engine=engine, options=options)
        chosen = (options or BackfillOptions()).model_dump(mode="json")
        async with self._db.tenant(org_id) as connection:
            row = await connection.fetchrow(
                _INSERT, new_id(), org_id, space_id, engine, chosen, user_id
            )
            if row is None:
                open_one = await connection.fetchrow(_OPEN_OF, space_id)
                if open_one is None:
                    raise ConflictError("a backfill of this space ended at this moment; ask again")
                return Backfill(**dict(open_one))
            made = Backfill(**dict(row))
            job = await self._queue.store.insert(connection, backfill_job(org_id, made.id))
            made = await self._rows.carried_by(connection, made.id, job.id)
        await self._queue.announce(job)
        return made

    async def get(self, org_id: UUID, backfill_id: UUID) -> Backfill:
        """One backfill.

        Raises:
            NotFoundError: there is none of that id.
        """
        return await self._rows.get(org_id, backfill_id)

    async def settled(self, org_id: UUID, backfill_id: UUID) -> Backfill:
        """One backfill as whoever waits for its end has to see it: ``BackfillRows.settled``."""
        return await self._rows.settled(org_id, backfill_id)

    async def list(
        self,
        org_id: UUID,
        *,
        space_id: UUID | None = None,
        limit: int = 50,
        before: UUID | None = None,
    ) -> list[Backfill]:
        """Backfills of an organisation, or of one space, newest first."""
        async with self._db.tenant(org_id) as connection:
            rows = await connection.fetch(_LIST, space_id, before, limit)
        return [Backfill(**dict(row)) for row in rows]

    async def errors(
        self, org_id: UUID, backfill_id: UUID, *, after: str | None = None, limit: int = 100
    ) -> list[EmbedError]:
        """Texts that could not be embedded, by key, from ``after`` on."""
        return await self._rows.errors(org_id, backfill_id, after=after, limit=limit)

    async def pause(self, org_id: UUID, backfill_id: UUID) -> Backfill:
        """Hold a backfill until ``resume``; its worker stops within a few seconds.

        Raises:
            NotFoundError: there is none of that id.
            ConflictError: ``state_conflict``, it is neither waiting nor running.
        """
        async with self._db.tenant(org_id) as connection:
            held = await self._rows.move(
                connection, backfill_id, "paused", note="paused by request"
            )
        if held is None:
            raise _refused(await self.get(org_id, backfill_id), "paused")
        await self._end_job(held)
        return held

    async def resume(
        self,
        org_id: UUID,
        backfill_id: UUID,
        *,
        engine: Engine | None = None,
        options: BackfillOptions | None = None,
    ) -> Backfill:
        """Go on with one that is paused or failed; what is written is not done again.

        One that waits at a soft limit of its budget is thereby let beyond it.

        Args:
            org_id: whose.
            backfill_id: which one.
            engine: what drives it from now on; None = what did.
            options: those that were set replace the former ones.

        Raises:
            NotFoundError: there is none of that id.
            ConflictError: ``state_conflict``, it is neither paused nor failed.
        """
        held = await self.get(org_id, backfill_id)
        if held.status not in {"paused", "failed"}:
            raise _refused(held, "queued")
        async with self._db.tenant(org_id) as connection:
            # By its epoch: a running one may be queued as well, by its own worker alone.
            queued = await self._rows.move(connection, backfill_id, "queued", epoch=held.epoch)
            job: Job | None = None
            if queued is not None:
                await allow(connection, held)
                await self._rows.choose(connection, held, engine, options)
                new = backfill_job(org_id, backfill_id)
                job = await self._queue.store.insert(connection, new)
                queued = await self._rows.carried_by(connection, backfill_id, job.id)
        if queued is None or job is None:
            raise _refused(await self.get(org_id, backfill_id), "queued")
        await self._queue.announce(job)
        return queued

    async def cancel(self, org_id: UUID, backfill_id: UUID) -> Backfill:
        """End a backfill for good. Its space fails: publishes pass it by, and it may be dropped.

        Raises:
            NotFoundError: there is none of that id.
            ConflictError: ``state_conflict``, it has ended.
        """
        async with self._db.tenant(org_id) as connection:
            gone = await self._rows.move(connection, backfill_id, "cancelled")
        if gone is None:
            raise _refused(await self.get(org_id, backfill_id), "cancelled")
        await self._end_job(gone)
        space = await self._spaces.get(org_id, gone.space_id)
        if space.status == "building":
            error = {"code": "cancelled", "message": "its backfill was cancelled", "details": {}}
            await self._spaces.fail(org_id, gone.space_id, error)
        return gone

    async def _end_job(self, backfill: Backfill) -> None:
        """End the job that waits, or ask a running one to stop; the row has moved on already."""
        if backfill.job_id is None:
            return
        job = await self._queue.store.get(backfill.org_id, backfill.job_id)
        if not job.open:
            return
        try:
            await self._queue.cancel(backfill.org_id, job.id)
        except ConflictError as error:  # it ended by itself meanwhile, which is as well
            _log.info("backfill_job_ended", job=encode("job", job.id), reason=error.message)


def _refused(backfill: Backfill, target: Status) -> ConflictError:
    origins = sources_of(EMBED_BACKFILL, target)
    if target == "queued":
        origins.remove("running")  # its own worker alone puts one back, for quiet hours
    return ConflictError(
        f"backfill {encode('bkf', backfill.id)} is {backfill.status} and cannot be "
        f"{'gone on with' if target == 'queued' else target}; only one that is "
        f"{' or '.join(origins)} can be",
        code="state_conflict",
        status=backfill.status,
    )
