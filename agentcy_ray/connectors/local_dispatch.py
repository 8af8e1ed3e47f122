"""The dispatcher of one process: tool calls go straight to the session pool beside it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from uuid import UUID

from agentcy_ray.connectors.calls import Answer, Order, outcome, wire
from agentcy_ray.connectors.sessions import SessionPool
from agentcy_ray.core.tools import ToolOutcome, ToolRequest


class LocalDispatcher:
    """Implements the dispatcher protocol of the agent floor without a cluster."""

    def __init__(self, pool: SessionPool) -> None:
        self._pool = pool
        self._orders: dict[UUID, Order] = {}

    async def call(self, request: ToolRequest) -> ToolOutcome:
        """Execute one call. Faults of the tool come back as an outcome.

        Raises:
            ConnectorUnavailableError: the call was never sent; repeating it is safe.
            OutcomeUnknownError: a write was sent and did not answer in time.
        """
        answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

        def reply(_: Order, answer: Answer) -> None:
            if not answered.done():
                answered.set_result(answer)

        order = Order(wire(0, request), reply)
        self._orders[request.tool_call_id] = order
        self._pool.submit(order)
        try:
            return outcome(request.tool_call_id, await answered)
        except asyncio.CancelledError:
            self._pool.abandon(order)
            raise
        finally:
            self._orders.pop(request.tool_call_id, None)

    async def abandon(self, calls: Sequence[ToolRequest]) -> None:
        """Stop waiting for reads in flight; writes are left to finish."""
        for request in calls:
            order = self._orders.get(request.tool_call_id)
            if order is not None and not order.consequential:
                self._pool.abandon(order)

    async def close(self) -> None:
        """Close the pool's sessions."""
        await self._pool.close()
