"""The sync state machine: lease → extract → package → plan → publish → commit.

``run`` may be called for one sync run as often as its job is claimed. What was not published is
begun again; a publish that was cut off is resumed from its cursor. Until the final transaction the
source's cursors and its current package are untouched.
"""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

import structlog

from agentcy_ray.core.errors import (
    AgentcyError,
    CancelledByRequestError,
    LeaseLostError,
    StoreUnavailableError,
    Terminal,
)
from agentcy_ray.core.ids import encode
from agentcy_ray.ingest import transitions
from agentcy_ray.ingest.extract import OpenSource
from agentcy_ray.ingest.fence import Lease, acquire
from agentcy_ray.ingest.graph_publish import Probe
from agentcy_ray.ingest.prepare import Attempt, Preparer, Publication
from agentcy_ray.ingest.progress import Beats, Meter
from agentcy_ray.ingest.publish import Stores, publish
from agentcy_ray.ingest.spool import full_disk_is_typed

if TYPE_CHECKING:
    from agentcy_ray.core.settings import Settings
    from agentcy_ray.stores.bell import Bell
    from agentcy_ray.stores.objects import ObjectStore
    from agentcy_ray.stores.postgres import Database

_log = structlog.get_logger(__name__)


def no_probe(name: str) -> None:
    """The probe of ordinary runs: does nothing."""


class SyncRunner:
    """Carries out sync runs."""

    def __init__(
        self,
        db: Database,
        objects: ObjectStore,
        stores: Stores,
        open_source: OpenSource,
        settings: Settings,
        *,
        bell: Bell | None = None,
        probe: Probe = no_probe,
    ) -> None:
        self._db = db
        self._stores = stores
        self._settings = settings
        self._prepare = Preparer(objects, open_source, settings, probe)
        self._bell = bell
        self._probe = probe

    async def run(self, org_id: UUID, run_id: UUID, owner: str, beat: Beats) -> None:
        """Carry out a sync run, or go on with it; returns at once when it has ended.

        Args:
            org_id: the organisation.
            run_id: the run.
            owner: name of the worker, for people.
            beat: the job that carries the run; ``beat.epoch`` grows with each claim.

        Raises:
            NotFoundError: no such run; its source may have been deleted.
            ConflictError: ``sync_in_progress``, a live owner holds the source.
            LeaseLostError: a newer owner has taken over; this one wrote nothing since.
            AgentcyError: the run failed (it is recorded) or, when the error is transient and
                attempts are left, waits to be gone on with.
        """
        source_id = await transitions.source_of(self._db, org_id, run_id)
        engine = await self._stores.engine.capabilities_of(org_id)
        taken = await acquire(
            self._db,
            org_id,
            source_id,
            run_id,
            owner=owner,
            claim=beat.epoch,
            secs=self._settings.job_lease_secs,
            engine_lock=f"agentcy.engine.{engine.engine}" if engine.writers == "one" else None,
        )
        if taken is None:
            return
        lease, status = taken
        self._probe("leased")
        work = asyncio.create_task(self._attempt(lease, status, beat))
        keeper = asyncio.create_task(lease.keep())
        try:
            await asyncio.wait({work, keeper}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                keeper.result()  # raises: the lease is lost
            await work
        except LeaseLostError:
            raise
        except Exception as error:
            await self._end(lease, error, beat)
            raise
        finally:
            for task in (work, keeper):
                if not task.done():
                    task.cancel()
                    await asyncio.wait({task})

    async def _end(self, lease: Lease, error: Exception, beat: Beats) -> None:
        """Record a failure, or leave the run to the next attempt, which the job queue decides."""
        try:
            if isinstance(error, CancelledByRequestError):
                await transitions.end_badly(lease, "cancelled", error)
            elif isinstance(error, Terminal) or beat.last_attempt:
                await transitions.end_badly(lease, "failed", _typed(error))
            else:
                await transitions.give_back(lease)
        except StoreUnavailableError as away:
            _log.warning("sync_end_not_recorded", run=str(lease.run_id), reason=away.message)

    async def _attempt(self, lease: Lease, status: str, beat: Beats) -> None:
        folder = self._settings.state_dir / "ingest" / lease.source_id.hex / f"{lease.epoch}"
        try:
            with full_disk_is_typed():
                await asyncio.to_thread(_fresh, folder)
            facts = await transitions.read_facts(lease)
            attempt = Attempt(lease, facts, beat, Meter(beat), folder)
            if status == "publishing":
                publication = await self._prepare.resume(attempt)
            elif facts.kind == "revert":
                publication = await self._prepare.revert(attempt)
            else:
                publication = await self._prepare.extract(attempt)
            await self._publish(attempt, publication)
        finally:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    async def _publish(self, attempt: Attempt, publication: Publication) -> None:
        lease, meter = attempt.lease, attempt.meter
        self._probe("publishing")
        made = await publish(
            self._stores,
            lease,
            publication.plan,
            attempt.facts.publish_cursor,
            at=attempt.facts.started_at,
            batch_rows=self._settings.pipeline_batch_size,
            meter=meter,
            probe=self._probe,
        )
        self._probe("before_commit")
        async with lease.hold() as connection:
            await transitions.commit(
                connection,
                lease,
                package_id=publication.package_id,
                cursors=publication.cursors,
                counts={**publication.counts, **made, "seconds": meter.seconds()},
            )
        self._probe("committed")
        if self._bell is not None:
            news = {
                "event": "source.synced",
                "source_id": encode("src", lease.source_id),
                "sync_run_id": encode("syn", lease.run_id),
            }
            await self._bell.ring(f"ch:graph:{lease.org_id.hex}", news)


def _typed(error: Exception) -> AgentcyError:
    if isinstance(error, AgentcyError):
        return error
    return AgentcyError(f"the sync met a fault of its own: {type(error).__name__}: {error}")


def _fresh(folder: Path) -> None:
    """An empty folder of this attempt; those of earlier attempts at the source are removed."""
    if folder.parent.exists():
        for other in folder.parent.iterdir():
            if other != folder:
                shutil.rmtree(other, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
