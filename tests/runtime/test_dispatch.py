"""Exchanges between dispatchers and session hosts, over asyncio in place of the cluster."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import pytest

from agentcy_ray.core.ids import new_id
from agentcy_ray.core.tools import ToolOutcome
from agentcy_ray.runtime.dispatch import choose_host
from agentcy_ray.runtime.session_hosts import Mailbox


def _outcome() -> ToolOutcome:
    return ToolOutcome(tool_call_id=new_id(), ok=True, value=1)


def test_a_source_stays_on_its_host_and_adding_one_moves_few() -> None:
    sources = [uuid4() for _ in range(2000)]
    before = {source: choose_host(source, ["a", "b", "c"]) for source in sources}
    after = {source: choose_host(source, ["a", "b", "c", "d"]) for source in sources}
    moved = [source for source in sources if before[source] != after[source]]
    assert all(after[source] == "d" for source in moved)
    assert 0.15 < len(moved) / len(sources) < 0.35


async def test_what_is_ready_is_taken_at_once() -> None:
    box, outcome = Mailbox(), _outcome()
    box.put(outcome)
    assert await box.take(wait=True) == [outcome]


async def test_an_exchange_with_nothing_ready_is_parked_until_something_is() -> None:
    box, outcome = Mailbox(), _outcome()
    parked = asyncio.create_task(box.take(wait=True))
    for _ in range(5):
        await asyncio.sleep(0)
    assert not parked.done()
    box.put(outcome)
    assert await asyncio.wait_for(parked, 5) == [outcome]


async def test_the_next_exchange_releases_a_parked_one_so_a_slow_call_delays_nobody() -> None:
    box, outcome = Mailbox(), _outcome()
    parked = asyncio.create_task(box.take(wait=True))
    for _ in range(5):
        await asyncio.sleep(0)
    fresh = asyncio.create_task(box.take(wait=True))
    assert await asyncio.wait_for(parked, 5) == []
    box.put(outcome)
    assert await asyncio.wait_for(fresh, 5) == [outcome]


@pytest.mark.requirement("TOOL-10")
async def test_outcomes_that_end_together_travel_together() -> None:
    box, outcomes = Mailbox(), [_outcome() for _ in range(20)]
    parked = asyncio.create_task(box.take(wait=True))
    for _ in range(5):
        await asyncio.sleep(0)
    for outcome in outcomes:
        box.put(outcome)
    assert await asyncio.wait_for(parked, 5) == outcomes
