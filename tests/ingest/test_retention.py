"""What was deleted at its source: hidden at once, kept for a while, then gone."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from agentcy_ray.core.errors import CancelledByRequestError
from agentcy_ray.ingest.retention import PRUNE_KIND, Retention, prune_job, purge_job
from agentcy_ray.jobs.postgres_queue import PostgresQueue
from agentcy_ray.jobs.records import Job, NewJob
from agentcy_ray.jobs.worker import Beat
from tests.ingest.harness import House
from tests.ingest.memory_source import chain


@dataclass
class Clock:
    """A clock that is set forward by hand."""

    ahead: timedelta = timedelta()

    def now(self) -> datetime:
        return datetime.now(UTC) + self.ahead


@dataclass
class Desk:
    """Hands jobs to ``Retention`` as a worker would."""

    house: House
    clock: Clock
    retention: Retention
    queue: PostgresQueue

    async def job(self, new: NewJob) -> Job:
        return await self.queue.enqueue(new)

    async def purge(self, beat: Beat | None = None) -> None:
        new = purge_job(self.house.org_id, self.house.source_id, 30)
        await self.retention.purge(await self.job(new), beat or Beat(1))

    async def prune(self) -> None:
        await self.retention.prune(await self.job(prune_job(self.house.org_id)), Beat(1))

    async def later(self) -> list[Job]:
        return await self.queue.store.list(self.house.org_id, kind=PRUNE_KIND)

    async def archived(self) -> int:
        """Chunks that are hidden and still there."""
        space = await self.house.stores.spaces.active(self.house.org_id)
        assert space is not None
        async with self.house.db.tenant(self.house.org_id) as connection:
            return await connection.fetchval(
                f"SELECT count(*) FROM {space.table_name} WHERE archived_at IS NOT NULL"
            )

    async def held(self) -> bool:
        """Whether the engine has anything of the source, hidden or not."""
        return await self.house.engine.holds(self.house.org_id, self.house.source_id)

    async def sql(self, statement: str, *args: object) -> None:
        async with self.house.db.tenant(self.house.org_id) as connection:
            await connection.execute(statement, *args)


@pytest.fixture
async def desk(house: House) -> Desk:
    house.source.graph = chain(30)
    assert (await house.sync()).status == "synced"
    clock = Clock()
    return Desk(
        house, clock, Retention(house.db, house.stores, clock),
        PostgresQueue(house.settings, house.db),
    )  # fmt: skip


async def test_a_purge_hides_all_and_its_remains_go_after_the_retention(desk: Desk) -> None:
    house = desk.house
    await desk.sql("DELETE FROM sources WHERE id = $1", house.source_id)
    beat = Beat(1)
    await desk.purge(beat)
    assert beat.latest is not None
    assert beat.latest.done == 30
    assert (await house.nodes(), await house.edges(), await house.chunks()) == ({}, {}, {})
    assert (await desk.held(), await desk.archived()) == (True, 30)
    await desk.purge()  # a second attempt finds nothing left to do
    (later,) = await desk.later()
    wait = later.run_after - later.created_at
    assert timedelta(days=30) < wait < timedelta(days=31)
    await desk.retention.prune(later, Beat(1))
    assert await desk.archived() == 30
    desk.clock.ahead = wait
    await desk.retention.prune(later, Beat(1))
    assert (await desk.held(), await desk.archived()) == (False, 0)


async def test_a_purge_that_is_called_off_asks_for_no_deletion(desk: Desk) -> None:
    beat = Beat(1)
    beat.cancelled = True
    with pytest.raises(CancelledByRequestError):
        await desk.purge(beat)
    assert await desk.later() == []


async def test_what_a_source_dropped_is_deleted_after_its_own_retention(desk: Desk) -> None:
    house = desk.house
    house.source.graph = chain(20)
    assert (await house.sync(mode="full", force=True)).counts["nodes"]["archived"] == 10
    await desk.sql("UPDATE sources SET retention_days = 7 WHERE id = $1", house.source_id)
    desk.clock.ahead = timedelta(days=6)
    await desk.prune()
    assert await desk.archived() == 10
    desk.clock.ahead = timedelta(days=8)
    await desk.prune()
    assert await desk.archived() == 0
    await house.assert_holds(house.source.graph)
    house.source.graph = chain(30)  # what was deleted may come back
    assert (await house.sync(mode="full")).status == "synced"
    await house.assert_holds(house.source.graph)


@pytest.mark.parametrize("busy", ["status", "row"])
async def test_a_source_that_is_synced_now_is_left_for_another_day(desk: Desk, busy: str) -> None:
    house = desk.house
    house.source.graph = chain(20)
    await house.sync(mode="full", force=True)
    desk.clock.ahead = timedelta(days=60)
    if busy == "status":
        await desk.sql("UPDATE sources SET status = 'publishing' WHERE id = $1", house.source_id)
        await desk.prune()
    else:
        async with house.db.tenant(house.org_id) as connection:
            await connection.execute("SELECT 1 FROM sources FOR UPDATE")
            await desk.prune()
    assert await desk.archived() == 10


async def test_pruning_one_source_leaves_the_others_alone(desk: Desk) -> None:
    house = desk.house
    house.source.graph = chain(20)
    await house.sync(mode="full", force=True)
    desk.clock.ahead = timedelta(days=60)
    stranger = NewJob(
        org_id=house.org_id,
        kind=PRUNE_KIND,
        payload={"source_id": str(UUID(int=7)), "retention_days": 1},
    )
    await desk.retention.prune(await desk.job(stranger), Beat(1))
    assert await desk.archived() == 10
