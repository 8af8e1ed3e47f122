"""Which source a task works for, so that whoever blocks an event loop can be named."""

from __future__ import annotations

from contextvars import Context, ContextVar, copy_context
from uuid import UUID

OWNER: ContextVar[UUID | None] = ContextVar("owner", default=None)
"""Set in every task that runs a connector's code, and inherited by the tasks that it starts."""


def owned(source_id: UUID) -> Context:
    """A context for tasks that work for ``source_id``."""
    context = copy_context()
    context.run(OWNER.set, source_id)
    return context
