"""The seam between the gateway and whatever executes tools.

A dispatcher takes calls that every gate has let through and answers each with an outcome. Runs on
one machine use the in-process one; a cluster uses session hosts. Both pass one suite.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from agentcy_ray.core.tools import ToolOutcome, ToolRequest


class Dispatcher(Protocol):
    """Executes tool calls on connector sessions."""

    async def call(self, request: ToolRequest) -> ToolOutcome:
        """Execute one call. Faults of the tool come back as an outcome, they are not raised.

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
