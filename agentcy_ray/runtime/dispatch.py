"""The dispatcher of a cluster: every call goes to the session host that owns its source.

Which hosts there are it learns from their answers. While a host is away its sources are served by
the next host in order, and by nobody while there is none: then calls wait for it, up to
``PATIENCE_SECS``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID, uuid4

import ray
from ray.exceptions import RayError

from agentcy_ray.connectors.calls import Caller, Told
from agentcy_ray.core.errors import ConnectorUnavailableError
from agentcy_ray.core.metrics import Metrics
from agentcy_ray.core.tools import ToolRequest
from agentcy_ray.runtime.cluster import NAMESPACE
from agentcy_ray.runtime.host_lane import Lane, Waiting
from agentcy_ray.runtime.host_set import choose_host
from agentcy_ray.runtime.wire import pack, unpack_reply

PATIENCE_SECS = 15.0
"""How long calls wait for a host while none is up; a restart takes one to three."""
STALE_SECS = 5.0
"""A dispatcher that heard nothing for so long asks for the hosts first, where they may change."""
_PAUSES = (0.05, 0.1, 0.2, 0.4, 0.8)
_HOMES_MAX = 100_000


class RayDispatcher(Caller):
    """Implements the dispatcher protocol of the agent floor over session hosts.

    Args:
        hosts: the hosts that are always there; more are learned from their answers.
        batch_max: calls that travel together.
        scales: whether hosts come and go.
        metrics: of the process.
    """

    def __init__(
        self,
        hosts: Sequence[str],
        batch_max: int,
        *,
        scales: bool = False,
        metrics: Metrics | None = None,
    ) -> None:
        self.version = 0
        self._names = tuple(hosts)
        self._always = tuple(hosts)
        self._batch_max = batch_max
        self._scales = scales
        self._heard_at = 0.0
        self._lanes: dict[str, Lane] = {}
        self._homes: dict[UUID, Lane] = {}
        self._away: dict[str, asyncio.Task[None]] = {}
        self._held: list[Waiting] = []
        self._waiting: dict[UUID, Waiting] = {}
        self._asking: asyncio.Task[None] | None = None
        metrics = metrics or Metrics()
        self._batches = metrics.tool_batch_size
        metrics.sample(metrics.session_host_in_flight, lambda: len(self._waiting))

    async def send(
        self, requests: Sequence[ToolRequest], told: Callable[[ToolRequest, Told], None]
    ) -> None:
        """Execute calls on the hosts of their sources; those of one host travel together."""
        if self._scales and asyncio.get_running_loop().time() - self._heard_at > STALE_SECS:
            await self._ask()

        def done(request: ToolRequest, what: Told) -> None:
            self._waiting.pop(request.tool_call_id, None)
            told(request, what)

        for request in requests:
            waiting = self._waiting[request.tool_call_id] = Waiting(request, done)
            self.route(waiting)

    async def abandon(self, calls: Sequence[ToolRequest]) -> None:
        """Stop waiting for reads in flight."""
        for request in calls:
            waiting = self._waiting.get(request.tool_call_id)
            if waiting is not None and waiting.repeatable:
                waiting.give_up()
                if waiting.lane is not None:
                    waiting.lane.cancel(waiting)

    async def check_source(self, org_id: UUID, source_id: UUID) -> None:
        """Reach a source with its credentials, on the host that owns it.

        Raises:
            SourceConfigError: it does not work as configured.
            ConnectorUnavailableError: the host is not up.
        """
        name = choose_host(source_id, self._names)
        try:
            host: Any = ray.get_actor(name, namespace=NAMESPACE)
            fault = await host.check_source.remote(org_id, source_id)
        except (RayError, ValueError) as error:
            raise ConnectorUnavailableError(
                f"session host {name!r} does not answer; try again in a moment"
            ) from error
        if fault is not None:
            raise fault

    async def close(self) -> None:
        """Stop waiting for hosts; sessions belong to them."""
        tasks = [*self._away.values(), *([self._asking] if self._asking else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # -- for lanes -----------------------------------------------------------------------------

    def route(self, waiting: Waiting) -> None:
        """Send a call to the host that owns its source, or hold it while no host is up."""
        source_id = waiting.request.source_id
        lane = self._homes.get(source_id)
        if lane is None:
            there = [name for name in self._names if name not in self._away]
            if not there:
                self._held.append(waiting)
                return
            if len(self._homes) >= _HOMES_MAX:
                self._homes.clear()
            lane = self._homes[source_id] = self._lane(choose_host(source_id, there))
        lane.submit(waiting)

    def travelled(self, calls: int) -> None:
        """A lane sent so many calls together."""
        self._batches.observe(calls)

    def heard(self, version: int, names: tuple[str, ...] | None) -> None:
        """A host answered; with the set of hosts when that is newer than ours."""
        self._heard_at = asyncio.get_running_loop().time()
        if names and version > self.version:
            self.version, self._names = version, names
            self._homes.clear()

    def away(self, lane: Lane, unsent: list[Waiting]) -> None:
        """A host does not answer: its calls go to the next one in order, or wait."""
        self._homes.clear()
        if lane.host not in self._away:
            task = asyncio.get_running_loop().create_task(self._expect(lane.host))
            self._away[lane.host] = task
        for waiting in unsent:
            self.route(waiting)

    # -- inside --------------------------------------------------------------------------------

    def _lane(self, host: str) -> Lane:
        lane = self._lanes.get(host)
        if lane is None:
            lane = self._lanes[host] = Lane(host, self._batch_max, self)
        return lane

    async def _expect(self, host: str) -> None:
        """Wait until a host is back, or for as long as patience lasts; then release its calls."""
        loop, up = asyncio.get_running_loop(), False
        end, pauses = loop.time() + PATIENCE_SECS, iter(_PAUSES)
        while not up and loop.time() < end and host in self._names:
            await asyncio.sleep(next(pauses, _PAUSES[-1]))
            up = await _answers(host, end - loop.time())
        del self._away[host]
        self._homes.clear()
        held, self._held = self._held, []
        for waiting in held:
            if up or len(self._away) < len(self._names) - 1:
                self.route(waiting)
            else:
                waiting.tell(
                    ConnectorUnavailableError(
                        f"session host {host!r} is not up; `agentcy status` shows the parts"
                    )
                )

    async def _ask(self) -> None:
        """Learn the set of hosts from one that is always there; many callers ask once."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._hello())
        await asyncio.shield(self._asking)

    async def _hello(self) -> None:
        for host in self._always:
            try:
                actor: Any = ray.get_actor(host, namespace=NAMESPACE)
                message = pack((uuid4().hex, self.version, False, [], []))
                version, names, _, _ = unpack_reply(await actor.exchange.remote(message))
            except (RayError, ValueError):
                continue  # the next one knows as much; when none answers the call itself will tell
            self.heard(version, names)
            return


async def _answers(host: str, secs: float) -> bool:
    try:
        async with asyncio.timeout(max(0.1, secs)):
            actor: Any = ray.get_actor(host, namespace=NAMESPACE)
            await actor.ping.remote()
    except (RayError, ValueError, TimeoutError):
        return False
    return True
