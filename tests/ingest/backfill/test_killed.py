"""A backfill killed at any point: the next attempt loses and doubles nothing, repeats little."""

from __future__ import annotations

import asyncio
import pickle
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import asyncpg
import pytest

from agentcy_ray.core.errors import StoreUnavailableError
from agentcy_ray.ingest.backfill.records import Backfill
from agentcy_ray.stores.endpoints import Endpoints
from tests.ingest.backfill.conftest import MakeFilling
from tests.ingest.backfill.filling import Filling

pytestmark = pytest.mark.chaos

ROOT = Path(__file__).parents[3]
LANES, BLOCK = 2, 16
POINTS = ["embedded", "written", "indexed"]
MORE_POINTS = ["begun", "planned", "filled", "checked"]
ALL_POINTS = [*POINTS, *(pytest.param(point, marks=pytest.mark.slow) for point in MORE_POINTS)]


async def killed_at(
    filling: Filling, backfill: Backfill, folder: Path, point: str, times: int = 1, *, ray: str = ""
) -> tuple[int, list[str]]:
    """An attempt in a process of its own, which dies when it comes to ``point`` the nth time.

    Returns:
        How the process ended, and the texts that it embedded.
    """
    texts = folder / f"texts-{times}"
    texts.unlink(missing_ok=True)
    given = {
        "point": point, "left": times, "texts": str(texts), "engine": backfill.engine, "ray": ray,
        "url": filling.house.db._pool._connect_args[0], "settings": filling.house.settings,
        "job": await filling.job(backfill),
    }  # fmt: skip
    path = folder / "given.pickle"
    path.write_bytes(pickle.dumps(given))
    ended = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-m", "tests.ingest.backfill.victim", str(path)], cwd=ROOT,
        timeout=120,
    )  # fmt: skip
    return ended.returncode, texts.read_text().splitlines() if texts.exists() else []


@pytest.mark.requirement("EMB-06")
@pytest.mark.parametrize("point", ALL_POINTS)
async def test_a_backfill_killed_at_any_point_is_completed_by_the_next_attempt(
    make_filling: MakeFilling, tmp_path: Path, point: str
):
    filling = await make_filling(200)
    backfill = await filling.start(lanes=LANES, block_chunks=BLOCK)
    times = 3 if point in {"embedded", "written"} else 1
    status, texts = await killed_at(filling, backfill, tmp_path, point, times)
    assert status == -signal.SIGKILL
    if point == "written":
        shown = (await filling.get(backfill)).progress()
        assert 0 < shown["done"] < shown["total"] == 200
        assert shown["eta_secs"] > 0
    ended = await filling.attempt(backfill)
    assert (ended.status, await filling.status()) == ("done", "ready")
    await filling.assert_complete()
    assert ended.blocks == ended.blocks_done
    assert ended.chunks == 200
    repeated = len(texts) + len(filling.model.texts) - 200
    assert repeated <= LANES * BLOCK, "less than a block of each lane is done again"


async def test_one_that_is_killed_again_and_again_comes_to_its_end(
    make_filling: MakeFilling, tmp_path: Path
):
    filling = await make_filling(300)
    backfill = await filling.start(lanes=LANES, block_chunks=BLOCK)
    texts: list[str] = []
    for _ in range(3):
        status, some = await killed_at(filling, backfill, tmp_path, "written", 4)
        assert status == -signal.SIGKILL
        texts += some
    ended = await filling.attempt(backfill)
    assert ended.status == "done"
    await filling.assert_complete()
    repeated = len(texts) + len(filling.model.texts) - 300
    assert repeated <= 3 * LANES * BLOCK


async def test_a_database_that_drops_its_connections_costs_an_attempt_at_most(
    make_filling: MakeFilling, endpoints: Endpoints
):
    filling = await make_filling(200)
    backfill = await filling.start(lanes=LANES)
    admin = await asyncpg.connect(endpoints.database_url)
    name = filling.house.db._pool._connect_args[0].rpartition("/")[2]
    drops, one_at_a_time = iter((60, 100, 140)), asyncio.Lock()

    async def drop(texts: Sequence[str]) -> None:
        nonlocal at
        if len(filling.model.texts) > at:
            at = next(drops, 1_000_000)
            async with one_at_a_time:
                await admin.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1",
                    name,
                )

    at, filling.model.hook = next(drops), drop
    while backfill.status != "done":
        try:
            backfill = await filling.attempt(backfill, last=False)
        except StoreUnavailableError:
            backfill = await filling.get(backfill)
            assert backfill.status == "running"
    await admin.close()
    await filling.assert_complete()
    assert len(filling.model.texts) - 200 <= 3 * LANES * BLOCK
