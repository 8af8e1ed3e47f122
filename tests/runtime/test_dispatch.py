"""Exchanges between dispatchers and session hosts, and who owns a source."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import pytest

from agentcy_ray.connectors.calls import Order
from agentcy_ray.runtime.host_set import choose_host
from agentcy_ray.runtime.mailbox import Mailbox


def _order(box: Mailbox, number: int = 1) -> Order:
    source = uuid4().bytes
    return Order((number, source, source, "echo", {}, False, None, False, 60.0), box.put)


async def _parked(box: Mailbox) -> asyncio.Task[list[object]]:
    """An exchange that has come to wait."""
    task: asyncio.Task[list[object]] = asyncio.ensure_future(box.take(wait=True))
    await asyncio.sleep(0)
    assert box.parked
    return task


@pytest.fixture
async def box() -> Mailbox:
    return Mailbox(asyncio.get_running_loop())


def test_a_source_stays_on_its_host_and_adding_one_moves_few() -> None:
    sources = [uuid4() for _ in range(2000)]
    before = {source: choose_host(source, ["a", "b", "c"]) for source in sources}
    after = {source: choose_host(source, ["a", "b", "c", "d"]) for source in sources}
    moved = [source for source in sources if before[source] != after[source]]
    assert all(after[source] == "d" for source in moved)
    assert 0.15 < len(moved) / len(sources) < 0.35


async def test_what_is_ready_is_taken_at_once(box: Mailbox) -> None:
    _order(box).answer(b"1")
    assert [answer[1] for answer in await box.take(wait=True)] == [b"1"]


async def test_an_exchange_with_nothing_ready_is_parked_until_something_is(box: Mailbox) -> None:
    parked = await _parked(box)
    _order(box).answer(b"1")
    assert len(await asyncio.wait_for(parked, 60)) == 1


async def test_the_next_exchange_releases_a_parked_one_so_a_slow_call_delays_nobody(
    box: Mailbox,
) -> None:
    first = await _parked(box)
    second = await _parked(box)
    assert await asyncio.wait_for(first, 60) == []
    _order(box).answer(b"1")
    assert len(await asyncio.wait_for(second, 60)) == 1


@pytest.mark.requirement("TOOL-10")
async def test_outcomes_that_end_together_travel_together(box: Mailbox) -> None:
    parked = await _parked(box)
    for number in range(20):
        _order(box, number).answer(b"1")
    assert [answer[0] for answer in await asyncio.wait_for(parked, 60)] == list(range(20))
