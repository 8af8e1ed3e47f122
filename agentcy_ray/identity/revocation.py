"""The bell that ends credentials in every process at once.

Processes remember for a few seconds who a credential stands for. Whoever ends a login, a key or a
user, or changes what they may do, rings; a process that misses it forgets when its memory lapses.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from uuid import UUID

from agentcy_ray.core.tenancy import Principal
from agentcy_ray.stores.bell import Bell

CHANNEL = "ch:session:revoked"
LISTEN_SECS = 600.0
"""Between two looks of a listener that hears nothing."""
_FIELDS = ("session_id", "api_key_id", "user_id", "org_id")


@dataclass(frozen=True)
class Revoked:
    """What has ended or changed: all credentials that have the one id that is given."""

    session_id: UUID | None = None
    api_key_id: UUID | None = None
    user_id: UUID | None = None
    org_id: UUID | None = None

    def concerns(self, principal: Principal) -> bool:
        """Whether a remembered principal is one of them."""
        return any(
            wanted is not None and wanted == getattr(principal, field)
            for field in _FIELDS
            if (wanted := getattr(self, field)) is not None
        )


Forget = Callable[[Revoked | None], None]
"""Drops what is remembered of the credentials; of all of them when it is told None."""


class Revocations:
    """Tells every process, this one first."""

    def __init__(self, bell: Bell) -> None:
        self._bell = bell
        self._here: list[Forget] = []

    async def tell(self, revoked: Revoked) -> None:
        """Ring. While Redis is away other processes find out when their memories lapse."""
        for forget in self._here:
            forget(revoked)
        ids = {field: getattr(revoked, field) for field in _FIELDS}
        await self._bell.ring(CHANNEL, {k: v.hex for k, v in ids.items() if v is not None})

    @asynccontextmanager
    async def followed_by(self, forget: Forget) -> AsyncGenerator[None]:
        """Keep ``forget`` told of what ends, here and elsewhere."""
        self._here.append(forget)
        task = asyncio.create_task(self._follow(forget), name="revocations")
        try:
            yield
        finally:
            self._here.remove(forget)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _follow(self, forget: Forget) -> None:
        async with self._bell.listen(CHANNEL) as ear:
            while True:
                payload = await ear.next(LISTEN_SECS)
                try:
                    known = {k: UUID(hex=v) for k, v in (payload or {}).items() if k in _FIELDS}
                except (ValueError, TypeError, AttributeError):
                    known = {}
                # What cannot be read, and what may have been missed, may be about anybody.
                forget(Revoked(**known) if known else None)
