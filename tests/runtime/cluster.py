"""Session hosts of a test on the cluster, with the lab's sources."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import ray

from agentcy_ray.core.ids import new_id
from agentcy_ray.runtime import names
from agentcy_ray.runtime.cluster import NAMESPACE
from agentcy_ray.runtime.cluster_config import ClusterConfig
from agentcy_ray.runtime.dispatch import RayDispatcher
from agentcy_ray.runtime.foreman import keep_hosts
from agentcy_ray.runtime.host_keeper import HostKeeper
from agentcy_ray.runtime.host_set import choose_host
from tests.runtime.lab import Harbour, open_harbour, open_lab


@dataclass
class Hosts:
    """What a test holds of them."""

    keeper: HostKeeper
    dispatcher: RayDispatcher
    harbour: Harbour

    async def pid(self, source_id: UUID) -> int:
        """The process that holds a source's session."""
        outcome = await self.dispatcher.call(self.harbour.request(source_id, "pid"))
        assert outcome.ok, outcome
        return int(outcome.value)

    async def source_of(self, index: int, count: int) -> UUID:
        """A source that the host of this number owns while there are ``count``."""
        there = [names.host_name(i) for i in range(count)]
        while choose_host(source := new_id(), there) != names.host_name(index):
            pass
        return source


@asynccontextmanager
async def open_hosts(**part: Any) -> AsyncIterator[Hosts]:
    """Hosts by the given section ``session_hosts``, told once; gone afterwards."""
    config = ClusterConfig.model_validate({"session_hosts": part})
    keeper = keep_hosts(config, open_lab, linger_secs=0)
    hosts = config.session_hosts
    dispatcher = RayDispatcher(
        names.session_hosts(config), hosts.batch_max, scales=hosts.max > hosts.min
    )
    try:
        await keeper.tick()
        async with open_harbour() as harbour:
            yield Hosts(keeper, dispatcher, harbour)
            await dispatcher.close()
    finally:
        for i in range(hosts.max):
            try:
                ray.kill(ray.get_actor(names.host_name(i), namespace=NAMESPACE))
            except ValueError:
                continue
