"""One sync at a time per source: leases, epochs, turns, and calling a sync off."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest

from agentcy_ray.core.errors import (
    CancelledByRequestError,
    ConflictError,
    LeaseLostError,
)
from agentcy_ray.ingest.fence import Lease
from agentcy_ray.jobs.worker import Beat
from tests.ingest.harness import House
from tests.ingest.memory_source import MemorySource, chain

A = ("Item", "a")


@pytest.mark.requirement("ING-03")
async def test_a_second_request_is_refused_while_a_sync_is_open(house: House):
    run = await house.request()
    with pytest.raises(ConflictError) as caught:
        await house.request()
    assert caught.value.code == "sync_in_progress"
    await house.carry_out(run)
    assert (await house.sync()).status == "synced"


@pytest.mark.requirement("ING-03")
@pytest.mark.parametrize("stage", ["extracted", "uploaded", "nodes_batch", "vectors_batch",
                                   "edges_done", "before_commit"])  # fmt: skip
async def test_an_owner_that_was_displaced_writes_nothing_more(
    house: House, stage: str, monkeypatch
):
    house.source.graph = chain(250)
    run = await house.request()
    displaced: list[asyncio.Future[None]] = []
    hold = Lease.hold

    async def displace() -> None:
        async with house.db.system() as connection:
            await connection.execute(
                "UPDATE source_leases SET epoch = epoch + 1 WHERE source_id = $1", house.source_id
            )

    @asynccontextmanager
    async def hold_after(lease, **how):
        if displaced:
            await displaced[0]
        async with hold(lease, **how) as connection:
            if displaced and displaced[0].done():
                raise AssertionError("the former owner may write")
            yield connection

    def probe(name: str) -> None:
        if name == stage and not displaced:
            displaced.append(asyncio.ensure_future(displace()))

    monkeypatch.setattr(Lease, "hold", hold_after)
    with pytest.raises(LeaseLostError):
        await house.carry_out(run, probe=probe)
    monkeypatch.undo()
    left = await house.syncs.get(house.org_id, run.id)
    assert left.status in {"running", "publishing"}, "its new owner decides"
    assert (await house.row())["current_package_id"] is None
    assert (await house.carry_out(run)).status == "synced"
    await house.assert_holds(house.source.graph)


async def test_a_live_owner_keeps_its_source(house: House):
    run = await house.request()
    house.source.graph = chain(5)
    refused: list[str] = []

    async def second() -> None:
        try:
            await house.runner().run(house.org_id, run.id, "other", Beat(0))
        except ConflictError as error:
            refused.append(error.code)

    tasks: list[asyncio.Future[None]] = []
    house.source.on_item = lambda: tasks.append(asyncio.ensure_future(second()))
    await house.carry_out(run)
    await asyncio.gather(*tasks)
    assert set(refused) == {"sync_in_progress"}


@pytest.mark.requirement("CTX-12")
async def test_syncs_of_two_sources_take_turns_at_one_engine(make_house, monkeypatch):
    houses: list[House] = [await make_house(MemorySource(graph=chain(400))) for _ in range(2)]
    if houses[0].engine.capabilities.writers == "many":
        pytest.skip("its writers need not take turns")
    inside: set[object] = set()
    turns: list[object] = []
    hold = Lease.hold

    @asynccontextmanager
    async def watched(lease, *, engine=False):
        async with hold(lease, engine=engine) as connection:
            if not engine:
                yield connection
                return
            inside.add(lease.source_id)
            turns.append(lease.source_id)
            assert len(inside) == 1, "two writers at once"
            yield connection
            inside.discard(lease.source_id)

    monkeypatch.setattr(Lease, "hold", watched)
    await asyncio.gather(*(house.sync() for house in houses))
    monkeypatch.undo()
    assert set(turns) == {house.source_id for house in houses}
    for house in houses:
        await house.assert_holds(house.source.graph)


async def test_a_cancel_stops_the_extract_and_leaves_everything(house: House):
    house.source.graph = chain(30)
    await house.sync()
    old = house.source.graph.copy()
    house.source.graph.nodes[A] = {"name": "a"}
    run = await house.request()
    beat = Beat(99)
    house.source.on_item = lambda: setattr(beat, "cancelled", True)
    with pytest.raises(CancelledByRequestError):
        await house.carry_out(run, beat=beat)
    assert (await house.syncs.get(house.org_id, run.id)).status == "cancelled"
    await house.assert_holds(old)


async def test_a_waiting_sync_can_be_cancelled_and_another_asked_for(house: House):
    run = await house.request()
    assert (await house.syncs.cancel(house.org_id, run.id)).status == "cancelled"
    with pytest.raises(ConflictError):
        await house.syncs.cancel(house.org_id, run.id)
    assert (await house.sync()).status == "synced"
