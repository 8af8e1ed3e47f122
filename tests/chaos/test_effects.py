"""Processes killed around an effect: it happens once, or nobody claims to know."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.agent.loop.conftest import World
from tests.chaos.kills import (
    PROBED,
    UNPROBED,
    dead,
    executing,
    holds,
    lab,
    started,
    victim,
)

pytestmark = pytest.mark.chaos


@pytest.mark.requirement("TOOL-07")
@pytest.mark.parametrize(
    ("point", "tool", "times", "status"),
    [
        ("intended", PROBED, 1, "completed"),
        ("intended", UNPROBED, 0, "indeterminate"),
        ("happened", PROBED, 1, "completed"),
        ("happened", UNPROBED, 1, "indeterminate"),
        ("received", UNPROBED, 1, "completed"),
        ("witnessed", UNPROBED, 1, "completed"),
    ],
)
async def test_an_effect_whose_process_is_killed_is_never_repeated_blindly(
    world: World, tmp_path: Path, point: str, tool: str, times: int, status: str
) -> None:
    async with lab(world, tmp_path, write="allow") as (place, assembly):
        run = await started(world, tool)
        await dead(await victim(place, point))
        async with executing(assembly):
            await holds(world, place, run, tool, times=times, status=status, approvals=0)
