"""A swap that waits for its space has no worker, and goes on when that is filled or given up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import pytest

from agentcy_ray.core.errors import CancelledByRequestError, ConflictError, EmbedderUnavailableError
from agentcy_ray.core.settings import Settings
from agentcy_ray.ingest.swap.records import Swap, SwapOptions
from agentcy_ray.ingest.swap.runner import JOB_KIND, SwapRunner
from agentcy_ray.ingest.swap.store import Swaps
from agentcy_ray.jobs.postgres_queue import PostgresQueue
from agentcy_ray.jobs.records import Job, JobStatus
from agentcy_ray.jobs.worker import Beat, JobWorker
from agentcy_ray.retrieval.embedder import Embedder
from agentcy_ray.retrieval.space import Space
from agentcy_ray.stores.postgres import Database
from tests.ingest.backfill.filling import Models
from tests.ingest.swap.conftest import MakeSwapping
from tests.ingest.swap.swapping import Swapping, carriers, filled, scripted

LEASE = 30.0


@pytest.fixture(autouse=True)
async def no_other_swaps(db: Database) -> None:
    """Tests before this one have asked for swaps and carried them out without their jobs."""
    async with db.system() as connection:
        await connection.execute("DELETE FROM jobs WHERE kind = $1", JOB_KIND)


class Turns(PostgresQueue):
    """Says when a job of this process was laid by or ended."""

    def __init__(self, settings: Settings, db: Database) -> None:
        super().__init__(settings, db)
        self._settled = asyncio.Condition()

    async def settle(self, job: Job) -> None:
        async with self._settled:
            self._settled.notify_all()

    async def job_of(self, swap: Swap, wanted: JobStatus) -> Job:
        """The job of a swap once it is as wanted."""
        assert swap.job_id is not None
        async with asyncio.timeout(60), self._settled:
            while (job := await self.store.get(swap.org_id, swap.job_id)).status != wanted:
                await self._settled.wait()
        return job


@asynccontextmanager
async def one_slot(
    swapping: Swapping, queue: Turns, runner: SwapRunner | None = None
) -> AsyncGenerator[None]:
    """A worker that does one swap at a time, of any organisation."""
    runner = runner or carriers(swapping.house, swapping.bell, swapping.models)[0]
    stop = asyncio.Event()
    worker = JobWorker(queue, {JOB_KIND: runner.handle}, "w", swapping.house.settings)
    task = asyncio.create_task(worker.run(stop))
    try:
        yield
    finally:
        stop.set()
        await task


async def fill(swapping: Swapping, swap: Swap) -> None:
    runner, filler = carriers(swapping.house, swapping.bell, swapping.models)
    await filled(runner, filler, swap)


async def space_of(swapping: Swapping, swap: Swap) -> Space:
    to_space = (await swapping.now(swap)).to_space
    assert to_space is not None
    return await swapping.house.stores.spaces.get(swap.org_id, to_space)


async def turn(swapping: Swapping, queue: PostgresQueue) -> tuple[Job, Beat]:
    """One turn of the only swap's job, as a worker gives it; the job is not handed back yet."""
    job = await queue.claim("w", [JOB_KIND], LEASE)
    assert job is not None
    beat = Beat(job.epoch)
    beat.cancelled = job.cancel_requested
    await carriers(swapping.house, swapping.bell, swapping.models)[0].handle(job, beat)
    return job, beat


async def laid_by(swapping: Swapping, **options: Any) -> tuple[PostgresQueue, Swap, Job]:
    """A swap whose job has had its first turn and waits for the backfill."""
    queue = PostgresQueue(swapping.house.settings, swapping.house.db)
    swap = await swapping.plan(**options)
    job, beat = await turn(swapping, queue)
    assert beat.again_in is not None
    return queue, swap, await queue.lay_by(job, beat.again_in)


async def test_a_swap_whose_backfill_is_held_leaves_its_slot_to_other_swaps(
    make_swapping: MakeSwapping,
):
    held, other = await make_swapping(30), await make_swapping(30)
    queue = Turns(held.house.settings, held.house.db)
    async with one_slot(held, queue):
        first = await held.plan()
        await queue.job_of(first, JobStatus.RETRY_WAIT)
        space = await space_of(held, first)
        await held.desk.control(held.house.principal, space.id, "pause")
        shown = (await held.desk.swaps.get(held.org_id, first.id)).progress
        assert shown is not None
        assert shown.note == "paused: paused by request"

        second = await other.plan()
        await queue.job_of(second, JobStatus.RETRY_WAIT)
        await fill(other, second)
        await queue.job_of(second, JobStatus.SUCCEEDED)
        assert (await other.now(second)).status == "cut_over"

        assert (await held.now(first)).status == "backfilling"
        await held.desk.control(held.house.principal, space.id, "resume")
        await fill(held, first)
        job = await queue.job_of(first, JobStatus.SUCCEEDED)
        assert job.attempts == 1, "waiting is no attempt"
    assert (await held.now(first)).status == "cut_over"


