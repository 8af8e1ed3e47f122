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
START_SECS = 60.0
"""A host is given so long to be up, first and when it is started anew."""
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
    hangs_at: float
    """When its silence counts as hanging, on the monotonic clock."""
    asked: asyncio.Task[HostLoad | None] | None = None


class HostKeeper:
    """Starts, tells, counts and ends the hosts of one foreman.

    Args:
        part: bounds and targets.
        start: starts the host of a name, or finds it; returns its actor.
        linger_secs: how long a host that left the set stays to send late calls elsewhere.
    """

    def __init__(
        self,
        part: SessionHosts,
        start: Callable[[str], Any],
        linger_secs: float = LINGER_SECS,
    ) -> None:
        self._part = part
        self._linger_secs = linger_secs
        self._start = start
        self._scale = Scale(part)
        self._hosts: dict[str, _Host] = {}
        self._coming: dict[str, asyncio.Task[_Host | None]] = {}
        self._leaving: dict[str, tuple[_Host, float]] = {}
        self._set = HostSet(0, ())
        self._change([self._begin(i) for i in range(part.min)])

    @property
    def hosts(self) -> HostSet:
        """The present set."""
        return self._set

    @property
    def leaving(self) -> tuple[str, ...]:
        """Hosts that are out of the set and still finish calls."""
        return tuple(self._leaving)

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
        self._welcome()
        loads = await asyncio.gather(*(self._tell(host) for host in self._hosts.values()))
        peak = sum(load.peak for load in loads if load is not None)
        count = len(self._hosts) + len(self._coming)
        wanted = self._scale.wanted(time.monotonic(), count, peak)
        if wanted > count:
            self._grow(wanted - count)
        elif wanted < count and not self._coming:
            self._shrink()
        for host, left_at in list(self._leaving.values()):
            await self._see_off(host, left_at)

    async def settled(self) -> None:
        """Wait until every host that was started is up, or failed to be."""
        if self._coming:
            await asyncio.wait(self._coming.values())

    def _grow(self, more: int) -> None:
        taken = {*self._hosts, *self._coming}
        missing = [i for i in range(self._part.max) if host_name(i) not in taken]
        for i in missing[:more]:
            name = host_name(i)
            leaving = self._leaving.pop(name, None)  # it may as well stay
            host = self._begin(i) if leaving is None else leaving[0]
            self._coming[name] = asyncio.create_task(_ready(host))

    def _welcome(self) -> None:
        """Put hosts that are up by now into the set; it is told with this tick."""
        done = {name: task for name, task in self._coming.items() if task.done()}
        up = [host for task in done.values() if (host := task.result()) is not None]
        for name in done:
            del self._coming[name]
        if up:
            self._change([*self._hosts.values(), *up])

    def _shrink(self) -> None:
        last = max(self._hosts.values(), key=lambda host: int(host.name.rsplit("-", 1)[1]))
        self._change([host for host in self._hosts.values() if host is not last])
        self._leaving[last.name] = last, time.monotonic()

    async def _see_off(self, host: _Host, left_at: float) -> None:
        load = await self._tell(host)
        if time.monotonic() - left_at < self._linger_secs:
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
            host.hangs_at = now + SILENT_SECS
        elif done:  # it died, and is being started anew
            host.hangs_at = now + START_SECS
        elif now > host.hangs_at:
            _log.warning("session_host_hangs", host=host.name)
            host.hangs_at = now + START_SECS
            ray.kill(host.actor, no_restart=False)
        return load

    def _begin(self, index: int) -> _Host:
        name = host_name(index)
        return _Host(name, self._start(name), time.monotonic() + START_SECS)

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


async def _ready(host: _Host) -> _Host | None:
    try:
        async with asyncio.timeout(START_SECS):
            await host.actor.ping.remote()
    except (RayError, TimeoutError):
        _log.warning("session_host_did_not_start", host=host.name)
        ray.kill(host.actor, no_restart=True)
        return None
    return host
