"""The dispatcher of one process: tool calls go straight to the session pool beside it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from uuid import UUID

from agentcy_ray.connectors.sessions import UNKNOWN, UNSENT, SessionPool
from agentcy_ray.core.errors import ConnectorUnavailableError, OutcomeUnknownError
from agentcy_ray.core.tools import ToolOutcome, ToolRequest


class LocalDispatcher:
    """Implements the dispatcher protocol of the agent floor without a cluster."""

    def __init__(self, pool: SessionPool) -> None:
        self._pool = pool
        self._reads: dict[UUID, asyncio.Task[ToolOutcome]] = {}

    async def call(self, request: ToolRequest) -> ToolOutcome:
        """Execute one call. Faults of the tool come back as an outcome.

        Raises:
            ConnectorUnavailableError: the call was never sent; repeating it is safe.
            OutcomeUnknownError: a write was sent and did not answer in time.
        """
        if request.effect.consequential:
            return settle(await self._pool.call(request))
        task = asyncio.create_task(self._pool.call(request))
        self._reads[request.tool_call_id] = task
        try:
            # Waiting, not awaiting: a read that is abandoned must not look like our cancellation.
            await asyncio.wait({task})
        finally:
            self._reads.pop(request.tool_call_id, None)
            task.cancel()
        if task.cancelled():
            return ToolOutcome(
                tool_call_id=request.tool_call_id,
                ok=False,
                error_code="cancelled",
                error_message="the call was abandoned",
            )
        return settle(task.result())

    async def abandon(self, calls: Sequence[ToolRequest]) -> None:
        """Stop waiting for reads in flight; writes are left to finish."""
        for request in calls:
            task = self._reads.get(request.tool_call_id)
            if task is not None:
                task.cancel()

    async def close(self) -> None:
        """Close the pool's sessions."""
        await self._pool.close()


def settle(outcome: ToolOutcome) -> ToolOutcome:
    """An outcome as the dispatcher protocol wants it: two of its faults are raised instead.

    Raises:
        ConnectorUnavailableError: the call was never sent.
        OutcomeUnknownError: a write was sent and did not answer in time.
    """
    message = outcome.error_message or ""
    if outcome.error_code == UNSENT:
        raise ConnectorUnavailableError(message)
    if outcome.error_code == UNKNOWN:
        raise OutcomeUnknownError(message)
    return outcome
