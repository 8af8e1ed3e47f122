"""The bell that ends credentials in every process at once.

Processes remember for a few seconds who a credential stands for. Whoever ends a login, a key or a
user, or changes what they may do, rings; a process that misses it forgets when its memory lapses.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

from agentcy_ray.core.tenancy import Principal
from agentcy_ray.stores.bell import Bell

CHANNEL = "ch:session:revoked"
LISTEN_SECS = 600.0
"""Between two looks of a listener that hears nothing."""
_FIELDS = ("session_id", "api_key_id", "user_id", "org_id")


class Holder(NamedTuple):
    """What is kept of somebody who holds a stream."""

    session_id: UUID | None
    api_key_id: UUID | None
    user_id: UUID
    org_id: UUID
    expires_at: float = math.inf
    """Seconds since the epoch."""


@dataclass(frozen=True)
class Revoked:
    """What has ended or changed: all credentials that have the one id that is given."""

    session_id: UUID | None = None
    api_key_id: UUID | None = None
    user_id: UUID | None = None
    org_id: UUID | None = None

    def concerns(self, holder: Principal | Holder) -> bool:
        """Whether somebody who was let in is one of them."""
        return any(
            (wanted := getattr(self, field)) is not None and wanted == getattr(holder, field)
            for field in _FIELDS
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


class OpenStreams:
    """The event streams of this process, each of which ends with the credential that opened it.

    Who is changed and not ended resumes with what they have now. A ring that may have been lost
    ends none, for every stream would go with every loss: it raises a doubt, and somebody looks.
    """

    def __init__(self) -> None:
        self.doubted = asyncio.Event()
        """Set when a ring may have been missed; whoever has looked clears it."""
        self._stops: dict[int, tuple[Holder, Callable[[], None]]] = {}
        self._count = 0

    def add(
        self, principal: Principal, expires_at: float, stop: Callable[[], None]
    ) -> Callable[[], None]:
        """Have ``stop`` called when the principal's credential ends; gives what takes that back."""
        key = self._count = self._count + 1
        holder = Holder(
            principal.session_id, principal.api_key_id, principal.user_id, principal.org_id,
            expires_at,
        )  # fmt: skip
        self._stops[key] = (holder, stop)

        def release() -> None:
            self._stops.pop(key, None)

        return release

    def __len__(self) -> int:
        return len(self._stops)

    def end(self, revoked: Revoked | None) -> None:
        """Stop the streams that a revocation concerns; None = there may have been any."""
        if revoked is None:
            self.doubted.set()
            return
        for holder, stop in list(self._stops.values()):
            if revoked.concerns(holder):
                stop()

    def held(self) -> list[tuple[int, Holder]]:
        """The streams, by the key that ``stop`` takes."""
        return [(key, holder) for key, (holder, _) in self._stops.items()]

    def stop(self, key: int) -> None:
        """Stop one stream, if it is still there."""
        if key in self._stops:
            self._stops[key][1]()
