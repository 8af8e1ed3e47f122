"""Telling those who follow a log that it has grown: a hint over Redis, at most a few a second."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from uuid import UUID

from agentcy_ray.stores.bell import Bell, Ear

APART_SECS = 0.1
"""Between two hints of one process about one log."""
LOOK_SECS = 1.0
"""Between two looks at Postgres where no hint can come."""
DOUBT_SECS = 5.0
"""The same where hints do come: one may be lost."""


@dataclass(frozen=True)
class Listener:
    """Who follows one log."""

    ear: Ear | None

    async def wait(self, limit_secs: float) -> None:
        """Return when the log may have grown, or after ``limit_secs``."""
        if self.ear is None:
            await asyncio.sleep(min(LOOK_SECS, limit_secs))
        else:
            await self.ear.next(min(DOUBT_SECS, limit_secs))


class Tidings:
    """Hints about the logs of all organisations, to and from all processes."""

    def __init__(self, bell: Bell | None) -> None:
        self._bell = bell
        self._pending: dict[UUID, asyncio.Task[None]] = {}

    def spread(self, org_id: UUID) -> None:
        """Say that the log of ``org_id`` has grown. Returns at once; one hint covers many."""
        if self._bell is None or org_id in self._pending:
            return
        self._pending[org_id] = asyncio.create_task(self._ring(self._bell, org_id))

    @asynccontextmanager
    async def listen(self, org_id: UUID) -> AsyncGenerator[Listener]:
        """Hear about the log of ``org_id``; a look at Postgres after entry misses nothing."""
        if self._bell is None:
            yield Listener(None)
            return
        async with self._bell.listen(_channel(org_id)) as ear:
            yield Listener(ear)

    async def close(self) -> None:
        """Send what is to be sent."""
        await asyncio.gather(*self._pending.values(), return_exceptions=True)

    async def _ring(self, bell: Bell, org_id: UUID) -> None:
        try:
            await asyncio.sleep(APART_SECS)
        finally:
            del self._pending[org_id]  # before the ring: what is written during it needs another
        await bell.ring(_channel(org_id), {})


def _channel(org_id: UUID) -> str:
    return f"audit:{org_id.hex}"
