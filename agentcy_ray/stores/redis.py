"""Redis: commands that never hang, under one key prefix.

Only strings, lists, hashes, sorted sets, scripts and pub/sub are used; no Streams and no module,
so any Redis from 6.0 on will do, managed ones included. Losing Redis loses no work: Postgres
holds the truth.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import orjson
import redis.asyncio as redis_py
from redis.asyncio.connection import AbstractConnection as Connection
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ConnectionError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    TimeoutError,
)

from agentcy_ray.core.errors import ConfigError, StoreUnavailableError

CONNECT_SECS = 3.0
ANSWER_SECS = 10.0
"""A command that takes longer fails; let a blocking command wait for less than this."""
RETRIES = 2

AWAY = (
    ConnectionError, TimeoutError, BusyLoadingError, OSError, OutOfMemoryError, ReadOnlyError,
)  # fmt: skip
"""What the library raises while Redis cannot be reached, or takes no writes."""

REFUSED = (AuthenticationError, AuthorizationError, NoPermissionError)


class RedisStore:
    """One client, one prefix. Open it with ``open_redis``."""

    def __init__(self, client: redis_py.Redis, prefix: str) -> None:
        self._client = client
        self._prefix = prefix

    def key(self, *parts: str) -> str:
        """A key or channel under the prefix: ``key("rl", "user", id)`` → ``agentcy:rl:user:…``."""
        return ":".join((self._prefix, *parts))

    @asynccontextmanager
    async def commands(self) -> AsyncGenerator[redis_py.Redis]:
        """The client, for one or more commands with keys made by ``key``.

        Raises:
            StoreUnavailableError: Redis does not answer; the command may or may not have run.
            ConfigError: it refuses our credentials or the command.
        """
        try:
            yield self._client
        except REFUSED as error:  # before AWAY: it is a kind of ConnectionError
            raise ConfigError(
                f"Redis refuses the credentials of REDIS_URL: {error}; correct the URL"
            ) from error
        except AWAY as error:
            raise StoreUnavailableError(
                f"Redis does not answer: {error}; start it, or correct REDIS_URL"
            ) from error

    async def publish(self, messages: Sequence[tuple[str, dict[str, Any]]]) -> list[int]:
        """Send (channel, payload) pairs, payloads as JSON, to whoever listens; one round trip.

        Answers how many connections listened to each.

        Raises:
            StoreUnavailableError: Redis does not answer.
        """
        async with self.commands() as client, client.pipeline(transaction=False) as pipeline:
            for channel, payload in messages:
                pipeline.execute_command("PUBLISH", self.key(channel), orjson.dumps(payload))
            return await pipeline.execute()

    async def ping(self) -> None:
        """Return when Redis answers.

        Raises:
            StoreUnavailableError, ConfigError: as ``commands``.
        """
        async with self.commands() as client:
            await client.execute_command("PING")

    async def connection(self) -> Connection:
        """A connection of its own, already open; hand it back with ``release``."""
        return await self._client.connection_pool.get_connection()

    async def release(self, connection: Connection) -> None:
        """Close a connection that ``connection`` gave."""
        await connection.disconnect(nowait=True)
        await self._client.connection_pool.release(connection)

    async def aclose(self) -> None:
        """Close every connection."""
        await self._client.aclose()
        await self._client.connection_pool.disconnect()


async def open_redis(url: str, prefix: str) -> RedisStore:
    """Connect, and make sure that Redis answers.

    Args:
        url: ``redis://``, ``rediss://`` (TLS) or ``unix://``, used as it is.
        prefix: put before every key and channel.

    Raises:
        ConfigError: the URL is malformed or its credentials are refused.
        StoreUnavailableError: nothing answers there.
    """
    try:
        client = redis_py.from_url(
            url,
            decode_responses=True,
            socket_connect_timeout=CONNECT_SECS,
            socket_timeout=ANSWER_SECS,
            socket_keepalive=True,
            health_check_interval=30,
            retry=Retry(ExponentialWithJitterBackoff(base=0.02, cap=0.2), RETRIES),
        )
    except ValueError as error:
        raise ConfigError(f"REDIS_URL is malformed: {error}") from error
    store = RedisStore(client, prefix)
    try:
        await store.ping()
    except BaseException:
        await store.aclose()
        raise
    return store
