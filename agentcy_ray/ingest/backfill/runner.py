"""A backfill carried out: plan → blocks → refused texts → indexes → recall → the space is ready.

``handle`` may be called as often as the job is claimed; it goes on with what is not done. The row
says how the backfill stands; a worker looks at it every second and stops when it was paused,
cancelled or taken over, or when quiet hours begin.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol
from uuid import UUID

import structlog

from agentcy_ray.budgets.ledger import Ledger
from agentcy_ray.core.errors import (
    AgentcyError,
    BudgetExceededError,
    CancelledByRequestError,
    InvalidError,
    LeaseLostError,
    StoreUnavailableError,
    Terminal,
)
from agentcy_ray.core.ids import encode
from agentcy_ray.ingest.backfill.budget import SOFT, BlockBudget, stopped
from agentcy_ray.ingest.backfill.coordinator import Coordinator
from agentcy_ray.ingest.backfill.embedding import BlockEmbedder
from agentcy_ray.ingest.backfill.pace import Gauge, Pace
from agentcy_ray.ingest.backfill.plan import PATIENCE, HeldUpError, Planner
from agentcy_ray.ingest.backfill.quiet import quiet_until
from agentcy_ray.ingest.backfill.reading import Reader
from agentcy_ray.ingest.backfill.records import Backfill, Engine
from agentcy_ray.ingest.backfill.retry import retry_errors
from agentcy_ray.ingest.backfill.rows import BackfillRows, lost
from agentcy_ray.ingest.backfill.sink import Sink
from agentcy_ray.ingest.backfill.store import backfill_job
from agentcy_ray.ingest.backfill.work import Driver, Probe, Work
from agentcy_ray.jobs.records import Job
from agentcy_ray.jobs.store import JobStore
from agentcy_ray.retrieval.vector_backends import VectorBackends

if TYPE_CHECKING:
    from agentcy_ray.audit.log import AuditLog
    from agentcy_ray.core.settings import Settings
    from agentcy_ray.jobs.worker import Beat
    from agentcy_ray.retrieval.chunkers import Chunkers
    from agentcy_ray.retrieval.chunking import Chunker
    from agentcy_ray.retrieval.one_embedder import AnyEmbedders
    from agentcy_ray.retrieval.space import Space
    from agentcy_ray.retrieval.spaces import SpaceStore
    from agentcy_ray.stores.bell import Bell
    from agentcy_ray.stores.objects import ObjectStore
    from agentcy_ray.stores.postgres import Database

LOOK_SECS = 1.0
"""A pause or a cancel is seen at most this late."""
AGAIN_SECS = 1.0
"""Between two looks at blocks that a publish holds up."""
HELD_UP_SECS = 30.0
"""Without a worker, when a publish has held the rest up for long."""
ERROR_ATTEMPTS = 3
"""A refused text is tried so often, in one backfill."""

_log = structlog.get_logger(__name__)


class Finisher(Protocol):
    """What makes a filled space fit to be searched."""

    async def index(self, space: Space, tell: Callable[[str], None]) -> None:
        """Build all indexes; may be called again after it was cut off."""
        ...

    async def recall(self, space: Space) -> Mapping[str, Any]:
        """Figures of an index search against an exact one, as JSON."""
        ...


class _QuietError(Exception):
    """Quiet hours have begun; the backfill goes on at ``until``."""

    def __init__(self, until: datetime) -> None:
        super().__init__(until)
        self.until = until


def no_probe(name: str) -> None:
    """The probe of ordinary runs: does nothing."""


@dataclass(frozen=True)
class Backfiller:
    """Carries backfills out."""

    db: Database
    objects: ObjectStore
    spaces: SpaceStore
    embedders: AnyEmbedders
    chunkers: Chunkers
    finisher: Finisher
    settings: Settings
    drivers: Mapping[Engine, Driver]
    """Besides the coordinator, which is always there."""
    bell: Bell | None = None
    ledger: Ledger | None = None
    """Budgets; None where nobody keeps any."""
    backends: VectorBackends | None = None
    """Vectors that lie elsewhere; None = those that the settings name."""
    audit: AuditLog | None = None
    """Hears of hard stops of a budget."""
    patience: int = PATIENCE
    """Looks at what a publish holds up before the worker is given back."""
    probe: Probe = no_probe
    now: Callable[[], datetime] = lambda: datetime.now(UTC)

    def _vectors(self) -> VectorBackends:
        return self.backends or VectorBackends(self.settings)

    async def handle(self, job: Job, beat: Beat) -> None:
        """Do a job of kind ``embed_backfill``; returns at once when there is nothing to go on with.

        Where publishes hold it up for long, ``beat`` is told that it waits.

        Raises:
            CancelledByRequestError: it was paused or cancelled.
            LeaseLostError: another worker carries it out.
            AgentcyError: it failed (which is recorded) or, when the error is transient and attempts
                are left, waits to be gone on with.
        """
        rows = BackfillRows(self.db)
        backfill = await rows.take(job.org_id, UUID(job.payload["backfill_id"]), job.id)
        if backfill is None:
            beat.check()  # it was held or ended, and this job with it
            return
        folder = self.settings.state_dir / "ingest" / "backfills" / backfill.id.hex
        try:
            await self._watched(self._steps(rows, backfill, beat), rows, backfill, beat)
        except _QuietError as quiet:
            await self._requeue(rows, backfill, quiet.until)
        except HeldUpError:  # its row stays as it is, with the note that says so
            beat.lay_by(HELD_UP_SECS)
        except LeaseLostError:
            _, status = await rows.standing(backfill)
            if status in {"paused", "cancelled"}:
                raise CancelledByRequestError(f"the backfill was {status}") from None
            raise
        except Exception as error:
            if isinstance(error, BudgetExceededError) and error.code == SOFT:
                await self._hold(rows, backfill, error)
                return
            await self._end(rows, backfill, job.id, error, beat)
            raise
        finally:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    async def _steps(self, rows: BackfillRows, backfill: Backfill, beat: Beat) -> None:
        space = await self.spaces.get(backfill.org_id, backfill.space_id)
        embedder = await self.embedders.of(space.embedder)
        await embedder.embed([])  # one in other processes has to be up to know its name
        space.require(embedder.info)
        folder = self.settings.state_dir / "ingest" / "backfills" / backfill.id.hex
        chunker = self.chunkers.of(space.chunking)
        if backfill.phase == "planning":
            backfill = await self._plan(rows, backfill, beat)
        reader = Reader(self.db, self.objects, backfill.org_id, backfill.id, chunker, folder)
        work = Work(
            rows, backfill, space, reader,
            Sink(rows, backfill, space, reader.state, self._vectors()),
            BlockEmbedder(
                embedder, space.dim, Pace(backfill.options), self._budget(backfill, space)
            ),
            Gauge.of(backfill, beat),
            self.probe,
        )  # fmt: skip
        if backfill.phase in {"planning", "embedding"}:
            await self._blocks(work)
        await self._finish(work, chunker)

    async def _plan(self, rows: BackfillRows, backfill: Backfill, beat: Beat) -> Backfill:
        folder = self.settings.state_dir / "ingest" / "backfills" / backfill.id.hex
        planner = Planner(rows, self.objects, backfill, folder, beat.check, self.patience)
        await self.spaces.begin(backfill.org_id, backfill.space_id)
        if not backfill.blocks:
            await planner.begin()
        self.probe("begun")
        await planner.run()
        await rows.phase(backfill, "embedding")
        self.probe("planned")
        return await rows.get(backfill.org_id, backfill.id)

    async def _blocks(self, work: Work) -> None:
        """Drive open blocks until none is left; those that a publish changes wait for its end.

        Raises:
            HeldUpError: it takes long.
        """
        driver, looks = self._driver(work.backfill.engine), 0
        while sources := await work.reader.sources():
            done = await driver.run(work)
            looks = 0 if done else looks + 1
            if not done and await work.reader.sources():
                note = f"waiting for syncs of {len(sources)} sources to end"
                await work.rows.phase(work.backfill, "embedding", note)
                work.gauge.note(note)
                if looks >= self.patience:
                    raise HeldUpError
                await asyncio.sleep(AGAIN_SECS)
        self.probe("filled")

    def _budget(self, backfill: Backfill, space: Space) -> BlockBudget | None:
        return BlockBudget.of(self.ledger, backfill, space.embedder) if self.ledger else None

    def _driver(self, engine: Engine) -> Driver:
        driver = Coordinator() if engine == "coordinator" else self.drivers.get(engine)
        if driver is None:
            raise InvalidError(
                f"engine {engine!r} is not to be had in this process; use coordinator",
                errors=[{"loc": ["engine"], "message": "not available"}],
            )
        return driver

    async def _finish(self, work: Work, chunker: Chunker) -> None:
        rows, backfill, space = work.rows, work.backfill, work.space
        await rows.phase(backfill, "retrying")
        left = await retry_errors(work, chunker, ERROR_ATTEMPTS)
        await rows.phase(backfill, "indexing")
        await self.finisher.index(space, work.gauge.note)
        self.probe("indexed")
        await rows.phase(backfill, "checking")
        recall = dict(await self.finisher.recall(space))
        await rows.recalled(backfill, recall)
        self.probe("checked")
        if (await self.spaces.get(backfill.org_id, space.id)).status == "building":
            await self.spaces.ready(backfill.org_id, space.id)
        async with self.db.tenant(backfill.org_id) as connection:
            moved = await rows.move(connection, backfill.id, "done", epoch=backfill.epoch)
        if moved is None:
            raise lost(backfill)
        await self._ring(backfill, "done")
        _log.info("backfilled", backfill=backfill.id.hex, chunks=moved.chunks, refused=left)

    async def _watched(
        self, work: Awaitable[None], rows: BackfillRows, backfill: Backfill, beat: Beat
    ) -> None:
        """Await ``work``, cut off when the backfill is no longer to be worked on."""
        working = asyncio.ensure_future(work)
        watching = asyncio.create_task(self._watch(rows, backfill, beat))
        try:
            await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                watching.result()  # raises
            await working
        finally:
            for task in (working, watching):
                task.cancel()
            await asyncio.wait({working, watching})

    async def _watch(self, rows: BackfillRows, backfill: Backfill, beat: Beat) -> None:
        while True:
            beat.check()
            until = quiet_until(backfill.options.quiet, self.now())
            if until is not None:
                raise _QuietError(until)
            try:
                epoch, status = await rows.standing(backfill)
                if epoch != backfill.epoch or status not in {"running", "done"}:
                    raise lost(backfill)  # done is its own work, which only tells of it yet
            except StoreUnavailableError as error:  # every write is fenced, so waiting is safe
                _log.warning("backfill_not_watched", reason=error.message)
            await asyncio.sleep(LOOK_SECS)

    async def _requeue(self, rows: BackfillRows, backfill: Backfill, until: datetime) -> None:
        """Give the worker back until quiet hours are over."""
        secs = max(0.0, (until - self.now()).total_seconds())
        new = backfill_job(backfill.org_id, backfill.id, delay_secs=secs)
        async with self.db.tenant(backfill.org_id) as connection:
            note = f"quiet hours until {until:%Y-%m-%d %H:%M} UTC"
            moved = await rows.move(
                connection, backfill.id, "queued", epoch=backfill.epoch, note=note
            )
            if moved is not None:  # the reconciler spreads the news of the job
                job = await JobStore(self.db).insert(connection, new)
                await rows.carried_by(connection, backfill.id, job.id)

    async def _hold(
        self, rows: BackfillRows, backfill: Backfill, error: BudgetExceededError
    ) -> None:
        """Wait for a person at a soft limit; the worker is free meanwhile."""
        async with self.db.tenant(backfill.org_id) as connection:
            await rows.move(
                connection, backfill.id, "paused", epoch=backfill.epoch,
                note="waits at a soft limit of its budget", error=error.body(),
            )  # fmt: skip
        await self._ring(backfill, "paused")

    async def _end(
        self, rows: BackfillRows, backfill: Backfill, job_id: UUID, error: Exception, beat: Beat
    ) -> None:
        """Record a failure that no further attempt can mend, or a job that was cancelled.

        Not of a backfill that was held and gone on with meanwhile: another job carries it then.
        What another attempt may mend is noted, for whoever sees nothing go on until then.
        """
        cancelled = isinstance(error, CancelledByRequestError)
        told = error if isinstance(error, AgentcyError) else AgentcyError(
            f"the backfill met a fault of its own: {type(error).__name__}: {error}"
        )  # fmt: skip
        try:
            if not cancelled and not isinstance(error, Terminal) and not beat.last_attempt:
                await rows.noted(backfill, f"tried again soon: {told.message}")
                return
            if isinstance(told, BudgetExceededError) and self.audit is not None:
                await self.audit.append(stopped(backfill, told))
            async with self.db.tenant(backfill.org_id) as connection:
                await rows.move(
                    connection, backfill.id, "paused" if cancelled else "failed",
                    epoch=backfill.epoch, job_id=job_id,
                    note="its job was cancelled" if cancelled else "",
                    error=None if cancelled else told.body(),
                )  # fmt: skip
        except StoreUnavailableError as away:
            _log.warning("backfill_end_not_recorded", reason=away.message)
            return
        await self._ring(backfill, "paused" if cancelled else "failed")

    async def _ring(self, backfill: Backfill, status: str) -> None:
        if self.bell is not None:
            news = {
                "event": f"backfill.{status}",
                "backfill_id": encode("bkf", backfill.id),
                "space_id": encode("spc", backfill.space_id),
            }
            await self.bell.ring(f"ch:jobs:{backfill.org_id.hex}", news)
