"""Are the shared actors there? To reach one takes Ray's control store, its node and itself."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import ray
from ray.exceptions import RayError

from agentcy_ray.core.errors import StoreUnavailableError
from agentcy_ray.runtime.cluster import NAMESPACE

ANSWER_SECS = 2.0


async def require_present(names: Sequence[str]) -> None:
    """Reach every actor of ``names``.

    Raises:
        StoreUnavailableError: some do not answer in ``ANSWER_SECS``; the message names them.
    """
    asked = {asyncio.create_task(_ping(name)): name for name in names}
    if not asked:
        return
    answered, silent = await asyncio.wait(asked, timeout=ANSWER_SECS)
    for task in silent:
        task.cancel()
    absent = [asked[task] for task in silent]
    absent += [asked[task] for task in answered if not task.result()]
    if absent:
        raise StoreUnavailableError(
            f"no answer from {', '.join(sorted(absent))}; Ray restarts an actor that died, see its "
            "logs when this stays",
            store="ray",
        )


async def _ping(name: str) -> bool:
    try:
        # Looking a name up blocks while the control store is away, so it does not do so here.
        actor: Any = await asyncio.to_thread(ray.get_actor, name, NAMESPACE)
        await actor.ping.remote()
    except (RayError, ValueError):
        return False
    return True
