"""``warm_up_s``: from `agentcy up` on a state folder that exists to an authenticated answer."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from agentcy_ray.cli.client import Client
from agentcy_ray.cli.server import start_detached, stop_process
from agentcy_ray.core.settings import Settings
from benchmarks.figures import Figure, absolute

ROUNDS = 3


async def run() -> list[Figure]:
    """Start and stop three times on one state folder, after a first start that makes it."""
    warm: list[float] = []
    with tempfile.TemporaryDirectory(prefix="agb-") as folder:
        settings = Settings.load(agentcy_state_dir=Path(folder) / "s", agentcy_port=0)
        first = await _start(settings)
        for _ in range(ROUNDS):
            warm.append(await _start(settings))
    return [
        absolute("warm_up_s", "s", warm, at_most=20),
        absolute("first_start_s", "s", [first]),
    ]


async def _start(settings: Settings) -> float:
    began = time.perf_counter()
    running = start_detached(settings)
    try:
        async with Client(settings, running.url) as client:
            await client.get("/auth/me")
        return time.perf_counter() - began
    finally:
        stop_process(running.pid)
