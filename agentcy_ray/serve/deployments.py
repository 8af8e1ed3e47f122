"""The two Serve deployments: thin classes over the floors below."""

from __future__ import annotations

import asyncio

from ray import serve

from agentcy_ray.core.settings import Settings
from agentcy_ray.serve.scaling import HELD_RUNS
from agentcy_ray.serve.wiring import api_application, open_platform


@serve.deployment(name="api")
@serve.ingress(api_application)  # pyright: ignore[reportUntypedClassDecorator]
class Api:
    """Serves HTTP. Stateless: any replica answers any request and follows any run's log."""


@serve.deployment(name="agent")
class Agent:
    """Executes runs. Nothing is sent to it: it claims queued and orphaned runs from Postgres."""

    async def __init__(self, runs: int) -> None:  # pyright: ignore[reportGeneralTypeIssues]
        self._stop = asyncio.Event()
        self._services = await open_platform(Settings.load())
        self._executor = self._services.executor(runs)
        self._work = asyncio.gather(
            self._executor.run(self._stop),
            self._services.gates.direct.tend(self._stop),
            self._services.upkeep.tend(self._stop),
            self._services.drops.watch(self._services.settings.file_drop_poll_secs, self._stop),
        )

    async def check_health(self) -> None:
        """Fail when the work has ended; Serve then replaces this replica."""
        if self._work.done():
            await self._work
            raise RuntimeError("the run executor ended; the replica is replaced")

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """What Serve scales by: the runs that this replica holds."""
        return {HELD_RUNS: len(self._executor.held)}

    async def __call__(self) -> str:
        """A deployment must be callable; this one has nothing to answer."""
        return "runs are claimed, not sent"

    async def __del__(self) -> None:
        """Hand runs back to other replicas, then close the stores."""
        self._stop.set()
        await self._work
        await self._services.close()
