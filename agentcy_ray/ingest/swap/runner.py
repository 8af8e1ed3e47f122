"""The swap state machine: new space → backfill → check → cut over, or wait in ``ready``.

``run`` may be called as often as the job is claimed: each step looks at what an earlier attempt
left. While the backfill goes on, or is held, the job waits without a worker (``Beat.lay_by``); the
end of the backfill wakes it. Until the cut-over the former space answers and is written; after it,
for its grace.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

import structlog

from agentcy_ray.core.errors import (
    AgentcyError,
    CancelledByRequestError,
    ConflictError,
    LeaseLostError,
    StoreUnavailableError,
    Terminal,
)
from agentcy_ray.core.ids import encode
from agentcy_ray.ingest.backfill.records import OPEN as FILLING
from agentcy_ray.ingest.swap.coverage import Mender
from agentcy_ray.ingest.swap.giving_up import give_up
from agentcy_ray.ingest.swap.records import WORKING, Gate, Swap
from agentcy_ray.ingest.swap.store import Swaps, lost
from agentcy_ray.jobs.records import Job, NewJob, Progress
from agentcy_ray.jobs.store import JobStore
from agentcy_ray.retrieval.space import chunking_signature

if TYPE_CHECKING:
    from agentcy_ray.core.settings import Settings
    from agentcy_ray.ingest.backfill.records import Backfill
    from agentcy_ray.ingest.backfill.store import BackfillStore
    from agentcy_ray.ingest.swap.gate import GateCheck
    from agentcy_ray.ingest.swap.switch import Switch
    from agentcy_ray.jobs.worker import Beat
    from agentcy_ray.retrieval.embedder import EmbedderInfo
    from agentcy_ray.retrieval.index import VectorIndex
    from agentcy_ray.retrieval.one_embedder import AnyEmbedders
    from agentcy_ray.retrieval.spaces import Space, SpaceStore
    from agentcy_ray.stores.bell import Bell
    from agentcy_ray.stores.postgres import Database

JOB_KIND = "embed_swap"
PRIORITY = 4
ATTEMPTS = 50
"""A swap waits for hours and goes on where it was; a worker that dies is no reason to give up."""
LOOK_SECS = 300.0
"""Between two looks at a backfill that goes on; its end is no matter of looking."""

_log = structlog.get_logger(__name__)


def no_probe(name: str) -> None:
    """The probe of ordinary runs: does nothing."""


def swap_job(org_id: UUID, swap_id: UUID) -> NewJob:
    """The job that carries a swap on.

    Whoever asks for one has moved the swap, which one of two can; so it needs no key to be the only
    one, and is a job of its own where the one before has not quite ended.
    """
    return NewJob(
        org_id=org_id,
        kind=JOB_KIND,
        payload={"swap_id": str(swap_id)},
        priority=PRIORITY,
        max_attempts=ATTEMPTS,
    )


@dataclass(frozen=True)
class SwapRunner:
    """Carries swaps out."""

    db: Database
    spaces: SpaceStore
    index: VectorIndex
    embedders: AnyEmbedders
    backfills: BackfillStore
    gate: GateCheck
    switch: Switch
    settings: Settings
    bell: Bell
    probe: Callable[[str], None] = no_probe

    async def handle(self, job: Job, beat: Beat) -> None:
        """Do a job of kind ``embed_swap``."""
        await self.run(job.org_id, UUID(job.payload["swap_id"]), beat)

    async def run(self, org_id: UUID, swap_id: UUID, beat: Beat) -> None:
        """Carry a swap on until it is cut over or waits; returns at once when it has ended.

        Where it waits for its backfill, ``beat`` is told so.

        Raises:
            NotFoundError: there is none of that id.
            CancelledByRequestError: it was cancelled; the former space answers as before.
            LeaseLostError: another worker carries it out.
            ConflictError: the organisation has such a space already.
            AgentcyError: it failed (which is recorded) or, when the error is transient and
                attempts are left, waits to be gone on with.
        """
        swaps = Swaps(self.db)
        swap, epoch = await swaps.take(org_id, swap_id)
        if swap.status == "cancelled":
            raise CancelledByRequestError("the swap was cancelled")
        try:
            await _Attempt(self, swaps, epoch, beat).steps(swap)
        except LeaseLostError:
            current = await swaps.get(org_id, swap_id)
            if current.status == "cancelled":
                await give_up(self.spaces, self.backfills, current)  # made while it was called off
                raise CancelledByRequestError("the swap was cancelled") from None
            if current.status != "cut_over":  # somebody forced it meanwhile: all is done
                raise
        except Exception as error:
            await self._end(swaps, swap, epoch, error, beat)
            raise

    async def _end(
        self, swaps: Swaps, swap: Swap, epoch: int, error: Exception, beat: Beat
    ) -> None:
        """Record a failure that no further attempt can mend; of another, what it waits for."""
        called_off = isinstance(error, CancelledByRequestError)
        told = error if isinstance(error, AgentcyError) else AgentcyError(
            f"the swap met a fault of its own: {type(error).__name__}: {error}"
        )  # fmt: skip
        if not called_off and not isinstance(error, Terminal) and not beat.last_attempt:
            beat.progress(Progress(note=f"tried again soon: {told.message}"))
            return
        status = "cancelled" if called_off else "failed"
        try:
            async with self.db.tenant(swap.org_id) as connection:
                ended = await swaps.move(
                    connection, swap.id, status, epoch=epoch, error=told.body()
                )
            if called_off and ended is not None:
                await give_up(self.spaces, self.backfills, ended)
        except StoreUnavailableError as away:
            _log.warning("swap_end_not_recorded", reason=away.message)
            return
        await ring(self.bell, swap, status)


@dataclass(frozen=True)
class _Attempt:
    """One claim of a swap's job."""

    runner: SwapRunner
    swaps: Swaps
    epoch: int
    beat: Beat

    async def steps(self, swap: Swap) -> None:
        """Go on from where the swap is."""
        self.beat.check()
        if swap.status == "backfilling":
            await self._heard(swap)
        if swap.status == "planned" or not await self._stands(swap):
            swap = await self._begin(swap)
        if swap.status == "backfilling":
            swap = await self._fill(swap)
        if swap.status == "checking":
            await self._settle(swap)

    async def _begin(self, swap: Swap) -> Swap:
        """Make the space, or find the one of an earlier attempt, which may be complete."""
        run = self.runner
        embedder = await run.embedders.of(swap.model)
        await embedder.embed([])  # one in other processes has to be up to know its name
        former = await run.spaces.active(swap.org_id)
        if former is None:
            space = await run.spaces.ensure_active(swap.org_id, embedder.info)
        else:
            space = await self._space(swap, embedder.info)
        swap = await self.swaps.between(
            swap, self.epoch, None if former is None else former.id, space.id
        )
        if swap.status not in WORKING:
            raise lost(swap.id)  # called off meanwhile; the space is named, and so given up
        run.probe("space")
        return await self._move(swap, "backfilling") if swap.status == "planned" else swap

    async def _stands(self, swap: Swap) -> bool:
        """Whether there is a space to fill; one that failed before is gone on with anew."""
        if swap.status != "backfilling":
            return True
        spaces = await self.runner.spaces.list(swap.org_id)
        return any(space.id == swap.to_space and space.status != "failed" for space in spaces)

    async def _space(self, swap: Swap, info: EmbedderInfo) -> Space:
        """The space that is to answer: one that is complete already, or a new one."""
        run = self.runner
        written = {space.id for space in await run.spaces.writable(swap.org_id)}
        for space in await run.spaces.list(swap.org_id):
            same = (
                space.embedder == info.reference
                and space.signature == info.signature
                and space.revision == info.revision
                and space.chunking == chunking_signature(run.settings)
                and space.backend == run.settings.vector_backend
                and swap.options.storage in {None, space.storage}
            )
            if same and space.status == "active":
                raise ConflictError(
                    f"{encode('spc', space.id)} of {info.reference} answers already; "
                    "there is nothing to swap",
                    code="space_active",
                    space=encode("spc", space.id),
                )
            if same and space.status == "retired" and space.id not in written:
                await run.spaces.drop(swap.org_id, space.id)  # its grace is over
            elif same and space.status in {"ready", "retired"}:
                return space
        return await run.spaces.create(swap.org_id, info, storage=swap.options.storage)

    async def _heard(self, swap: Swap) -> None:
        """Raise what the backfill came to for which this job has waited, unless it is done.

        One that had ended before the job was asked for is begun anew, or gone on with.
        """
        if swap.to_space is None or swap.job_id is None:
            return
        latest = await self.runner.backfills.list(swap.org_id, space_id=swap.to_space, limit=1)
        if latest and latest[0].ended_at is not None:
            asked = await JobStore(self.runner.db).get(swap.org_id, swap.job_id)
            if latest[0].ended_at > asked.created_at:
                _require_done(latest[0])

    async def _fill(self, swap: Swap) -> Swap:
        """Go on when the space is filled, else wait; the backfill is started where none is."""
        run, space = self.runner, await self._to(swap)
        if space.status == "building":
            started = await self._backfill(swap, space)
            run.probe("filling")
            backfill = await run.backfills.settled(swap.org_id, started.id)
            if backfill.status in FILLING:
                self.beat.check()
                self.beat.progress(progress_of(backfill))
                self.beat.lay_by(LOOK_SECS)
                return swap
            _require_done(backfill)
        run.probe("filled")
        return await self._move(swap, "checking")

    async def _backfill(self, swap: Swap, space: Space) -> Backfill:
        """The backfill of the space: the one under way, a failed one gone on with, or a new one."""
        store = self.runner.backfills
        latest = await store.list(swap.org_id, space_id=space.id, limit=1)
        if latest and latest[0].status in {"queued", "running", "paused", "done"}:
            return latest[0]
        return await store.start(
            swap.org_id,
            space.id,
            engine=swap.options.engine,
            options=swap.options.backfill,
            user_id=swap.created_by,
        )

    async def _settle(self, swap: Swap) -> None:
        """Take the figures, then cut over or wait for somebody."""
        run, options = self.runner, swap.options
        space = await self._to(swap)
        if space.status == "active":  # a first space: nothing to compare it with
            await self._move(await self._move(swap, "cut_over"), "done")
            return
        gate = await self._check(swap, space)
        run.probe("checked")
        if options.force or (options.activate and gate.passed):
            self.beat.check()
            await run.switch.to(
                swap.org_id, space.id, user_id=swap.created_by, force=options.force,
                epoch=self.epoch,
            )  # fmt: skip
            run.probe("cut_over")
            await ring(run.bell, swap, "cut_over")
            _log.info("embedding_model_swapped", org=swap.org_id.hex, model=swap.model)
        else:
            reason = "; ".join(gate.refused) or "it may be activated"
            await self._move(swap, "ready", reason=reason)

    async def _check(self, swap: Swap, space: Space) -> Gate:
        run = self.runner
        former = await run.spaces.active(swap.org_id)
        if former is None:
            raise ConflictError("no space answers that the new one could be compared with")
        self.beat.progress(Progress(unit="queries", note="comparing the spaces"))
        mender = Mender(run.db, run.index, await run.embedders.of(space.embedder), self.beat.check)
        gate = await run.gate.run(mender, former, space, swap.options)
        await self.swaps.checked(swap, self.epoch, gate)
        return gate

    async def _to(self, swap: Swap) -> Space:
        if swap.to_space is None:
            raise ConflictError(f"swap {encode('swp', swap.id)} has no space yet; cancel it")
        return await self.runner.spaces.get(swap.org_id, swap.to_space)

    async def _move(self, swap: Swap, status: Any, *, reason: str | None = None) -> Swap:
        async with self.runner.db.tenant(swap.org_id) as connection:
            moved = await self.swaps.move(
                connection, swap.id, status, epoch=self.epoch, reason=reason
            )
        if moved is None:
            raise lost(swap.id)
        self.runner.probe(status)
        await ring(self.runner.bell, swap, status)
        return moved


async def ring(bell: Bell, swap: Swap, status: str) -> None:
    """Tell whoever follows a swap."""
    news = {"event": f"swap.{status}", "swap_id": encode("swp", swap.id)}
    await bell.ring(f"ch:jobs:{swap.org_id.hex}", news)


def progress_of(backfill: Backfill) -> Progress:
    """How far a swap is while its space is filled."""
    held = f"paused{': ' if backfill.note else ''}{backfill.note}"
    return Progress(
        done=backfill.chunks,
        total=backfill.total,
        unit="chunks",
        rate=backfill.chunks_per_s,
        eta_secs=backfill.eta_secs,
        note=held if backfill.status == "paused" else backfill.note or backfill.phase,
    )


def _require_done(backfill: Backfill) -> None:
    if backfill.status == "done":
        return
    why = (backfill.error or {}).get("message", "")
    raise ConflictError(
        f"backfill {encode('bkf', backfill.id)} {backfill.status}{': ' if why else ''}{why}; "
        + (
            "swap again to go on with it"
            if backfill.status == "failed"
            else "swap again to begin anew"
        ),
        code="state_conflict",
        backfill_id=encode("bkf", backfill.id),
    )
