"""A migration whose worker is killed goes on where it was, and still ends in the same graph."""

from __future__ import annotations

import asyncio
import pickle
import signal
import subprocess
import sys
from pathlib import Path
from uuid import UUID

import pytest

from agentcy_ray.context.advanced.arriving import Arriving
from agentcy_ray.context.engine import EntityKind
from agentcy_ray.context.migration.entities import Entities
from agentcy_ray.context.migration.records import Migration
from tests.ingest.memory_source import MemorySource, chain
from tests.ingest.migration.conftest import MakeMoving
from tests.ingest.migration.moving import Moving

pytestmark = pytest.mark.chaos
ROOT = Path(__file__).parents[3]


class Counted(Arriving):
    """Counts the rows that arrive."""

    rows = 0

    async def adopt(
        self, org_id: UUID, kind: EntityKind, entities: Entities, *, over_all: bool = False
    ) -> int:
        self.rows += entities.rows.num_rows
        return await super().adopt(org_id, kind, entities, over_all=over_all)


async def killed_at(moving: Moving, migration: Migration, stage: str, folder: Path) -> int:
    """Carry the migration out in a process that kills itself; returns its exit status."""
    path = folder / "given.pickle"
    given = {
        "stage": stage,
        "times": 1,
        "url": moving.endpoints.database_url,
        "endpoints": moving.endpoints,
        "settings": moving.house.settings,
        "org_id": migration.org_id,
        "migration_id": migration.id,
    }
    await asyncio.to_thread(path.write_bytes, pickle.dumps(given))
    process = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-m", "tests.ingest.migration.victim", str(path)],
        cwd=ROOT, timeout=120,
    )  # fmt: skip
    return process.returncode


@pytest.mark.requirement("MIG-03")
async def test_a_migration_killed_three_times_goes_on_at_its_cursor_and_verifies(
    make_moving: MakeMoving, tmp_path: Path
):
    moving = await make_moving(MemorySource(graph=chain(300)))
    await moving.house.sync()
    migration = await moving.plan()
    assert await killed_at(moving, migration, "nodes", tmp_path) == -signal.SIGKILL
    left = await moving.now(migration)
    assert (left.status, left.counts["rows"]) == ("backfilling", 300)
    assert left.cursor["part"] == "nodes"
    moving.house.source.graph.nodes["Item", "i7"]["name"] = "seven"
    moving.house.source.graph.drop(("Item", "i20"))
    await moving.house.sync()  # publishes go on while nobody carries the migration out

    assert await killed_at(moving, migration, "edges", tmp_path) == -signal.SIGKILL
    assert (await moving.now(migration)).cursor["part"] == "edges"
    assert await killed_at(moving, migration, "before_cut_over", tmp_path) == -signal.SIGKILL
    assert (await moving.now(migration)).status == "verifying"
    assert await moving.answered_by() == "basic"

    counted = Counted(moving.store)
    moving = moving.hooked(counted)
    done = await moving.carry_out(migration)
    assert done.status == "done"
    assert counted.rows == 0, "what had arrived is not sent again"
    basic, advanced = await moving.both()
    assert advanced == basic
    assert done.checksums["same"]


async def test_a_worker_killed_after_the_cut_over_leaves_only_the_last_step(
    make_moving: MakeMoving, tmp_path: Path
):
    moving = await make_moving(MemorySource(graph=chain(5)))
    await moving.house.sync()
    migration = await moving.plan()
    assert await killed_at(moving, migration, "cut_over", tmp_path) == -signal.SIGKILL
    assert (await moving.now(migration)).status == "cutover"
    assert await moving.engine_named() == "advanced"
    assert (await moving.carry_out(migration)).status == "done"
