"""Sync runs as rows: asking for one, looking at them, calling one off.

A request is two rows in one transaction, the run and the job that carries it out; at most one run
of a source is active, which a unique index sees to.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal
from uuid import UUID

import asyncpg
from pydantic import BaseModel, ConfigDict

from agentcy_ray.core.errors import ConflictError, NotFoundError
from agentcy_ray.core.ids import JobId, OrgId, PackageId, SourceId, SyncRunId, encode, new_id
from agentcy_ray.core.states import SYNC_RUN, sources_of
from agentcy_ray.jobs.records import JobStatus, NewJob, Progress

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

    from agentcy_ray.core.tenancy import Principal
    from agentcy_ray.jobs.queue import JobQueue
    from agentcy_ray.stores.postgres import Database

JOB_KIND = "source_sync"
SYNC_PRIORITY = 5
REVERT_PRIORITY = 7

Mode = Literal["full", "incremental"]


class SyncRun(BaseModel):
    """One sync or revert of a source."""

    model_config = ConfigDict(frozen=True)

    id: SyncRunId
    org_id: OrgId
    source_id: SourceId
    job_id: JobId | None
    kind: Literal["sync", "revert"]
    mode: Mode
    force: bool
    epoch: int
    status: str
    package_id: PackageId | None
    counts: dict[str, Any]
    """``nodes``, ``edges``, ``documents`` {added, updated, unchanged, archived}; ``dangling``,
    ``rejected``, ``duplicates``, ``chunks``, ``embedded``, ``bytes``, ``seconds`` by stage."""
    rejects: list[dict[str, str]]
    progress: Progress | None
    error: dict[str, Any] | None
    started_at: datetime | None
    ended_at: datetime | None
    created_at: datetime


class PackageInfo(BaseModel):
    """One package of a source."""

    model_config = ConfigDict(frozen=True)

    id: PackageId
    source_id: SourceId
    state: Literal["full", "delta"]
    base_id: PackageId | None
    counts: dict[str, Any]
    digest: str
    current: bool
    created_at: datetime
    published_at: datetime | None


_COLUMNS = (
    "r.id, r.org_id, r.source_id, r.job_id, r.kind, r.mode, r.force, r.epoch, r.status,"
    " r.package_id, r.counts, r.rejects, r.error, r.started_at, r.ended_at, r.created_at,"
    " CASE WHEN r.ended_at IS NULL THEN j.progress END AS progress"
)
_FROM = "FROM sync_runs r LEFT JOIN jobs j ON j.id = r.job_id"
_GET = f"SELECT {_COLUMNS} {_FROM} WHERE r.id = $1"
_LIST = f"""
SELECT {_COLUMNS} {_FROM}
WHERE ($1::uuid IS NULL OR r.source_id = $1) AND ($2::uuid IS NULL OR r.id < $2)
ORDER BY r.id DESC LIMIT $3
"""
_SOURCE = "SELECT name, realm, status, enabled, sync_mode FROM sources WHERE id = $1 FOR UPDATE"
_ACTIVE = """
SELECT r.id, r.source_id, r.job_id, r.status, j.status AS job
FROM sync_runs r LEFT JOIN jobs j ON j.id = r.job_id
WHERE r.source_id = $1 AND r.status IN ('pending', 'running', 'publishing')
"""
_ABANDON = """
UPDATE sync_runs SET status = $2, ended_at = clock_timestamp(), error = coalesce(error, $3)
WHERE id = $1 AND status = ANY($4)
"""
_ABANDON_SOURCE = """
UPDATE sources SET status = 'failed', last_error = coalesce(last_error, $2)
WHERE id = $1 AND status IN ('running', 'publishing')
"""
_INSERT = """
INSERT INTO sync_runs (id, org_id, source_id, job_id, kind, mode, force, package_id)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
"""
_PACKAGE = "SELECT true FROM packages WHERE id = $1 AND source_id = $2"
_PACKAGES = """
SELECT p.id, p.source_id, p.state, p.base_id, p.counts, p.digest, p.created_at, p.published_at,
  p.id = s.current_package_id AS current
