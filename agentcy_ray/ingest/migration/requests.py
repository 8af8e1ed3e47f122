"""Asking for a migration, looking at it, calling it off."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from agentcy_ray.context.migration.records import OPEN, Migration
from agentcy_ray.context.migration.store import Migrations, alone, one_way, read_route
from agentcy_ray.core.errors import CapabilityError, ConflictError
from agentcy_ray.core.ids import encode
from agentcy_ray.ingest.migration.runner import KEPT, migration_job
from agentcy_ray.jobs.records import Job, Progress

if TYPE_CHECKING:
    from agentcy_ray.context.migration.records import EngineName
    from agentcy_ray.core.tenancy import Principal
    from agentcy_ray.jobs.queue import JobQueue
    from agentcy_ray.stores.postgres import Database

ADVANCED = "CONTEXT_ENGINE=advanced, KYMA_BASE_URL, KYMA_TOKEN, KYMA_DATABASE"


class MigrationState(BaseModel):
    """A migration with how far it is; ``progress`` while it works."""

    model_config = ConfigDict(frozen=True)

    migration: Migration
    progress: Progress | None = None
    prune_after: datetime | None = None
    """When its rows are deleted from Basic."""

    @property
    def open(self) -> bool:
        """Whether something may still happen to it by itself."""
        return self.migration.status in OPEN


class MigrationRequests:
    """What people and start-up ask of migrations."""

    def __init__(self, db: Database, queue: JobQueue, *, both: bool) -> None:
        """``both``: whether this install has a Basic and an Advanced engine."""
        self._db = db
        self._queue = queue
        self._both = both
        self._migrations = Migrations(db)

    async def start(self, principal: Principal, to: EngineName = "advanced") -> MigrationState:
        """Move the caller's organisation, or go on with a migration that failed.

        Raises:
            ConflictError: ``migration_one_way`` back to Basic or once it is on Advanced;
                ``state_conflict`` while a migration is under way.
            CapabilityError: this install has no Advanced engine to move to.
        """
        principal.require("engine.migrate")
        org_id = principal.org_id
        async with self._db.tenant(org_id) as connection:
            route = await read_route(connection, org_id, "basic")
        latest = await self._migrations.latest(org_id)
        if route.reads == "advanced":
            raise one_way(latest)
        if to == "basic":
            raise ConflictError("this organisation is on Basic already", code="state_conflict")
        if not self._both:
            raise CapabilityError(
                f"there is no Advanced engine to move to; set {ADVANCED}, and start again",
                capability="migration",
                engine="basic",
                set=ADVANCED,
            )
        return await self.plan(org_id, principal.user_id, latest)

    async def plan(
        self, org_id: UUID, user_id: UUID | None = None, latest: Migration | None = None
    ) -> MigrationState:
        """Ask for the job of a migration: of ``latest`` when it can go on, else of a new one.

        Raises:
            ConflictError: ``state_conflict``, one is under way.
        """
        if latest is not None and latest.status in OPEN:
            await self._refuse_open(latest)
        async with self._db.tenant(org_id) as connection:
            again = latest is not None and latest.status in {*OPEN, "failed"}
            planned = (
                latest
                if again and latest is not None
                else await self._migrations.insert(connection, org_id, user_id)
            )
            job = await self._queue.store.insert(connection, migration_job(org_id, planned.id))
            planned = await self._migrations.carried_by(connection, planned.id, job.id)
        await self._queue.announce(job)
        return MigrationState(migration=planned, progress=job.progress)

    async def _refuse_open(self, migration: Migration) -> None:
        job = await self._job(migration)
        if job is not None and job.open:
            raise ConflictError(
                f"migration {encode('mig', migration.id)} is {migration.status}; "
                "`agentcy engine status` shows it, `agentcy engine cancel` ends it",
                code="state_conflict",
                migration_id=encode("mig", migration.id),
            )

    async def get(self, org_id: UUID, migration_id: UUID) -> MigrationState:
        """One migration.

        Raises:
            NotFoundError: there is none of that id.
        """
        return await self._state(await self._migrations.get(org_id, migration_id))

    async def list(
        self, org_id: UUID, *, limit: int = 50, before: UUID | None = None
    ) -> list[Migration]:
        """Migrations of an organisation, newest first."""
        return await self._migrations.list(org_id, limit=limit, before=before)

    async def cancel(self, principal: Principal, migration_id: UUID) -> MigrationState:
        """Call a migration off before its cut-over; Basic goes on as if there had been none.

        Raises:
            NotFoundError: there is none of that id.
            ConflictError: ``migration_one_way`` after the cut-over, ``state_conflict`` when it
                has ended otherwise.
        """
        principal.require("engine.migrate")
        org_id = principal.org_id
        migration = await self._migrations.get(org_id, migration_id)
        _may_cancel(migration)
        job = await self._job(migration)
        if job is not None and job.open:  # first: it may hold what the move waits for
            await self._queue.cancel(org_id, job.id)
        error = {"code": "cancelled", "message": "the migration was cancelled", "details": {}}
        async with alone(self._db, org_id) as connection:
            moved = await self._migrations.move(connection, migration_id, "cancelled", error=error)
            if moved is None and job is not None:
                migration = await self._migrations.get(org_id, migration_id)
                if migration.status == "cutover":  # it was too late; somebody has to end it
                    await self._queue.store.insert(connection, migration_job(org_id, migration_id))
        if moved is None and migration.status != "cancelled":
            _may_cancel(migration)
        return await self.get(org_id, migration_id)

    async def _job(self, migration: Migration) -> Job | None:
        if migration.job_id is None:
            return None
        return await self._queue.store.get(migration.org_id, migration.job_id)

    async def _state(self, migration: Migration) -> MigrationState:
        job = await self._job(migration) if migration.status in OPEN else None
        over = migration.cut_over_at
        return MigrationState(
            migration=migration,
            progress=None if job is None else job.progress,
            prune_after=None if over is None or migration.pruned_at else over + KEPT,
        )


def _may_cancel(migration: Migration) -> None:
    if migration.status in {"cutover", "done"}:
        raise one_way(migration)
    if migration.status not in OPEN:
        raise ConflictError(
            f"migration {encode('mig', migration.id)} is {migration.status} already",
            code="state_conflict",
        )
