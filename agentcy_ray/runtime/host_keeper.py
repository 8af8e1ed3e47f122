"""Keeping session hosts: as many as the load asks for, and none taken away with calls in it.

A host above the least number is added when the calls in flight pass what the present ones are meant
to hold, and leaves when fewer would have done for ``idle_secs``. One that leaves is first left out
of the set, which hosts tell dispatchers; it ends once it holds nothing, and once every dispatcher
must have heard of it.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
import structlog
from ray.exceptions import RayError

from agentcy_ray.runtime.cluster_config.parts import SessionHosts
from agentcy_ray.runtime.dispatch import STALE_SECS
from agentcy_ray.runtime.host_set import HostLoad, HostSet
from agentcy_ray.runtime.names import host_name

TICK_SECS = 1.0
LINGER_SECS = 3 * STALE_SECS
"""A dispatcher asks for the set anew after ``STALE_SECS``; by now none thinks of an old one."""
SILENT_SECS = 10.0
"""A host that does not answer for so long hangs as a whole and is started anew."""
_log = structlog.get_logger(__name__)


class Scale:
    """How many hosts there should be."""

    def __init__(self, part: SessionHosts) -> None:
        self._part = part
        self._enough_since: float | None = None

    def wanted(self, now: float, count: int, peak: int) -> int:
        """Hosts to have, when ``count`` held ``peak`` calls in flight together."""
        part = self._part
        needed = min(part.max, max(part.min, math.ceil(peak / part.target_in_flight)))
        if needed >= count:
            self._enough_since = None
            return needed
        if self._enough_since is None:
            self._enough_since = now
        if now - self._enough_since < part.idle_secs:
            return count
        self._enough_since = now
        return count - 1


@dataclass
class _Host:
    name: str
    actor: Any
    answered_at: float
    asked: asyncio.Task[HostLoad | None] | None = None


class HostKeeper:
    """Starts, tells, counts and ends the hosts of one foreman.

    Args:
        part: bounds and targets.
        start: starts the host of a name, or finds it; returns its actor.
    """

    def __init__(self, part: SessionHosts, start: Callable[[str], Any]) -> None:
        self._part = part
        self._start = start
        self._scale = Scale(part)
        self._hosts: dict[str, _Host] = {}
        self._leaving: dict[str, tuple[_Host, float]] = {}
        self._set = HostSet(0, ())
        self._change([self._begin(i) for i in range(part.min)])

    @property
    def hosts(self) -> HostSet:
        """The present set."""
        return self._set

    async def run(self, stop: asyncio.Event) -> None:
        """Look after the hosts until told to stop."""
        while not stop.is_set():
            await self.tick()
            try:
                await asyncio.wait_for(stop.wait(), TICK_SECS)
            except TimeoutError:
                continue

    async def tick(self) -> None:
        """Tell every host the set, and add or take one by what they answer."""
        loads = await asyncio.gather(*(self._tell(host) for host in self._hosts.values()))
        peak = sum(load.peak for load in loads if load is not None)
        count = len(self._hosts)
        wanted = self._scale.wanted(time.monotonic(), count, peak)
        if wanted > count:
            await self._grow(wanted)
        elif wanted < count:
            self._shrink()
        for host, left_at in list(self._leaving.values()):
            await self._see_off(host, left_at)

    async def _grow(self, wanted: int) -> None:
        missing = [i for i in range(self._part.max) if host_name(i) not in self._hosts]
        fresh: list[_Host] = []
        for i in missing[: wanted - len(self._hosts)]:
            leaving = self._leaving.pop(host_name(i), None)  # it may as well stay
            fresh.append(self._begin(i) if leaving is None else leaving[0])
        up = await asyncio.gather(*(_ready(host) for host in fresh))
        self._change([*self._hosts.values(), *(h for h, ok in zip(fresh, up, strict=True) if ok)])
        await asyncio.gather(*(self._tell(host) for host in self._hosts.values()))

    def _shrink(self) -> None:
        last = max(self._hosts.values(), key=lambda host: int(host.name.rsplit("-", 1)[1]))
        self._change([host for host in self._hosts.values() if host is not last])
        self._leaving[last.name] = last, time.monotonic()

    async def _see_off(self, host: _Host, left_at: float) -> None:
        load = await self._tell(host)
        if time.monotonic() - left_at < LINGER_SECS:
            return
        if load is None or not (load.in_flight or load.undelivered):
            del self._leaving[host.name]
            ray.kill(host.actor, no_restart=True)
            _log.info("session_host_left", host=host.name)

    async def _tell(self, host: _Host) -> HostLoad | None:
        """Tell one host the set; None when it does not answer within a tick."""
        if host.asked is None or host.asked.done():
            host.asked = asyncio.create_task(_told(host.actor, self._set))
        done, _ = await asyncio.wait({host.asked}, timeout=TICK_SECS)
        load = host.asked.result() if done else None
        now = time.monotonic()
        if load is not None:
            host.answered_at = now
        elif now - host.answered_at > SILENT_SECS:
            _log.warning("session_host_hangs", host=host.name)
            host.answered_at = now
            ray.kill(host.actor, no_restart=False)
        return load

    def _begin(self, index: int) -> _Host:
        name = host_name(index)
        return _Host(name, self._start(name), time.monotonic())

    def _change(self, hosts: list[_Host]) -> None:
        self._hosts = {host.name: host for host in hosts}
        # Milliseconds: the sets of a foreman that took over are newer than its forerunner's.
        version = max(self._set.version + 1, time.time_ns() // 1_000_000)
        self._set = HostSet(version, tuple(self._hosts))
        _log.info("session_hosts", hosts=list(self._hosts), version=version)


async def _told(actor: Any, hosts: HostSet) -> HostLoad | None:
    try:
        return await actor.tell.remote(hosts)
    except RayError:  # it is being restarted
        return None


async def _ready(host: _Host) -> bool:
    try:
        async with asyncio.timeout(SILENT_SECS):
            await host.actor.ping.remote()
    except (RayError, TimeoutError):
        ray.kill(host.actor, no_restart=True)
        return False
    return True
