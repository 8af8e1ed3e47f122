"""Session hosts that are killed or blocked: reads are repeated, writes are not, others go on."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from agentcy_ray.core.errors import OutcomeUnknownError
from agentcy_ray.core.ids import new_id
from agentcy_ray.core.tools import Effect
from tests.runtime.cluster import Hosts, open_hosts
from tests.runtime.lab import LIMIT_SECS

pytestmark = [pytest.mark.chaos, pytest.mark.usefixtures("ray_cluster")]


async def _back(hosts: Hosts) -> None:
    """Return once every host that was away is back."""
    away = list(hosts.dispatcher._away.values())
    assert away
    await asyncio.wait_for(asyncio.gather(*away), LIMIT_SECS)


@pytest.mark.requirement("TOOL-08")
async def test_a_killed_host_has_its_reads_repeated_elsewhere_and_its_writes_left_open() -> None:
    async with open_hosts(min=2, max=2) as hosts:
        harbour, call = hosts.harbour, hosts.dispatcher.call
        mine, others = await hosts.source_of(0, 2), await hosts.source_of(1, 2)
        victim, bystander = await hosts.pid(mine), await hosts.pid(others)
        assert victim != bystander
        read = asyncio.create_task(call(harbour.request(mine, name="read")))
        write = asyncio.create_task(call(harbour.request(mine, "report", Effect.WRITE, name="w")))
        other = asyncio.create_task(
            call(harbour.request(others, "report", Effect.WRITE, name="other"))
        )
        reports = [await harbour.next() for _ in range(3)]
        assert {report.name: report.pid for report in reports} == {
            "read": victim, "w": victim, "other": bystander,
        }  # fmt: skip

        os.kill(victim, signal.SIGKILL)
        again = await harbour.next()
        assert (again.name, again.pid) == ("read", bystander)
        again.release("repeated")
        assert (await read).value == "repeated"
        with pytest.raises(OutcomeUnknownError):
            await write
        next(report for report in reports if report.name == "other").release("undisturbed")
        assert (await other).value == "undisturbed"
        assert harbour.arrived.empty()

        await _back(hosts)
        assert await hosts.pid(mine) not in {victim, bystander}


@pytest.mark.requirement("TOOL-08")
async def test_calls_wait_for_the_only_host_while_it_is_started_anew() -> None:
    async with open_hosts(min=1, max=1) as hosts:
        harbour, call = hosts.harbour, hosts.dispatcher.call
        source = new_id()
        victim = await hosts.pid(source)
        read = asyncio.create_task(call(harbour.request(source)))
        await harbour.next()
        os.kill(victim, signal.SIGKILL)
        again = await harbour.next()
        assert again.pid != victim
        write = asyncio.create_task(call(harbour.request(source, "report", Effect.WRITE)))
        later = await harbour.next()
        again.release()
        later.release()
        assert [(await task).value for task in (read, write)] == ["done", "done"]


async def test_a_call_that_kills_its_host_is_not_repeated_for_ever() -> None:
    async with open_hosts(min=2, max=2) as hosts:
        outcome = await hosts.dispatcher.call(hosts.harbour.request(new_id(), "die"))
        assert (outcome.error_code, outcome.transient) == ("connector_error", True)
        await _back(hosts)
        assert await hosts.pid(new_id()) > 0


async def test_a_connector_that_blocks_delays_no_neighbour_on_its_host() -> None:
    async with open_hosts(min=1, max=1) as hosts:
        harbour, call = hosts.harbour, hosts.dispatcher.call
        blocker, neighbour = new_id(), new_id()
        waiting = asyncio.create_task(call(harbour.request(neighbour)))
        await harbour.next()
        blocked = asyncio.create_task(call(harbour.request(blocker, "block")))
        block = await harbour.next()
        (await harbour.next()).release("on another loop")
        assert (await waiting).value == "on another loop"
        answers = await asyncio.gather(
            *(call(harbour.request(neighbour, "echo", value=i)) for i in range(100))
        )
        assert [answer.value for answer in answers] == list(range(100))
        assert not blocked.done()
        block.release("awake")
        assert (await blocked).value == "awake"
