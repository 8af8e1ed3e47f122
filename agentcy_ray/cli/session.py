"""Opening a client for one command."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from agentcy_ray.cli.client import Client
from agentcy_ray.core.settings import Settings

T = TypeVar("T")


def call(work: Callable[[Client], Awaitable[T]]) -> T:
    """Run ``work`` with a client of the configured server."""

    async def run() -> T:
        async with Client(Settings.load()) as client:
            return await work(client)

    return asyncio.run(run())
