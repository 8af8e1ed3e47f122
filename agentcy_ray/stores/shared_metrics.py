"""Metrics of all processes at one place: each hands its reading to Redis, any can add them up.

A scrape reaches one replica behind the balancer, and executors have no port at all, so whoever
answers gives the figures of everybody. Counters must not fall when a process goes: the figures of
one that has not been heard of for ``GONE_SECS`` are added to those of the gone. Should it be alive
after all, its next reading finds its place empty and counts on from what was taken over.
"""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import orjson
import structlog

from agentcy_ray.core.errors import AgentcyError
from agentcy_ray.core.meters import Reading
from agentcy_ray.core.metrics import Metrics
from agentcy_ray.stores.redis import RedisStore

EVERY_SECS = 5.0
LEVEL_SECS = 15
"""A gauge of a process that was not heard of for so long is not shown."""
GONE_SECS = 60
KEPT_SECS = 30 * 86_400
_log = structlog.get_logger(__name__)

# KEYS: readings by process, when each was heard, figures of the gone.
# ARGV: process, reading, whether it is the first, seconds that the keys are kept.
_HAND_IN = """
if ARGV[3] == '0' and redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('ZADD', KEYS[2], redis.call('TIME')[1], ARGV[1])
for _, key in ipairs(KEYS) do redis.call('EXPIRE', key, ARGV[4]) end
return 1
"""
# ARGV: seconds after which a process is gone, and after which its gauges are not shown.
_COLLECT = """
local now = tonumber(redis.call('TIME')[1])
for _, name in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now - ARGV[1])) do
  local text = redis.call('HGET', KEYS[1], name)
  if text then
    for cell, value in pairs(cjson.decode(text).rising) do
      redis.call('HINCRBYFLOAT', KEYS[3], cell, string.format('%.17g', value))
    end
  end
  redis.call('HDEL', KEYS[1], name)
  redis.call('ZREM', KEYS[2], name)
end
local fresh = redis.call('ZRANGEBYSCORE', KEYS[2], now - ARGV[2], '+inf')
return {redis.call('HGETALL', KEYS[1]), fresh, redis.call('HGETALL', KEYS[3])}
"""


class SharedMetrics:
    """This process's share, and the sum of all shares."""

    def __init__(self, redis: RedisStore, metrics: Metrics) -> None:
        self._redis = redis
        self._metrics = metrics
        self._process = uuid4().hex
        self._keys = [redis.key("metrics", part) for part in ("live", "heard", "gone")]
        self._handed: Reading | None = None
        self._taken: dict[str, float] = {}
        """What was added to the figures of the gone while this process was thought to be."""

    async def hand_in(self) -> None:
        """Give the others this process's figures.

        Raises:
            StoreUnavailableError: Redis does not answer; the next time gives them all.
        """
        mine = self._mine()
        if not await self._send(mine, first=self._handed is None):
            assert self._handed is not None
            for cell, value in self._handed.rising.items():
                self._taken[cell] = self._taken.get(cell, 0.0) + value
            mine = self._mine()
            await self._send(mine, first=True)
        self._handed = mine

    async def total(self) -> Reading:
        """The figures of all processes: the others' of a few seconds ago, this one's of now.

        While Redis is away they are those of this process alone.
        """
        try:
            live, fresh, gone = await self._call(_COLLECT, str(GONE_SECS), str(LEVEL_SECS))
        except AgentcyError as error:
            _log.warning("metrics_of_this_process_alone", problem=error.message)
            return self._metrics.read()
        mine = self._mine()
        total = Reading(dict(mine.rising), dict(mine.level))
        total.add({cell: float(value) for cell, value in _pairs(gone)})
        for process, text in _pairs(live):
            if process != self._process:
                theirs: dict[str, dict[str, float]] = orjson.loads(text)
                total.add(theirs["rising"], theirs["level"] if process in fresh else None)
        return total

    async def run(self, stop: asyncio.Event) -> None:
        """Hand in every few seconds until ``stop``, and once more then."""
        away = False
        while True:
            last = stop.is_set()
            try:
                await self.hand_in()
                away = False
            except AgentcyError as error:
                if not away:
                    _log.warning("metrics_not_shared", problem=error.message)
                away = True
            if last:
                return
            try:
                async with asyncio.timeout(EVERY_SECS):
                    await stop.wait()
            except TimeoutError:
                continue

    def _mine(self) -> Reading:
        now = self._metrics.read()
        rising = {
            cell: left
            for cell, value in now.rising.items()
            if (left := value - self._taken.get(cell, 0.0)) > 0
        }
        return Reading(rising, now.level)

    async def _send(self, mine: Reading, *, first: bool) -> bool:
        text = orjson.dumps({"rising": mine.rising, "level": mine.level}).decode()
        flag = "1" if first else "0"
        return bool(await self._call(_HAND_IN, self._process, text, flag, str(KEPT_SECS)))

    async def _call(self, script: str, *args: str) -> Any:
        async with self._redis.commands() as client:
            return await client.eval(  # pyright: ignore[reportGeneralTypeIssues]
                script, len(self._keys), *self._keys, *args
            )


def _pairs(flat: list[str]) -> list[tuple[str, str]]:
    return list(zip(flat[::2], flat[1::2], strict=True))
