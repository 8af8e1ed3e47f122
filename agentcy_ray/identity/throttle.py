"""Throttling: so many actions by key, each one asked of its bucket."""

from __future__ import annotations

import math

from agentcy_ray.core.clock import Clock
from agentcy_ray.core.errors import RateLimitedError
from agentcy_ray.identity.buckets import Ask, Buckets, Grant
from agentcy_ray.stores.redis import RedisStore


class Throttle:
    """So many actions a minute by key, all at once if need be, or ``burst`` of them."""

    def __init__(
        self,
        redis: RedisStore,
        name: str,
        per_minute: int,
        clock: Clock,
        *,
        burst: int | None = None,
    ) -> None:
        self._buckets = Buckets(redis, clock)
        self._name = name
        self._rate = per_minute / 60
        self._burst = float(burst or per_minute)

    async def check(self, key: str) -> None:
        """Take one.

        Raises:
            RateLimitedError: none is left; ``details["retry_after_secs"]`` says when one is.
        """
        ask = Ask(self._name, key, self._rate, self._burst)
        [grant] = await self._buckets.take([ask])
        if not grant.given:
            raise used_up("too many attempts", ask, grant)


def used_up(what: str, ask: Ask, grant: Grant) -> RateLimitedError:
    """The refusal of one whose bucket is empty."""
    secs = max(1, math.ceil(grant.wait))
    return RateLimitedError(
        f"{what}; try again in {secs} s",
        retry_after_secs=secs,
        limit=round(ask.burst),
        remaining=max(0, math.floor(grant.left)),
        reset_secs=max(1, math.ceil((ask.burst - grant.left) / ask.rate)),
    )
