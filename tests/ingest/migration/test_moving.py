"""An organisation moves from Basic to Advanced while its sources go on."""

from __future__ import annotations

from tests.ingest.memory_source import MemorySource, chain
from tests.ingest.migration.conftest import MakeMoving


async def test_after_the_move_advanced_shows_what_basic_showed_with_its_times(
    make_moving: MakeMoving,
):
    moving = await make_moving(MemorySource(graph=chain(120)))
    house = moving.house
    await house.sync()
    house.source.graph.nodes["Item", "i7"]["name"] = "seven"
    house.source.graph.drop(("Item", "i30"))
    await house.sync()
    before = await moving.shown(moving.router.engines.basic)
    done = await moving.move()
    assert done.status == "done"
    assert await moving.engine_named() == "advanced"
    assert await moving.shown(moving.router.engines.advanced) == before
    assert await moving.shown(moving.router) == before
    assert await moving.answered_by() == "advanced"
    assert done.counts["rows"] == done.counts["total"] == len(before)
    assert done.checksums["nodes"]["count"] == 119
    assert done.checksums["same"]
    assert done.differences == []
