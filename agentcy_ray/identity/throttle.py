"""Throttling: a token bucket in Redis, counted over all replicas.

While Redis is away each process counts for itself: a limit that fails open is none, one that fails
closed locks everybody out.
"""

from __future__ import annotations

from collections import OrderedDict

from agentcy_ray.core.clock import Clock
from agentcy_ray.core.errors import RateLimitedError, StoreUnavailableError
from agentcy_ray.stores.redis import RedisStore

_TAKE = """
local rate, burst, now = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local state = redis.call('HMGET', KEYS[1], 'tokens', 'at')
local tokens = math.min(burst, (tonumber(state[1]) or burst)
               + math.max(0, now - (tonumber(state[2]) or now)) * rate)
local wait = 0
if tokens >= 1 then tokens = tokens - 1 else wait = (1 - tokens) / rate end
redis.call('HSET', KEYS[1], 'tokens', tostring(tokens), 'at', tostring(now))
redis.call('EXPIRE', KEYS[1], math.ceil(burst / rate) + 1)
return tostring(wait)
"""
_LOCAL_KEYS = 10_000


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
        self._redis = redis
        self._name = name
        self._rate = per_minute / 60
        self._burst = float(burst or per_minute)
        self._clock = clock
        self._local: OrderedDict[str, tuple[float, float]] = OrderedDict()

    async def check(self, key: str) -> None:
        """Take one.

        Raises:
            RateLimitedError: none is left; ``details["retry_after_secs"]`` says when one is.
        """
        now = self._clock.now().timestamp()
        try:
            async with self._redis.commands() as client:
                answer = await client.eval(  # pyright: ignore[reportGeneralTypeIssues]
                    _TAKE, 1, self._redis.key("rl", self._name, key),
                    str(self._rate), str(self._burst), str(now),
                )  # fmt: skip
            wait = float(answer)
        except StoreUnavailableError:
            wait = self._take_here(key, now)
        if wait > 0:
            secs = max(1, round(wait + 0.5))
            raise RateLimitedError(
                f"too many attempts; try again in {secs} s", retry_after_secs=secs
            )

    def _take_here(self, key: str, now: float) -> float:
        tokens, at = self._local.pop(key, (self._burst, now))
        tokens = min(self._burst, tokens + max(0.0, now - at) * self._rate)
        wait = 0.0 if tokens >= 1 else (1 - tokens) / self._rate
        self._local[key] = (tokens - 1 if tokens >= 1 else tokens, now)
        if len(self._local) > _LOCAL_KEYS:
            self._local.popitem(last=False)
        return wait
