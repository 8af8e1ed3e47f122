"""One value per organisation, loaded when asked for and never older than a few seconds.

Policies and catalogs live in Postgres and are read on every call. Each process keeps the last
value; a ring on a channel makes it load anew at once, and the age limit bounds what a lost ring
costs. A load that fails is raised to the caller: a gate that cannot read its rules stays shut.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar
from uuid import UUID

T = TypeVar("T")


class Ear(Protocol):
    """A subscription to one channel."""

    async def next(self, timeout: float, /) -> dict[str, Any] | None:
        """The next message, or None: the time is up, or something may have been missed."""
        ...


Listen = Callable[[UUID], AbstractAsyncContextManager[Ear]]
"""Opens the channel on which changes of an organisation's value are rung."""


@dataclass
class _Entry(Generic[T]):
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    value: T | None = None
    fresh_until: float = 0.0
    used_at: float = 0.0
    watcher: asyncio.Task[None] | None = None


class OrgCache(Generic[T]):
    """Values by organisation. ``load(org_id, previous)`` may hand ``previous`` back unchanged."""

    def __init__(
        self,
        load: Callable[[UUID, T | None], Awaitable[T]],
        *,
        listen: Listen | None = None,
        max_age_secs: float = 5.0,
        idle_secs: float = 600.0,
    ) -> None:
        self._load = load
        self._listen = listen
        self._max_age = max_age_secs
        self._idle = idle_secs
        self._entries: dict[UUID, _Entry[T]] = {}

    async def get(self, org_id: UUID) -> T:
        """The value of ``org_id``, at most ``max_age_secs`` old.

        Raises:
            AgentcyError: whatever ``load`` raises; a stale value is never given instead.
        """
        entry = self._entries.get(org_id)
        if entry is None:
            entry = self._entries[org_id] = _Entry()
        entry.used_at = time.monotonic()
        if entry.value is not None and entry.used_at < entry.fresh_until:
            return entry.value
        async with entry.lock:
            now = time.monotonic()
            if entry.value is None or now >= entry.fresh_until:
                # Set before the load, so that a ring that arrives while it runs is not lost.
                entry.fresh_until = now + self._max_age
                try:
                    entry.value = await self._load(org_id, entry.value)
                except BaseException:
                    entry.fresh_until = 0.0
                    raise
            if entry.watcher is None and self._listen is not None:
                entry.watcher = asyncio.create_task(self._watch(org_id, entry, self._listen))
            return entry.value

    def expire(self, org_id: UUID) -> None:
        """Make the next ``get`` load anew."""
        if entry := self._entries.get(org_id):
            entry.fresh_until = 0.0

    @property
    def values(self) -> list[T]:
        """What is kept now."""
        return [entry.value for entry in self._entries.values() if entry.value is not None]

    async def close(self) -> None:
        """Stop listening."""
        watchers = [entry.watcher for entry in self._entries.values() if entry.watcher]
        self._entries.clear()
        for watcher in watchers:
            watcher.cancel()
        await asyncio.gather(*watchers, return_exceptions=True)

    async def _watch(self, org_id: UUID, entry: _Entry[T], listen: Listen) -> None:
        """Expire the value on every ring, until nobody has asked for it for a while."""
        async with listen(org_id) as ear:
            entry.fresh_until = 0.0  # what was rung before we listened
            while time.monotonic() - entry.used_at < self._idle:
                await ear.next(self._idle)
                entry.fresh_until = 0.0
        if self._entries.get(org_id) is entry:
            del self._entries[org_id]
