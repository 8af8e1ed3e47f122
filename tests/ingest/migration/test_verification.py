"""Nothing is cut over before both engines hold the same."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID

import pyarrow as pa
import pytest

from agentcy_ray.context.advanced.arriving import Arriving
from agentcy_ray.context.engine import EntityKind
from agentcy_ray.core.batches import NODES
from agentcy_ray.core.errors import ConflictError
from agentcy_ray.core.ids import node_id
from tests.ingest.harness import REALM, House
from tests.ingest.memory_source import MemorySource, chain
from tests.ingest.migration.conftest import MakeMoving


class Clinging(Arriving):
    """Hides nothing."""

    async def hide(self, org_id: UUID, kind: EntityKind, ids: Sequence[str], at: datetime) -> int:
        return 0


def stranger(house: House, external: str, name: str) -> pa.RecordBatch:
    """A node of the house's source that it does not know, or knows otherwise."""
    row = {
        "id": node_id(house.org_id, REALM, house.source_id, "Item", external),
        "labels": ["Item", "Odd"], "realm": REALM, "name": name, "properties": "{}",
        "connector": "memory", "source_id": house.source_id.hex, "external_id": external,
        "content_hash": "cd" * 16,
    }  # fmt: skip
    return pa.RecordBatch.from_pylist([row], schema=NODES)


@pytest.mark.requirement("MIG-05")
async def test_differences_are_listed_and_mended_from_basic_before_the_cut_over(
    make_moving: MakeMoving,
):
    moving = await make_moving(MemorySource(graph=chain(20)))
    house, advanced = moving.house, moving.router.engines.advanced
    await house.sync()
    now = datetime.now(UTC)
    for external, name in (("i3", "altered"), ("ghost", "not on Basic")):
        await advanced.upsert_nodes(house.org_id, stranger(house, external, name), now)
    await advanced.archive(house.org_id, "node", [house.node_id(("Item", "i3"))], now)
    done = await moving.move()
    assert done.status == "done"
    found = {(each.kind, each.name): (each.basic, each.advanced) for each in done.differences}
    assert found == {
        ("node", "Item"): (20, 20), ("node", "Odd"): (0, 1), ("edge", "NEXT"): (19, 17),
    }  # fmt: skip
    assert {each.round for each in done.differences} == {0}
    assert done.checksums["repaired"] >= 2
    basic, now_there = await moving.both()
    assert now_there == basic


@pytest.mark.requirement("MIG-05")
async def test_what_cannot_be_mended_fails_the_migration_and_basic_goes_on(
    make_moving: MakeMoving,
):
    moving = await make_moving(MemorySource(graph=chain(5)))
    house = moving.house
    await house.sync()
    ghost = stranger(house, "ghost", "not on Basic")
    advanced = moving.router.engines.advanced
    await advanced.upsert_nodes(house.org_id, ghost, datetime.now(UTC))
    stuck = moving.hooked(Clinging(moving.store))
    migration = await stuck.plan()
    with pytest.raises(ConflictError) as caught:
        await stuck.carry_out(migration)
    assert caught.value.code == "migration_differs"
    failed = await moving.now(migration)
    assert failed.status == "failed"
    assert failed.error is not None
    assert failed.error["code"] == "migration_differs"
    last = [each for each in failed.differences if each.round == 2]
    assert {(each.name, each.basic, each.advanced) for each in last} == {
        ("Item", 5, 6), ("Odd", 0, 1),
    }  # fmt: skip
    assert await moving.engine_named() == "basic"
    assert await stuck.answered_by() == "basic"
    await house.assert_holds(house.source.graph)

    async with house.db.tenant(house.org_id) as connection:
        await connection.execute("UPDATE jobs SET status = 'dead' WHERE id = $1", failed.job_id)
    again = await moving.plan()
    assert again.id == migration.id, "what failed is gone on with"
    assert (await moving.carry_out(again)).status == "done"
    basic, now_there = await moving.both()
    assert now_there == basic
