"""Who starts a migration, who may call it off, and why nobody comes back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from agentcy_ray.context.engine import Query, Scope
from agentcy_ray.core.errors import CancelledByRequestError, ConflictError
from agentcy_ray.ingest.migration.start import settle_engines
from agentcy_ray.jobs.worker import Beat
from tests.ingest.memory_source import MemorySource, chain
from tests.ingest.migration.conftest import MakeMoving


async def test_a_migration_cancelled_before_its_cut_over_leaves_basic_as_it_was(
    make_moving: MakeMoving,
):
    moving = await make_moving(MemorySource(graph=chain(30)))
    house = moving.house
    await house.sync()
    before = await moving.shown(moving.router.engines.basic)
    migration, beat = await moving.plan(), Beat(1)

    def asked(name: str) -> None:
        beat.cancelled = beat.cancelled or name == "nodes"

    with pytest.raises(CancelledByRequestError):
        await moving.carry_out(migration, probe=asked, beat=beat)
    assert (await moving.now(migration)).status == "cancelled"
    house.source.graph.nodes["Item", "more"] = {"name": "more", "n": 0}
    await house.sync()
    basic, advanced = await moving.both()
    assert basic.items() > before.items()
    assert house.node_id(("Item", "more")) not in advanced, "writes go to Basic alone again"
    assert await moving.answered_by() == "basic"

    with pytest.raises(ConflictError) as ended:
        await moving.requests.cancel(house.principal, migration.id)
    assert ended.value.code == "state_conflict"

    house.source.graph.drop(("Item", "i3"))
    await house.sync()
    basic_engine, later = moving.router.engines.basic, datetime.now(UTC) + timedelta(days=1)
    assert await basic_engine.prune(house.org_id, house.source_id, later) > 0
    async with house.db.tenant(house.org_id) as connection:
        await connection.execute(
            "UPDATE jobs SET status = 'cancelled' WHERE id = $1", migration.job_id
        )
    again = await moving.move()
    assert again.id != migration.id
    assert again.checksums["repaired"] > 0, "what the first one left, and Basic has no more, goes"
    basic, advanced = await moving.both()
    assert advanced == basic
    text, scope = "MATCH (n:Item) RETURN n.id, n.archived_at", Scope(org_id=house.org_id)
    everything = Query(text=text, limit=100, include_archived=True)
    answers = [await moving.router.engines.basic.query(scope, everything)]
    answers.append(await moving.router.engines.advanced.query(scope, everything))
    assert sorted(answers[1].rows) == sorted(answers[0].rows), "not as archived either"


async def test_one_that_nobody_carries_out_yet_is_cancelled_at_once(make_moving: MakeMoving):
    moving = await make_moving()
    migration = await moving.plan()
    with pytest.raises(ConflictError) as second:
        await moving.plan()
    assert second.value.code == "state_conflict"
    state = await moving.requests.cancel(moving.house.principal, migration.id)
    assert state.migration.status == "cancelled"
    assert not state.open
    assert (await moving.plan()).id != migration.id


@pytest.mark.requirement("MIG-01")
async def test_there_is_no_way_back_after_the_cut_over(make_moving: MakeMoving):
    moving = await make_moving(MemorySource(graph=chain(3)))
    await moving.house.sync()
    done, principal = await moving.move(), moving.house.principal
    for ask in (
        lambda: moving.requests.start(principal, "basic"),
        lambda: moving.requests.start(principal),
        lambda: moving.requests.cancel(principal, done.id),
    ):
        with pytest.raises(ConflictError) as refused:
            await ask()
        assert refused.value.code == "migration_one_way"
        assert "no way back" in refused.value.message
    basic = moving.house.settings.model_copy(update={"context_engine": "basic"})
    assert await settle_engines(moving.house.db, basic, both=True) == []
    assert await moving.engine_named() == "advanced", "the setting only warns"


@pytest.mark.requirement("MIG-06")
async def test_auto_plans_the_migration_of_who_is_on_basic_and_manual_does_not(
    make_moving: MakeMoving,
):
    moving = await make_moving(MemorySource(graph=chain(3)))
    house = moving.house
    await house.sync()
    advanced = {"context_engine": "advanced", "context_migration": "manual"}
    manual = house.settings.model_copy(update=advanced)
    assert await settle_engines(house.db, manual, both=True) == []
    auto = manual.model_copy(update={"context_migration": "auto"})
    assert house.org_id in await settle_engines(house.db, auto, both=True)
    [migration] = await moving.requests.list(house.org_id)
    assert migration.status == "planned"
    assert house.org_id not in await settle_engines(house.db, auto, both=True)
    await moving.requests.cancel(house.principal, migration.id)
    assert house.org_id not in await settle_engines(house.db, auto, both=True), (
        "what somebody called off is not begun again by itself"
    )
    assert (await moving.move()).status == "done"
