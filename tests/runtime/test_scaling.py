"""Session hosts come and go with the load, and no call is dropped."""

from __future__ import annotations

import asyncio

import pytest

from agentcy_ray.core.ids import new_id
from agentcy_ray.core.tools import Effect
from agentcy_ray.runtime.cluster_config.parts import SessionHosts
from agentcy_ray.runtime.host_keeper import Scale
from tests.runtime.cluster import Hosts, open_hosts
from tests.runtime.lab import LIMIT_SECS


async def _grow(hosts: Hosts) -> None:
    """One tick that finds the load, and one that tells of the hosts that it started."""
    await hosts.keeper.tick()
    await asyncio.wait_for(hosts.keeper.settled(), LIMIT_SECS)
    await hosts.keeper.tick()


def test_hosts_follow_the_calls_in_flight_up_at_once_and_down_when_idle() -> None:
    scale = Scale(SessionHosts(min=1, max=4, target_in_flight=10, idle_secs=60))
    assert scale.wanted(0, 1, 10) == 1
    assert scale.wanted(1, 1, 31) == 4
    assert scale.wanted(2, 4, 1000) == 4
    assert scale.wanted(3, 4, 5) == 4
    assert scale.wanted(50, 4, 35) == 4  # busy again: the time of quiet begins anew
    assert scale.wanted(51, 4, 0) == 4
    assert scale.wanted(112, 4, 0) == 3
    assert scale.wanted(113, 3, 0) == 3
    assert scale.wanted(173, 3, 0) == 2


@pytest.mark.usefixtures("ray_cluster")
async def test_calls_are_answered_while_hosts_are_added_and_taken_away() -> None:
    async with open_hosts(min=1, max=3, target_in_flight=4, idle_secs=0.001) as hosts:
        harbour, call = hosts.harbour, hosts.dispatcher.call
        sources = [new_id() for _ in range(12)]
        first = await hosts.pid(sources[0])
        waiting = [
            asyncio.create_task(call(harbour.request(source, effect=Effect.WRITE)))
            for source in sources
        ]
        reported = [await harbour.next() for _ in waiting]
        assert {report.pid for report in reported} == {first}

        await _grow(hosts)
        assert len(hosts.keeper.hosts.names) == 3
        pids = {await hosts.pid(source) for source in [*sources, *(new_id() for _ in range(20))]}
        assert len(pids) == 3

        moved = await hosts.source_of(2, 3)
        late = asyncio.create_task(call(harbour.request(moved, effect=Effect.WRITE)))
        held = await harbour.next()
        assert held.pid != first
        for report in reported:
            report.release()
        assert [outcome.value for outcome in await asyncio.gather(*waiting)] == ["done"] * 12

        for _ in range(6):  # two hosts leave; the one that holds a call stays until it is answered
            await hosts.keeper.tick()
        assert len(hosts.keeper.hosts.names) == 1
        assert {await hosts.pid(source) for source in sources} == {first}
        held.release("last")
        assert (await late).value == "last"
        for _ in range(2):
            await hosts.keeper.tick()
        assert hosts.keeper.leaving == ()
        assert await hosts.pid(moved) == first


@pytest.mark.usefixtures("ray_cluster")
async def test_a_call_to_a_host_that_has_left_goes_to_the_one_that_stays() -> None:
    async with open_hosts(min=1, max=2, target_in_flight=1, idle_secs=0.001) as hosts:
        harbour = hosts.harbour
        source = await hosts.source_of(1, 2)
        calls = [
            asyncio.create_task(hosts.dispatcher.call(harbour.request(source))) for _ in range(2)
        ]
        for _ in calls:
            (await harbour.next()).release()
        await asyncio.gather(*calls)
        await _grow(hosts)
        assert len(hosts.keeper.hosts.names) == 2
        assert await hosts.pid(source) != await hosts.pid(await hosts.source_of(0, 2))
        for _ in range(4):
            await hosts.keeper.tick()
        assert hosts.keeper.hosts.names == ("session-host-0",)
        assert await hosts.pid(source) == await hosts.pid(await hosts.source_of(0, 2))
