"""Token buckets: counted in Redis over all replicas, and by this process while Redis is away.

A limit that fails open is none, one that fails closed locks everybody out. Any number of buckets
are asked in one round trip.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from agentcy_ray.core.clock import Clock
from agentcy_ray.core.errors import ConfigError, StoreUnavailableError
from agentcy_ray.stores.redis import RedisStore

AWAY_SECS = 1.0
"""Redis that did not answer is asked again after this time; until then this process counts."""
_KEPT = 10_000
"""Buckets that a process counts itself, at most."""
_SPARE_SHARE = 8
"""Of what a bucket holds beyond the need, one part in so many may be lent in advance."""

# A clock that lags behind another's must neither give tokens twice nor turn the time back.
_TAKE = f"""
local now, out = tonumber(ARGV[1]), {{}}
local function exact(number) return string.format('%.17g', number) end
for i, key in ipairs(KEYS) do
  local rate, burst = tonumber(ARGV[4 * i - 2]), tonumber(ARGV[4 * i - 1])
  local need, spare = tonumber(ARGV[4 * i]), tonumber(ARGV[4 * i + 1])
  local state = redis.call('HMGET', key, 'tokens', 'at')
  local at = tonumber(state[2]) or now
  local tokens = math.min(burst, (tonumber(state[1]) or burst) + math.max(0, now - at) * rate)
  local given = math.min(need, math.floor(tokens))
  given = given + math.max(0, math.min(spare, math.floor((tokens - given) / {_SPARE_SHARE})))
  tokens = tokens - given
  local wait = 0
  if given < need then wait = (1 - tokens) / rate end
  redis.call('HSET', key, 'tokens', exact(tokens), 'at', exact(math.max(at, now)))
  redis.call('EXPIRE', key, math.ceil(burst / rate) + 1)
  out[#out + 1] = given
  out[#out + 1] = exact(wait)
  out[#out + 1] = exact(tokens)
end
return out
"""

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Ask:
    """What is wanted of one bucket.

    ``rate`` tokens a second flow into it, ``burst`` is what it holds; ``need`` tokens are used at
    once, up to ``spare`` more are taken in advance while plenty are left.
    """

    kind: str
    id: str
    rate: float
    burst: float
    need: int = 1
    spare: int = 0


@dataclass(frozen=True)
class Grant:
    """Tokens ``given``; ``wait`` seconds to the next one when too few were; ``left`` tokens."""

    given: int
    wait: float
    left: float


class Buckets:
    """Takes tokens out of buckets under ``rl:<kind>:<id>``."""

    def __init__(self, redis: RedisStore, clock: Clock) -> None:
        self._redis = redis
        self._clock = clock
        self._away_until = -math.inf
        self._here: OrderedDict[tuple[str, str], tuple[float, float]] = OrderedDict()

    async def take(self, asks: Sequence[Ask]) -> list[Grant]:
        """A grant for each ask, in their order; one round trip, none while Redis is away."""
        now = self._clock.now().timestamp()
        # A clock that was set back must not keep us away from Redis.
        if not 0 < self._away_until - now <= AWAY_SECS:
            try:
                return await self._ask_redis(asks, now)
            except (StoreUnavailableError, ConfigError) as error:
                log.warning("rate limits are counted by each process", problem=error.message)
                self._away_until = now + AWAY_SECS
        return [self._take_here(ask, now) for ask in asks]

    async def _ask_redis(self, asks: Sequence[Ask], now: float) -> list[Grant]:
        keys = [self._redis.key("rl", ask.kind, ask.id) for ask in asks]
        numbers: list[str] = [repr(now)]
        for ask in asks:
            numbers += [repr(ask.rate), repr(ask.burst), str(ask.need), str(ask.spare)]
        async with self._redis.commands() as client:
            answer = await client.eval(_TAKE, len(keys), *keys, *numbers)  # pyright: ignore[reportGeneralTypeIssues]
        return [
            Grant(int(answer[at]), float(answer[at + 1]), float(answer[at + 2]))
            for at in range(0, len(answer), 3)
        ]

    def _take_here(self, ask: Ask, now: float) -> Grant:
        """As the script does, without anything in advance."""
        key = (ask.kind, ask.id)
        tokens, at = self._here.pop(key, (ask.burst, now))
        tokens = min(ask.burst, tokens + max(0.0, now - at) * ask.rate)
        given = min(ask.need, math.floor(tokens))
        tokens -= given
        self._here[key] = (tokens, max(at, now))
        if len(self._here) > _KEPT:
            self._here.popitem(last=False)
        return Grant(given, 0.0 if given == ask.need else (1 - tokens) / ask.rate, tokens)
