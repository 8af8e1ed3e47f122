"""The dispatcher of one process: tool calls go straight to the session pool beside it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from uuid import UUID

from agentcy_ray.connectors.calls import Answer, Caller, Order, Told, outcome, wire
from agentcy_ray.connectors.sessions import SessionPool
from agentcy_ray.core.tools import ToolRequest


class LocalDispatcher(Caller):
    """Implements the dispatcher protocol of the agent floor without a cluster."""

    def __init__(self, pool: SessionPool) -> None:
        self._pool = pool
        self._orders: dict[UUID, Order] = {}

    async def send(
        self, requests: Sequence[ToolRequest], told: Callable[[ToolRequest, Told], None]
    ) -> None:
        """Execute calls; ``told`` hears what came of each."""

        def order_of(request: ToolRequest, now: float) -> Order:
            def reply(_: Order, answer: Answer) -> None:
                if self._orders.pop(request.tool_call_id, None) is not None:
                    told(request, outcome(request.tool_call_id, answer))

            return Order(wire(0, request, now), reply)

        now = time.time()
        for request in requests:
            order = self._orders[request.tool_call_id] = order_of(request, now)
            self._pool.submit(order)

    async def abandon(self, calls: Sequence[ToolRequest]) -> None:
        """Stop waiting for reads in flight; writes are left to finish."""
        for request in calls:
            order = self._orders.get(request.tool_call_id)
            if order is not None and not order.consequential:
                self._pool.abandon(order)

    async def close(self) -> None:
        """Close the pool's sessions."""
        await self._pool.close()
