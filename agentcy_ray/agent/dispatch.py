"""The seam between the gateway and whatever executes tools.

A dispatcher takes calls that every gate has let through and tells what came of each. Runs on one
machine use the in-process one; a cluster uses session hosts. Both pass one suite.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from agentcy_ray.connectors.calls import Told
from agentcy_ray.core.tools import ToolOutcome, ToolRequest


class Dispatcher(Protocol):
    """Executes tool calls on connector sessions."""

    async def send(
        self, requests: Sequence[ToolRequest], told: Callable[[ToolRequest, Told], None]
    ) -> None:
        """Hand calls over that travel together.

        ``told`` hears of each once, in the order of their answers and maybe before this returns:
        an outcome, faults of the tool included, or an error that says whether the call was sent.
        It must return at once.
        """
        ...

    async def call(self, request: ToolRequest) -> ToolOutcome:
        """Execute one call.

        Raises:
            ConnectorUnavailableError: the call was never sent; repeating it is safe.
            OutcomeUnknownError: it was sent and no answer came; it may have had its effect.
        """
        ...

    async def abandon(self, calls: Sequence[ToolRequest]) -> None:
        """Stop waiting for reads in flight; writes are left to finish."""
        ...

    async def close(self) -> None:
        """Give sessions back."""
        ...