@pytest.mark.parametrize("when", ["asleep", "lying down"])
async def test_the_end_of_a_backfill_wakes_its_swap_whatever_became_of_the_worker(
    make_swapping: MakeSwapping, when: str
):
    swapping = await make_swapping(30)
    queue = PostgresQueue(swapping.house.settings, swapping.house.db)
    swap = await swapping.plan()
    job, beat = await turn(swapping, queue)
    assert beat.again_in is not None
    if when == "lying down":  # after the look at the backfill, before the job is handed back
        await fill(swapping, swap)
        await queue.lay_by(job, beat.again_in)
    else:
        await queue.lay_by(job, beat.again_in)
        assert await queue.claim("w", [JOB_KIND], LEASE) is None
        await fill(swapping, swap)
    job, beat = await turn(swapping, queue)
    assert beat.again_in is None
    await queue.succeed(job)
    assert (await swapping.now(swap)).status == "cut_over"


async def test_a_backfill_that_is_cancelled_ends_the_swap_that_waits_for_it(
    make_swapping: MakeSwapping,
):
    swapping = await make_swapping(30)
    queue, swap, _ = await laid_by(swapping)
    space = await space_of(swapping, swap)
    await swapping.desk.control(swapping.house.principal, space.id, "cancel")
    with pytest.raises(ConflictError, match="swap again to begin anew"):
        await turn(swapping, queue)
    failed = await swapping.now(swap)
    assert (failed.status, failed.to_space) == ("failed", space.id)
    assert await swapping.statuses() == {
        swapping.old.info.reference: "active", swapping.new.info.reference: "failed",
    }  # fmt: skip


async def test_the_cancelled_job_of_a_waiting_swap_calls_the_swap_off(
    make_swapping: MakeSwapping,
):
    swapping = await make_swapping(30)
    queue, swap, job = await laid_by(swapping)
    asked = await queue.cancel(swapping.org_id, job.id)
    assert asked.open, "its handler hears of it first"
    with pytest.raises(CancelledByRequestError):
        await turn(swapping, queue)
    assert (await swapping.now(swap)).status == "cancelled"
    assert await swapping.statuses() == {
        swapping.old.info.reference: "active", swapping.new.info.reference: "failed",
    }  # fmt: skip


async def test_a_check_asked_for_before_the_former_turn_has_ended_has_one_of_its_own(
    make_swapping: MakeSwapping,
):
    swapping = await make_swapping(30)
    queue, swap, _ = await laid_by(swapping, activate=False)
    await fill(swapping, swap)
    job, _ = await turn(swapping, queue)
    assert (await swapping.now(swap)).status == "ready"
    await swapping.desk.swaps.check(swapping.house.principal, swap.id)
    await queue.succeed(job)
    job, _ = await turn(swapping, queue)
    await queue.succeed(job)
    assert (await swapping.now(swap)).status == "ready"


async def test_a_swap_that_is_called_off_while_its_space_is_made_leaves_none_behind(
    make_swapping: MakeSwapping,
):
    swapping = await make_swapping(30)
    swap = await swapping.plan()

    class Cancelling(Models):
        async def of(self, reference: str) -> Embedder:
            await swapping.desk.swaps.cancel(swapping.house.principal, swap.id)
            return await super().of(reference)

    runner, _ = carriers(swapping.house, swapping.bell, Cancelling(swapping.models.known))
    with pytest.raises(CancelledByRequestError):
        await runner.run(swapping.org_id, swap.id, Beat(1))
    assert (await swapping.statuses())[swapping.new.info.reference] == "failed"


