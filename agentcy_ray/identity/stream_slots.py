"""How many event streams a user may hold open, over all replicas.

Each process notes its own number per user in one hash of Redis, under a name of its own and with a
time at which the note lapses, so that the streams of a process that died are forgotten. While Redis
is away each process counts its own alone.
"""

from __future__ import annotations

import asyncio
import math
import secrets
from collections.abc import Callable
from functools import partial
from uuid import UUID

import structlog

from agentcy_ray.core.clock import Clock
from agentcy_ray.core.errors import ConfigError, RateLimitedError, StoreUnavailableError
from agentcy_ray.identity.buckets import AWAY_SECS
from agentcy_ray.stores.redis import RedisStore

NOTED_SECS = 90.0
"""How long a note counts; it is written anew in a third of the time."""
RETRY_SECS = 5

_NOTE = """
local mine, most, now, secs = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5]
local others, notes = 0, redis.call('HGETALL', KEYS[1])
for i = 1, #notes, 2 do
  local count, lapses = string.match(notes[i + 1], '^(%d+) (.+)$')
  if tonumber(lapses) < now then
    redis.call('HDEL', KEYS[1], notes[i])
  elseif notes[i] ~= ARGV[1] then
    others = others + tonumber(count)
  end
end
if most > 0 and others + mine > most then return 0 end
if mine > 0 then
  redis.call('HSET', KEYS[1], ARGV[1], string.format('%d %.3f', mine, now + tonumber(secs)))
  redis.call('EXPIRE', KEYS[1], math.ceil(tonumber(secs)))
else
  redis.call('HDEL', KEYS[1], ARGV[1])
end
return 1
"""

log = structlog.get_logger(__name__)


class StreamSlots:
    """Counts the streams that are open; close it when no more are."""

    def __init__(self, redis: RedisStore, clock: Clock, most: int) -> None:
        self._redis = redis
        self._clock = clock
        self._most = most
        self._process = secrets.token_hex(8)
        self._open: dict[UUID, int] = {}
        self._changed: set[UUID] = set()
        self._bell = asyncio.Event()
        self._tending: asyncio.Task[None] | None = None
        self._away_until = -math.inf
        self._closed = False
        self._turn = asyncio.Lock()
        """Notes of one process are written one after the other, so that none overtakes a newer."""

    async def take(self, user_id: UUID) -> Callable[[], None]:
        """Count one stream more; returns what ends it, to be called once.

        Raises:
            RateLimitedError: ``quota_exceeded``: the user has as many as allowed.
        """
        mine = self._open[user_id] = self._open.get(user_id, 0) + 1
        try:
            if mine > self._most or not await self._noted(user_id, self._most):
                raise RateLimitedError(
                    f"a user may hold {self._most} streams open; close one, or come back later",
                    code="quota_exceeded",
                    retry_after_secs=RETRY_SECS,
                    limit=self._most,
                )
        except BaseException:
            self._end(user_id)
            raise
        if self._tending is None or self._tending.done():
            self._tending = asyncio.create_task(self._tend())
        return partial(self._end, user_id)

    async def close(self) -> None:
        """Stop writing notes; those of streams that are open still lapse by themselves."""
        self._closed = True
        self._bell.set()
        if self._tending is not None:
            await self._tending

    def _end(self, user_id: UUID) -> None:
        count = self._open[user_id] - 1
        if count:
            self._open[user_id] = count
        else:
            del self._open[user_id]
        self._changed.add(user_id)
        self._bell.set()

    async def _tend(self) -> None:
        """Tell Redis of streams that ended, and at times of those that are open."""
        while not self._closed:
            try:
                async with asyncio.timeout(NOTED_SECS / 3):
                    await self._bell.wait()
                users, self._changed = self._changed, set()
            except TimeoutError:
                users = set(self._open) | self._changed
                self._changed = set()
            self._bell.clear()
            for user_id in users:
                await self._noted(user_id, 0)

    async def _noted(self, user_id: UUID, most: int) -> bool:
        """Write our number of a user's streams; False when all together pass ``most`` (0: any)."""
        async with self._turn:
            now = self._clock.now().timestamp()
            if 0 < self._away_until - now <= AWAY_SECS:
                return True
            try:
                async with self._redis.commands() as client:
                    answer = await client.eval(  # pyright: ignore[reportGeneralTypeIssues]
                        _NOTE, 1, self._redis.key("sse", user_id.hex), self._process,
                        str(self._open.get(user_id, 0)), str(most), repr(now), repr(NOTED_SECS),
                    )  # fmt: skip
            except (StoreUnavailableError, ConfigError) as error:
                log.warning("streams are counted by each process", problem=error.message)
                self._away_until = now + AWAY_SECS
                return True
        return bool(answer)
