"""Wake-ups by Redis pub/sub: a hint to look at Postgres, never the news itself.

One connection per process carries every channel, so thousands of streams cost one socket. A
listener that hears ``None`` looks at Postgres: its time is up, or something may have been missed
because the connection was lost or the listener was slow.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import orjson
from redis.asyncio.connection import AbstractConnection as Connection

from agentcy_ray.core.errors import StoreUnavailableError
from agentcy_ray.stores.redis import AWAY, REFUSED, RedisStore

PAYLOADS_KEPT = 1024
"""Payloads that wait for one slow listener before they are replaced by one ``None``."""
CONFIRM_SECS = 2.0
"""How long ``listen`` waits for Redis to confirm; after it the listener lives by time-outs."""
SILENCE_SECS = 10.0
"""A connection that is silent for so long is pinged, and given up after as long again."""
RECONNECT_SECS = (0.05, 0.2, 0.5, 1.0, 2.0)


class Ear:
    """One listener. Get it from ``Bell.listen``.

    Thousands of these wait at a time, so it is a list and a future; an empty ``asyncio.Queue`` of
    Python 3.11 takes three kilobytes.
    """

    __slots__ = ("_payloads", "_waiter")

    def __init__(self) -> None:
        self._payloads: list[dict[str, Any] | None] = []
        self._waiter: asyncio.Future[None] | None = None

    async def next(self, timeout: float) -> dict[str, Any] | None:
        """The next payload, or None: look at Postgres now. One waiter at a time.

        Args:
            timeout: seconds to wait; the only way to wake up while Redis is away.
        """
        if not self._payloads:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                async with asyncio.timeout(timeout):
                    await self._waiter
            except TimeoutError:
                return None
            finally:
                self._waiter = None
        return self._payloads.pop(0)

    def hear(self, payload: dict[str, Any] | None) -> None:
        """Hand a payload over; called by the bell."""
        if len(self._payloads) >= PAYLOADS_KEPT:
            self._payloads.clear()
            payload = None
        self._payloads.append(payload)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Bell:
    """Rings and listens on channels of one Redis."""

    def __init__(self, store: RedisStore) -> None:
        self._store = store
        self._ears: dict[str, set[Ear]] = {}
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._sent: set[str] = set()
        self._unanswered: Counter[str] = Counter()
        self._confirmed: dict[str, asyncio.Event] = {}
        self._lost: set[str] = set()
        self._away = False
        self._connection: Connection | None = None
        self._mute_until = 0.0

    async def ring(self, channel: str, payload: dict[str, Any]) -> bool:
        """Wake the listeners of ``channel`` in every process.

        Returns False, without waiting, while Redis is away: whoever listens then lives by
        time-outs and finds the news in Postgres.
        """
        return await self.ring_all([(channel, payload)]) is not None

    async def ring_all(self, rings: Sequence[tuple[str, dict[str, Any]]]) -> Sequence[int] | None:
        """Ring (channel, payload) pairs in their order, in one round trip.

        Answers how many processes heard each; None, without waiting, while Redis is away.
        """
        if time.monotonic() < self._mute_until:
            return None
        try:
            return await self._store.publish(rings)
        except StoreUnavailableError:
            self._mute_until = time.monotonic() + RECONNECT_SECS[-1]
            return None

    @asynccontextmanager
    async def listen(self, *channels: str) -> AsyncGenerator[Ear]:
        """Hear what is rung on the channels from now on.

        On entry the subscription is in force (or Redis is away), so a look at Postgres after it
        misses nothing.
        """
        ear = Ear()
        names = [self._store.key(channel) for channel in channels]
        for name in names:
            self._ears.setdefault(name, set()).add(ear)
        self._changed.set()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="bell")
        try:
            await self._confirmed_all(names)
            yield ear
        finally:
            for name in names:
                self._ears[name].discard(ear)
                if not self._ears[name]:
                    del self._ears[name]
            self._changed.set()

    async def aclose(self) -> None:
        """Stop listening; every ear hears None once."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        self._wake_all()

    async def _confirmed_all(self, names: list[str]) -> None:
        if self._away:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(CONFIRM_SECS):
                for name in names:
                    await self._confirmation(name).wait()

    # -- the one connection ---------------------------------------------------------------------

    async def _run(self) -> None:
        failures = 0
        while True:
            try:
                self._connection = await self._store.connection()
                failures = 0
                self._away = False
                await self._serve(self._connection)
            except (*AWAY, *REFUSED):
                failures += 1
            self._forget()
            await asyncio.sleep(RECONNECT_SECS[min(failures, len(RECONNECT_SECS)) - 1])

    async def _serve(self, connection: Connection) -> None:
        writer = asyncio.create_task(self._write(connection), name="bell-subscriptions")
        try:
            await self._read(connection)
        finally:
            # The library's send may swallow a cancellation (its asyncio.wait_for on Python 3.11),
            # so the writer is told by these two to end.
            self._connection = None
            self._changed.set()
            await self._store.release(connection)
            await writer

    async def _write(self, connection: Connection) -> None:
        """Keep the subscriptions equal to what the ears want, in as few commands as possible."""
        while self._connection is connection:
            self._changed.clear()
            wanted = set(self._ears)
            gone, new = self._sent - wanted, wanted - self._sent
            self._sent = wanted
            self._unanswered.update(new)
            for name in gone:
                self._confirmed.pop(name, None)
            try:
                if gone:
                    await connection.send_command("UNSUBSCRIBE", *gone, check_health=False)
                if new:
                    await connection.send_command("SUBSCRIBE", *new, check_health=False)
            except AWAY:
                await connection.disconnect(nowait=True)  # so the reader ends, and reconnects
                return
            await self._changed.wait()

    async def _read(self, connection: Connection) -> None:
        pinged = False
        while True:
            reply = await connection.read_response(
                timeout=SILENCE_SECS, disconnect_on_error=False, push_request=True
            )
            if reply is None:
                if pinged:
                    raise OSError("Redis went silent")
                await connection.send_command("PING", check_health=False)
                pinged = True
                continue
            pinged = False
            # RESP 2 and 3: ["message", channel, text], ["subscribe", channel, count], or a pong
            match reply:
                case ["message", str(channel), str(text)]:
                    self._deliver(channel, text)
                case ["subscribe", str(channel), int()]:
                    self._unanswered[channel] -= 1
                    if self._unanswered[channel] <= 0:
                        del self._unanswered[channel]
                        if channel in self._sent:
                            self._in_force(channel)
                case _:
                    pass

    def _deliver(self, channel: str, text: str) -> None:
        try:
            payload = orjson.loads(text)
        except orjson.JSONDecodeError:
            payload = None  # not ours; a reason to look at Postgres, no more
        for ear in self._ears.get(channel, ()):
            ear.hear(payload if isinstance(payload, dict) else None)

    def _confirmation(self, name: str) -> asyncio.Event:
        return self._confirmed.setdefault(name, asyncio.Event())

    def _in_force(self, channel: str) -> None:
        self._confirmation(channel).set()
        if channel in self._lost:
            self._lost.discard(channel)
            for ear in self._ears.get(channel, ()):
                ear.hear(None)  # what was rung in between was missed

    def _forget(self) -> None:
        """The connection is gone: every ear looks at Postgres now, and again when it is back."""
        if not self._away:
            self._away = True
            self._wake_all()
        self._lost |= self._sent
        self._sent.clear()
        self._unanswered.clear()
        for event in self._confirmed.values():
            event.clear()

    def _wake_all(self) -> None:
        for ears in self._ears.values():
            for ear in ears:
                ear.hear(None)
