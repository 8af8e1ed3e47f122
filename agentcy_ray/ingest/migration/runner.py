"""The migration state machine: both engines → backfill → compare → cut over → done.

``run`` may be called as often as the job is claimed. It goes on at the cursor; the comparison is
made anew. Until the cut-over Basic answers and is complete; after it there is no way back.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import UUID

import structlog

from agentcy_ray.context.migration.records import Migration
from agentcy_ray.context.migration.router import ROUTE_SECS, EngineRouter, channel
from agentcy_ray.context.migration.store import Migrations, alone
from agentcy_ray.core.errors import (
    AgentcyError,
    CancelledByRequestError,
    LeaseLostError,
    StoreUnavailableError,
    Terminal,
)
from agentcy_ray.core.ids import encode
from agentcy_ray.ingest.migration.backfill import Backfill
from agentcy_ray.ingest.migration.verify import Verifier, differences_error
from agentcy_ray.jobs.records import Job, NewJob, Progress
from agentcy_ray.jobs.store import JobStore

if TYPE_CHECKING:
    from agentcy_ray.core.settings import Settings
    from agentcy_ray.jobs.worker import Beat
    from agentcy_ray.stores.bell import Bell
    from agentcy_ray.stores.objects import ObjectStore
    from agentcy_ray.stores.postgres import Database

JOB_KIND = "engine_migration"
PRIORITY = 4
ATTEMPTS = 50
"""A backfill takes hours and goes on where it was; a worker that dies is no reason to give up."""
KEPT = timedelta(days=7)
"""How long Basic keeps the rows of an organisation that has left it."""

_log = structlog.get_logger(__name__)


def no_probe(name: str) -> None:
    """The probe of ordinary runs: does nothing."""


def migration_job(org_id: UUID, migration_id: UUID) -> NewJob:
    """The job that carries a migration out."""
    return NewJob(
        org_id=org_id,
        kind=JOB_KIND,
        payload={"migration_id": str(migration_id)},
        priority=PRIORITY,
        max_attempts=ATTEMPTS,
        dedupe_key=JOB_KIND,
    )


class MigrationRunner:
    """Carries out migrations, and deletes what they leave behind."""

    def __init__(
        self,
        db: Database,
        router: EngineRouter,
        objects: ObjectStore,
        settings: Settings,
        *,
        bell: Bell | None = None,
        probe: Callable[[str], None] = no_probe,
        grace_secs: float = ROUTE_SECS,
    ) -> None:
        self._db = db
        self._router = router
        self._objects = objects
        self._folder = settings.state_dir / "ingest" / "migrations"
        self._bell = bell
        self._probe = probe
        self._grace_secs = grace_secs
        self._jobs = JobStore(db)
        self._migrations = Migrations(db)

    async def handle(self, job: Job, beat: Beat) -> None:
        """Do a job of kind ``engine_migration``: the migration, or the pruning after it."""
        migration_id = UUID(job.payload["migration_id"])
        if job.payload.get("step") == "prune":
            await self.prune(job.org_id, migration_id, beat)
        else:
            await self.run(job.org_id, migration_id, beat)

    async def run(self, org_id: UUID, migration_id: UUID, beat: Beat) -> None:
        """Carry a migration out, or go on with it; returns at once when it has ended.

        Raises:
            NotFoundError: there is none of that id.
            CancelledByRequestError: it was cancelled; Basic is as it was.
            LeaseLostError: another worker carries it out.
            ConflictError: ``migration_differs``.
            BackendError: a store failed; the next attempt goes on.
        """
        migration, epoch = await self._migrations.take(org_id, migration_id)
        try:
            await self._steps(migration, epoch, beat)
        except LeaseLostError:
            current = await self._migrations.get(org_id, migration_id)
            if current.status == "cancelled":
                raise CancelledByRequestError("the migration was cancelled") from None
            raise
        except Exception as error:
            await self._end(migration, epoch, error, beat)
            raise

    async def _steps(self, migration: Migration, epoch: int, beat: Beat) -> None:
        if migration.status in {"planned", "failed"}:
            migration = await self._begin(migration, epoch)
        if migration.status == "backfilling":
            await self._backfill(migration, epoch, beat)
            async with self._db.tenant(migration.org_id) as connection:
                moved = await self._migrations.move(
                    connection, migration.id, "verifying", epoch=epoch
                )
            migration = _moved(moved)
        if migration.status == "verifying":
            migration = await self._verify(migration, epoch, beat)
        if migration.status == "cutover":
            await self._finish(migration, epoch)

    async def _begin(self, migration: Migration, epoch: int) -> Migration:
        """Let every write from now on go to both engines."""
        await self._router.prepare()
        async with alone(self._db, migration.org_id) as connection:
            moved = await self._migrations.move(
                connection, migration.id, "backfilling", epoch=epoch
            )
        self._probe("begun")
        return _moved(moved)

    async def _backfill(self, migration: Migration, epoch: int, beat: Beat) -> None:
        folder = self._folder / migration.id.hex
        try:
            await Backfill(
                self._router.engines, self._objects, self._migrations, migration, epoch, beat,
                folder, self._probe,
            ).run()  # fmt: skip
        finally:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        self._probe("backfilled")

    async def _verify(self, migration: Migration, epoch: int, beat: Beat) -> Migration:
        verifier = Verifier(
            self._router.engines, self._migrations, migration, epoch, beat, self._probe
        )
        ours, suspects = await verifier.look()
        beat.check()
        async with alone(self._db, migration.org_id) as connection:
            same = await verifier.settle(connection, ours, suspects)
            beat.check()
            if same:
                self._probe("before_cut_over")
                migration = await self._migrations.cut_over(connection, migration, epoch)
        if not same:
            current = await self._migrations.get(migration.org_id, migration.id)
            raise differences_error(current.differences)
        return migration

    async def _finish(self, migration: Migration, epoch: int) -> None:
        """Tell everybody, wait until nobody can read Basic any more, then write to one engine."""
        self._router.expire(migration.org_id)
        await self._ring(migration, "cutover")
        self._probe("cut_over")
        await asyncio.sleep(self._grace_secs)
        later = NewJob(
            org_id=migration.org_id,
            kind=JOB_KIND,
            payload={"migration_id": str(migration.id), "step": "prune"},
            priority=PRIORITY,
            delay_secs=KEPT.total_seconds(),
            dedupe_key=f"{JOB_KIND}:prune",
        )
        async with alone(self._db, migration.org_id) as connection:
            _moved(await self._migrations.move(connection, migration.id, "done", epoch=epoch))
            await self._jobs.insert(connection, later)
        await self._ring(migration, "done")
        _log.info("engine_migrated", org=migration.org_id.hex, migration=migration.id.hex)

    async def prune(self, org_id: UUID, migration_id: UUID, beat: Beat) -> int:
        """Delete an organisation's rows from Basic, when it has left it; returns their number.

        Raises:
            CancelledByRequestError: a cancel was asked for.
            StoreUnavailableError: Basic does not answer.
        """
        migration = await self._migrations.get(org_id, migration_id)
        if migration.status != "done":
            return 0
        gone = 0
        async for rows in self._router.engines.leaving.drop(org_id):
            beat.check()
            gone += rows
            beat.progress(Progress(done=gone, unit="nodes", note="deleting what Basic has left"))
        await self._migrations.pruned(org_id, migration_id)
        return gone

    async def _end(self, migration: Migration, epoch: int, error: Exception, beat: Beat) -> None:
        """Record a failure that no further attempt can mend."""
        passing = not isinstance(error, Terminal) and not beat.last_attempt
        if passing and not isinstance(error, CancelledByRequestError):
            return
        status = "cancelled" if isinstance(error, CancelledByRequestError) else "failed"
        told = error if isinstance(error, AgentcyError) else AgentcyError(
            f"the migration met a fault of its own: {type(error).__name__}: {error}"
        )  # fmt: skip
        try:
            async with alone(self._db, migration.org_id) as connection:
                await self._migrations.move(
                    connection, migration.id, status, epoch=epoch, error=told.body()
                )
        except StoreUnavailableError as away:
            _log.warning("migration_end_not_recorded", reason=away.message)
            return
        await self._ring(migration, status)

    async def _ring(self, migration: Migration, status: str) -> None:
        if self._bell is not None:
            news = {"event": f"migration.{status}", "migration_id": encode("mig", migration.id)}
            await self._bell.ring(channel(migration.org_id), news)


def _moved(migration: Migration | None) -> Migration:
    if migration is None:
        raise LeaseLostError("the migration was moved on by somebody else; this worker stops")
    return migration
