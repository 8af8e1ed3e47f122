"""A sync killed at any point: nothing is lost, and the next attempt ends in the same graph."""

from __future__ import annotations

import asyncio
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from agentcy_ray.stores.endpoints import Endpoints
from tests.ingest.harness import House
from tests.ingest.memory_source import MemorySource, chain

pytestmark = pytest.mark.chaos

STAGES = ["uploaded", "nodes_batch", "vectors_batch", "gone_edges_batch", "before_commit"]
MORE_STAGES = [
    "leased", "extracted", "sealed", "publishing", "nodes_done", "edges_batch", "edges_done",
    "gone_nodes_batch", "gone_nodes_done", "committed",
]  # fmt: skip
ALL_STAGES = [*STAGES, *(pytest.param(stage, marks=pytest.mark.slow) for stage in MORE_STAGES)]

ROOT = Path(__file__).parents[2]


async def killed_at(house: House, run_id, stage: str, endpoints: Endpoints, folder: Path) -> int:
    """Carry out a run in a process that kills itself at ``stage``; returns its exit status."""
    given = {
        "stage": stage,
        "url": house.db._pool._connect_args[0],
        "endpoints": endpoints,
        "settings": house.settings,
        "org_id": house.org_id,
        "source_id": house.source_id,
        "run_id": run_id,
        "source": house.source,
        "claim": house.claims + 1,
    }
    path = folder / "given.pickle"
    path.write_bytes(pickle.dumps(given))
    house.claims += 1
    process = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-m", "tests.ingest.victim", str(path)], cwd=ROOT,
        timeout=120,
    )  # fmt: skip
    return process.returncode


@pytest.mark.requirement("ING-07")
@pytest.mark.requirement("ING-02")
@pytest.mark.parametrize("stage", ALL_STAGES)
async def test_a_sync_killed_at_any_stage_is_completed_by_the_next_attempt(
    make_house, endpoints: Endpoints, tmp_path: Path, stage: str
):
    house: House = await make_house(MemorySource(graph=chain(150)))
    first = await house.sync()
    old, cursors = house.source.graph.copy(), await house.cursors()
    graph = house.source.graph
    for n in range(150, 400):
        graph.nodes["Item", f"i{n}"] = {"name": f"item {n}", "n": n}
        graph.edges[("Item", f"i{n - 1}"), "NEXT", ("Item", f"i{n}")] = {"step": n}
    graph.nodes["Item", "i7"]["name"] = "seven"
    for n in range(20):
        graph.drop(("Item", f"i{100 + n}"))
    run = await house.request(mode="full")
    assert await killed_at(house, run.id, stage, endpoints, tmp_path) == -signal.SIGKILL

    left = await house.syncs.get(house.org_id, run.id)
    if stage == "committed":
        assert left.status == "synced"
    else:
        row = await house.row()
        assert row["current_package_id"] == first.package_id
        assert await house.cursors() == cursors
        if left.status == "running":
            await house.assert_holds(old)
        ended = await house.carry_out(run)
        assert ended.status == "synced"
        assert ended.counts["nodes"] == {
            "added": 250, "updated": 1, "unchanged": 129, "archived": 20,
        }  # fmt: skip
    await house.assert_holds(graph)
    await house.settle(run)
    await house.sync(mode="full")
    assert house.files() == [], "no working file is left over"
    packages = await house.syncs.packages(house.org_id, house.source_id)
    prefixes = {key.split("/")[3] for key in await house.objects.list("packages")}
    assert prefixes == {package.id.hex for package in packages}, "no object is left over"
