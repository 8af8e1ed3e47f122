"""A base for the tests' own dispatchers, which execute calls one by one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from agentcy_ray.connectors.calls import Told
from agentcy_ray.core.tools import ToolOutcome, ToolRequest


class OneByOne:
    """Sends calls by making each on its own; what ``call`` raises is told."""

    def __init__(self) -> None:
        self._sent: set[asyncio.Task[None]] = set()

    async def call(self, request: ToolRequest) -> ToolOutcome:
        raise NotImplementedError

    async def send(
        self, requests: Sequence[ToolRequest], told: Callable[[ToolRequest, Told], None]
    ) -> None:
        async def one(request: ToolRequest) -> None:
            try:
                told(request, await self.call(request))
            except Exception as error:  # noqa: BLE001
                told(request, error)

        for request in requests:
            task = asyncio.create_task(one(request))
            self._sent.add(task)
            task.add_done_callback(self._sent.discard)

    async def abandon(self, calls: Sequence[ToolRequest]) -> None:
        pass

    async def close(self) -> None:
        pass
