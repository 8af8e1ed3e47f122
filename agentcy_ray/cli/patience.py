"""Waiting for the server: look again until there is something to see, and wait outages out.

A server that restarts, fails over or loses a store answers again in seconds. A command that follows
something for minutes must not die of that, and must not wait for ever either.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from agentcy_ray.core.errors import BackendError

LOOK_EVERY_SECS = 0.25
OUTAGE_SECS = 60.0

Found = TypeVar("Found")


async def until(
    look: Callable[[], Awaitable[Found | None]],
    *,
    limit_secs: float | None = None,
    outage_secs: float = OUTAGE_SECS,
    every_secs: float = LOOK_EVERY_SECS,
) -> Found:
    """What ``look`` gives once it gives something.

    Args:
        look: asks the server; None = not yet.
        limit_secs: how long to look in all; None = as long as the server answers.
        outage_secs: how long the server may fail to answer in one go.
        every_secs: pause between two looks.

    Raises:
        BackendError: the last answer was no answer, and the time for that is up.
        TimeoutError: the server answers, and what is waited for did not come in ``limit_secs``.
        AgentcyError: the server refused; that does not pass by itself.
    """
    began = answered = time.monotonic()
    while True:
        outage: BackendError | None = None
        try:
            found = await look()
        except BackendError as error:
            if error.code == "internal":
                raise  # a fault of the server, no outage
            found, outage = None, error
        if found is not None:
            return found
        now = time.monotonic()
        if outage is None:
            answered = now
        over = limit_secs is not None and now - began >= limit_secs
        if outage is not None and (over or now - answered >= outage_secs):
            raise outage
        if over:
            raise TimeoutError(f"not within {limit_secs:g} s")
        await asyncio.sleep(every_secs)
