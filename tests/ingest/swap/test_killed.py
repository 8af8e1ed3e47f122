"""A swap whose worker is killed in every state goes on where it was, and search never notices."""

from __future__ import annotations

import asyncio
import pickle
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from agentcy_ray.ingest.swap.records import Swap
from tests.ingest.swap.conftest import MakeSwapping
from tests.ingest.swap.swapping import Swapping

pytestmark = pytest.mark.chaos
ROOT = Path(__file__).parents[3]
POINTS = {
    "space": "planned",
    "filling": "backfilling",
    "checked": "checking",
    "cut_over": "cut_over",
}
"""Where the worker dies → the state in which it leaves the swap."""


async def killed_at(
    swapping: Swapping, swap: Swap, point: str, folder: Path, redis_url: str
) -> int:
    """Carry the swap on in a process that kills itself; returns its exit status."""
    house = swapping.house
    given = {
        "point": point, "texts": str(folder / "texts"), "redis": redis_url,
        "url": house.db._pool._connect_args[0], "settings": house.settings,
        "org_id": swap.org_id, "swap_id": swap.id,
    }  # fmt: skip
    path = folder / "given.pickle"
    path.write_bytes(pickle.dumps(given))
    process = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-m", "tests.ingest.swap.victim", str(path)], cwd=ROOT,
        timeout=120,
    )  # fmt: skip
    return process.returncode


async def test_a_swap_killed_in_every_state_is_cut_over_with_every_chunk_embedded_once(
    make_swapping: MakeSwapping, tmp_path: Path, redis_url: str
):
    swapping = await make_swapping(150)
    swap = await swapping.plan()
    for point, state in POINTS.items():
        assert await killed_at(swapping, swap, point, tmp_path, redis_url) == -signal.SIGKILL
        left = await swapping.now(swap)
        assert left.status == state, point
        swapping.search.routes.expire(swap.org_id)  # the dead ring no bell
        found = await swapping.ask("cedar")
        assert found.hits
        assert found.space == (left.to_space if state == "cut_over" else left.from_space) or (
            point == "space"
        )
    swap = await swapping.now(swap)
    assert await swapping.texts(swap.from_space) == await swapping.texts(swap.to_space)
    embedded = Counter((tmp_path / "texts").read_text().splitlines())
    bulk = {text: n for text, n in embedded.items() if text.startswith("'Item |")}
    assert len(bulk) == 150
    assert set(bulk.values()) == {1}
    assert (await swapping.carry_out(swap)).status == "cut_over", "one more attempt does nothing"