async def test_a_space_that_a_swap_goes_to_is_not_dropped_and_a_swap_whose_space_is_gone_ends(
    make_swapping: MakeSwapping,
):
    swapping = await make_swapping(30)
    desk, principal = swapping.desk, swapping.house.principal
    first = await swapping.swap()
    await desk.swaps.rollback(principal)
    held = await swapping.swap(activate=False)
    assert (held.status, held.to_space) == ("ready", first.to_space)
    assert held.to_space is not None
    with pytest.raises(ConflictError, match="embed cancel"):
        await desk.drop(principal, held.to_space)
    await swapping.house.stores.spaces.drop(swapping.org_id, held.to_space)  # as upkeep does
    assert (await desk.swaps.cancel(principal, held.id)).swap.status == "cancelled"


async def test_there_is_no_way_back_to_a_space_that_was_dropped(make_swapping: MakeSwapping):
    swapping = await make_swapping(30)
    desk, principal = swapping.desk, swapping.house.principal
    swap = await swapping.swap()
    assert swap.from_space is not None
    await desk.drop(principal, swap.from_space)
    assert (await swapping.now(swap)).status == "done"
    with pytest.raises(ConflictError, match="there is no space to go back to"):
        await desk.swaps.rollback(principal)


async def test_a_space_that_nothing_fills_can_be_dropped(make_swapping: MakeSwapping):
    swapping = await make_swapping(30)
    desk, principal = swapping.desk, swapping.house.principal
    spaces = swapping.house.stores.spaces
    unfilled = await spaces.create(swapping.org_id, swapping.new.info)
    await swapping.backfills.start(swapping.org_id, unfilled.id)
    with pytest.raises(ConflictError):
        await desk.drop(principal, unfilled.id)
    await desk.control(principal, unfilled.id, "cancel")
    await desk.drop(principal, unfilled.id)
    unwanted = await spaces.create(swapping.org_id, swapping.new.info)
    await desk.drop(principal, unwanted.id)
    complete = await spaces.create(swapping.org_id, swapping.new.info)
    await spaces.ready(swapping.org_id, complete.id)
    await desk.drop(principal, complete.id)
    assert await swapping.statuses() == {swapping.old.info.reference: "active"}


async def test_a_roll_back_goes_to_what_answered_until_the_cut_over(make_swapping: MakeSwapping):
    swapping = await make_swapping(30)
    desk, principal, first = swapping.desk, swapping.house.principal, await swapping.active()
    second = await swapping.swap()
    assert second.status == "cut_over"
    third = scripted("dim=64,seed=9")
    swapping.models.known = {**swapping.models.known, third.info.reference: third}
    swapping.new = third
    held = await swapping.swap(activate=False, min_overlap=0, min_recall=0)
    assert (held.status, held.from_space) == ("ready", second.to_space)
    await desk.swaps.rollback(principal, second.id)
    assert held.to_space is not None
    await desk.activate(principal, held.to_space)
    assert (await desk.swaps.rollback(principal)).id == first.id


async def test_a_failed_swap_is_not_gone_on_with_beside_one_that_was_just_begun(
    make_swapping: MakeSwapping,
):
    swapping = await make_swapping(30)
    swaps, principal = swapping.desk.swaps, swapping.house.principal
    failed = await swapping.plan()
    async with swapping.house.db.tenant(swapping.org_id) as connection:
        await Swaps(swapping.house.db).move(connection, failed.id, "failed")

    class Late(Swaps):
        async def latest(self, org_id: UUID) -> Swap | None:
            found = await super().latest(org_id)
            async with self.db.tenant(org_id) as connection:  # somebody is a moment faster
                await self.insert(connection, org_id, "scripted:dim=64,seed=9", SwapOptions())
            return found

    swaps._swaps = Late(swapping.house.db)
    with pytest.raises(ConflictError, match="under way"):
        await swaps.start(principal, failed.model, SwapOptions())
    assert (await swapping.now(failed)).status == "failed"


async def test_a_swap_whose_model_is_away_says_so_until_it_is_back(make_swapping: MakeSwapping):
    swapping = await make_swapping(30)
    queue = Turns(swapping.house.settings, swapping.house.db)

    class Away(Models):
        async def of(self, reference: str) -> Embedder:
            raise EmbedderUnavailableError("the model restarts")

    runner, _ = carriers(swapping.house, swapping.bell, Away({}))
    async with one_slot(swapping, queue, runner):
        swap = await swapping.plan()
        job = await queue.job_of(swap, JobStatus.RETRY_WAIT)
    assert job.error is not None
    shown = (await swapping.desk.swaps.get(swapping.org_id, swap.id)).progress
    assert shown is not None
    assert shown.note == "tried again soon: the model restarts"
