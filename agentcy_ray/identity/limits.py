"""How many requests a key, a user and an organisation may make, without asking Redis each time.

A process takes tokens in advance from buckets that are far from empty, the more the faster they are
used, and spends them without a round trip. Tokens count as used when they are taken, so over any
time no more pass than the limit allows for it, and what the processes had in hand when it began: at
most ``replicas × lease``, where a lease is a 64th of the limit and 256 at most. Near the limit
nothing is lent, and every request asks.
"""

from __future__ import annotations

import asyncio
from uuid import UUID

from agentcy_ray.core.clock import Clock
from agentcy_ray.core.errors import RateLimitedError
from agentcy_ray.core.tenancy import Principal
from agentcy_ray.identity.buckets import Ask, Buckets, Grant
from agentcy_ray.identity.throttle import used_up

LEASE_SHARE = 64
LEASE_MOST = 256
SOON_SECS = 1.0
"""A lease that was used up sooner is followed by one of twice the size, else by half of it."""
ROUND = 100
"""Buckets asked in one round trip."""
_KEPT = 20_000
_WHOSE = {"key": "this API key", "user": "this user", "org": "this organisation"}


class _Leased:
    """One bucket's tokens in this process."""

    __slots__ = ("answer", "ask", "filled_at", "lease", "left", "refusal", "until", "waiting")

    def __init__(self, kind: str, id_: UUID, rpm: int) -> None:
        self.ask = Ask(kind, id_.hex, rpm / 60, float(rpm))
        self.left = 0
        self.lease = 0
        self.filled_at = 0.0
        self.waiting = 0
        self.until = 0.0
        """Nothing is to be had before."""
        self.refusal: Grant | None = None
        self.answer: asyncio.Future[None] | None = None

    @property
    def rpm(self) -> int:
        return round(self.ask.burst)


class RateLimits:
    """The limits of requests. ``admit`` first, which costs nothing; ``check`` when it says no."""

    def __init__(self, buckets: Buckets, clock: Clock, *, user_rpm: int, org_rpm: int) -> None:
        self._buckets = buckets
        self._clock = clock
        self._user_rpm, self._org_rpm = user_rpm, org_rpm
        self._held: dict[str, dict[UUID, _Leased]] = {"key": {}, "user": {}, "org": {}}
        self._wanted: list[_Leased] = []
        self._filling: asyncio.Task[None] | None = None

    def admit(self, principal: Principal) -> bool:
        """Spend tokens in hand; False when one is missing, and then none is spent."""
        user = self._held["user"].get(principal.user_id)
        org = self._held["org"].get(principal.org_id)
        if user is None or org is None or user.left < 1 or org.left < 1:
            return False
        if principal.rpm is not None and principal.api_key_id is not None:
            return False  # it has a limit more
        user.left -= 1
        org.left -= 1
        return True

    async def check(self, principal: Principal) -> None:
        """Spend a token of each limit that the principal has.

        Raises:
            RateLimitedError: one is used up; ``details`` says when the next token comes.
        """
        limits = self._limits_of(principal)
        while empty := [limit for limit in limits if limit.left < 1]:
            now = self._clock.now().timestamp()
            for limit in empty:
                # A clock that was set back must not lock anybody out.
                if limit.refusal is not None and 0 < limit.until - now < limit.refusal.wait + 1:
                    raise self._refused(limit, limit.refusal)
            await asyncio.gather(*(self._filled(limit) for limit in empty))
        for limit in limits:
            limit.left -= 1

    def _limits_of(self, principal: Principal) -> list[_Leased]:
        limits = [
            self._limit("user", principal.user_id, self._user_rpm),
            self._limit("org", principal.org_id, self._org_rpm),
        ]
        if principal.rpm is not None and principal.api_key_id is not None:
            limits.append(self._limit("key", principal.api_key_id, principal.rpm))
        return limits

    def _limit(self, kind: str, id_: UUID, rpm: int) -> _Leased:
        held = self._held[kind]
        found = held.get(id_)
        if found is None or found.rpm != rpm:
            found = held[id_] = _Leased(kind, id_, rpm)
            if len(held) > _KEPT:
                del held[next(iter(held))]
        return found

    async def _filled(self, limit: _Leased) -> None:
        """Wait until Redis was asked for the bucket, together with all others that want it now."""
        limit.waiting += 1
        if limit.answer is None:
            limit.answer = asyncio.get_running_loop().create_future()
            self._wanted.append(limit)
        if self._filling is None:
            self._filling = asyncio.create_task(self._fill())
        await asyncio.shield(limit.answer)

    async def _fill(self) -> None:
        """One round trip after the other while any bucket is wanted."""
        try:
            while self._wanted:
                asked, self._wanted = self._wanted[:ROUND], self._wanted[ROUND:]
                await self._fill_these(asked)
        finally:
            self._filling = None

    async def _fill_these(self, asked: list[_Leased]) -> None:
        now = self._clock.now().timestamp()
        try:
            grants = await self._buckets.take([_wanting(limit, now) for limit in asked])
        except BaseException as error:
            for limit in asked:  # those who wait raise it
                if limit.answer is not None:
                    limit.answer.set_exception(error)
                limit.answer = None
            if not isinstance(error, Exception):
                raise
            return
        for limit, grant in zip(asked, grants, strict=True):
            limit.left += grant.given
            limit.filled_at = now
            limit.refusal = grant if grant.wait > 0 else None
            limit.until = now + grant.wait
            if limit.answer is not None:
                limit.answer.set_result(None)
            limit.answer = None

    def _refused(self, limit: _Leased, grant: Grant) -> RateLimitedError:
        return used_up(f"too many requests of {_WHOSE[limit.ask.kind]}", limit.ask, grant)


def _wanting(limit: _Leased, now: float) -> Ask:
    """What to ask: a token for each that waits, and a lease by how fast the last one went."""
    soon = 0 <= now - limit.filled_at < SOON_SECS
    most = min(LEASE_MOST, limit.rpm // LEASE_SHARE)
    limit.lease = min(most, max(1, limit.lease * 2)) if soon else limit.lease // 2
    need, limit.waiting = max(1, limit.waiting), 0
    ask = limit.ask
    return Ask(ask.kind, ask.id, ask.rate, ask.burst, need, limit.lease)