FROM packages p JOIN sources s ON s.id = p.source_id
WHERE p.source_id = $1 AND p.published_at IS NOT NULL AND ($2::uuid IS NULL OR p.id < $2)
ORDER BY p.id DESC LIMIT $3
"""


class SyncRuns:
    """Requests and reads sync runs."""

    def __init__(self, db: Database, queue: JobQueue) -> None:
        self._db = db
        self._queue = queue

    async def request(
        self,
        principal: Principal,
        source_id: UUID,
        *,
        mode: Mode | None = None,
        force: bool = False,
    ) -> SyncRun:
        """Ask for a sync.

        Args:
            principal: who asks; needs ``source.sync`` and the source's realm.
            source_id: what to sync.
            mode: ``full`` or ``incremental``; None = as the source is set up.
            force: let a full sync archive more than the guard allows.

        Raises:
            NotFoundError: no such source.
            ConflictError: ``sync_in_progress``, or the source is disabled or not validated.
        """
        return await self._request(principal, source_id, mode=mode, force=force)

    async def request_revert(
        self, principal: Principal, source_id: UUID, package_id: UUID
    ) -> SyncRun:
        """Ask for the state of an older package to be published again.

        Raises:
            NotFoundError: no such source, or no such package of it.
            ConflictError: ``sync_in_progress``.
        """
        return await self._request(principal, source_id, mode="full", revert_to=package_id)

    async def _request(
        self,
        principal: Principal,
        source_id: UUID,
        *,
        mode: Mode | None = None,
        force: bool = False,
        revert_to: UUID | None = None,
    ) -> SyncRun:
        principal.require("source.sync")
        org_id, run_id = principal.org_id, new_id()
        async with self._db.tenant(org_id) as connection:
            row = await connection.fetchrow(_SOURCE, source_id)
            source = _may_sync(row, source_id, principal)
            if revert_to and not await connection.fetchval(_PACKAGE, revert_to, source_id):
                raise NotFoundError(
                    f"source has no package {encode('pkg', revert_to)}; list its packages"
                )
            await _refuse_second(connection, await connection.fetchrow(_ACTIVE, source_id))
            job = await self._queue.store.insert(
                connection,
                NewJob(
                    org_id=org_id,
                    kind=JOB_KIND,
                    payload={"sync_run_id": str(run_id), "source_id": str(source_id)},
                    priority=REVERT_PRIORITY if revert_to else SYNC_PRIORITY,
                ),
            )
            await connection.execute(
                _INSERT,
                run_id,
                org_id,
                source_id,
                job.id,
                "revert" if revert_to else "sync",
                mode or source["sync_mode"],
                force,
                revert_to,
            )
        await self._queue.announce(job)
        return await self.get(org_id, run_id)

    async def get(self, org_id: UUID, run_id: UUID) -> SyncRun:
        """One run.

        Raises:
            NotFoundError: there is none of that id.
        """
        async with self._db.tenant(org_id) as connection:
            return _found(await connection.fetchrow(_GET, run_id), run_id)

    async def list(
        self,
        org_id: UUID,
        source_id: UUID | None = None,
        *,
        limit: int = 50,
        before: UUID | None = None,
    ) -> list[SyncRun]:
        """Runs of a source, or of all, newest first."""
        async with self._db.tenant(org_id) as connection:
            rows = await connection.fetch(_LIST, source_id, before, limit)
        return [SyncRun(**dict(row)) for row in rows]

    async def packages(
        self, org_id: UUID, source_id: UUID, *, limit: int = 50, before: UUID | None = None
    ) -> list[PackageInfo]:
        """Published packages of a source that are still there, newest first."""
        async with self._db.tenant(org_id) as connection:
            rows = await connection.fetch(_PACKAGES, source_id, before, limit)
        return [PackageInfo(**dict(row)) for row in rows]

    async def cancel(self, org_id: UUID, run_id: UUID) -> SyncRun:
        """Call a run off: at once while it waits, within seconds while it reads its source.

        Raises:
            NotFoundError: no such run.
            ConflictError: it publishes already, or has ended.
        """
        run = await self.get(org_id, run_id)
        if run.status not in {"pending", "running"} or run.job_id is None:
            raise ConflictError(
                f"sync {encode('syn', run_id)} is {run.status} and cannot be cancelled; "
                "revert to an older package instead",
                code="state_conflict",
            )
        job = await self._queue.cancel(org_id, run.job_id)
        if job.status is JobStatus.CANCELLED:
            async with self._db.tenant(org_id) as connection:
                await connection.execute(
                    _ABANDON, run_id, "cancelled", None, sources_of(SYNC_RUN, "cancelled")
                )
                error = {"code": "cancelled", "message": "the sync was cancelled"}
                await connection.execute(_ABANDON_SOURCE, run.source_id, error)
        return await self.get(org_id, run_id)


async def sync_within(db: Database, org_id: UUID, source_id: UUID, job_id: UUID) -> UUID | None:
    """The run of a source that a job of another kind carries out itself; made when there is none.

    Returns:
        Its id, None when the source is gone.

    Raises:
        ConflictError: ``sync_in_progress``: another job's.
    """
    run_id = new_id()
    async with db.tenant(org_id) as connection:
        if await connection.fetchrow(_SOURCE, source_id) is None:
            return None
        active = await connection.fetchrow(_ACTIVE, source_id)
        if active is not None and active["job_id"] == job_id:
            return active["id"]
        await _refuse_second(connection, active)
        await connection.execute(
            _INSERT, run_id, org_id, source_id, job_id, "sync", "incremental", False, None
        )
    return run_id


async def _refuse_second(
    connection: PoolConnectionProxy[asyncpg.Record], active: asyncpg.Record | None
) -> None:
    """Answer 409 while a run is active; one whose job has ended is closed instead."""
    if active is None:
        return
    if active["job"] in {s.value for s in (JobStatus.QUEUED, JobStatus.RUNNING)} | {
        JobStatus.RETRY_WAIT.value
    }:
        raise ConflictError(
            f"sync {encode('syn', active['id'])} of this source is {active['status']}; "
            "wait for it, or cancel it first",
            code="sync_in_progress",
            sync_run_id=encode("syn", active["id"]),
        )
    status = "cancelled" if active["status"] == "pending" else "failed"
    error = {
        "code": "worker_lost",
        "message": "the job of this sync ended before it; the next sync mends what it left",
    }
    await connection.execute(_ABANDON, active["id"], status, error, sources_of(SYNC_RUN, status))
    await connection.execute(_ABANDON_SOURCE, active["source_id"], error)


def _may_sync(
    source: asyncpg.Record | None, source_id: UUID, principal: Principal
) -> asyncpg.Record:
    if source is None or principal.bind_realms((source["realm"],)) == ():
        raise NotFoundError(f"no source {encode('src', source_id)}; list the sources")
    if not source["enabled"]:
        raise ConflictError(
            f"source {source['name']!r} is disabled; enable it first", code="state_conflict"
        )
    if source["status"] == "draft":
        raise ConflictError(
            f"source {source['name']!r} is a draft; test its configuration first",
            code="state_conflict",
        )
    return source


def _found(row: asyncpg.Record | None, run_id: UUID) -> SyncRun:
    if row is None:
        raise NotFoundError(f"no sync {encode('syn', run_id)}; list the syncs of its source")
    return SyncRun(**dict(row))
