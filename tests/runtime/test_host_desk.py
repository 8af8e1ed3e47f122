"""A host's desk: connectors that block or end their event loop hurt nobody but themselves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any
from uuid import UUID

import pytest

from agentcy_ray.connectors.calls import Answer, wire
from agentcy_ray.connectors.sessions import SessionPool
from agentcy_ray.core.errors import NotFoundError
from agentcy_ray.core.ids import new_id
from agentcy_ray.core.settings import Settings
from agentcy_ray.core.tools import Effect, ToolRequest
from agentcy_ray.runtime.host_desk import Desk
from agentcy_ray.runtime.host_set import HostSet, choose_host
from tests.runtime.lab import LIMIT_SECS, ORG, Harbour, LabSources, open_harbour

HOST = "session-host-0"


class Caller:
    """A dispatcher, cut down to its exchanges."""

    def __init__(self, desk: Desk, name: str = "caller") -> None:
        self.desk = desk
        self.name = name
        self.version = 0
        self.hosts: HostSet | None = None
        self.refused: list[int] = []
        self._number = 0
        self._answers: dict[int, Answer] = {}

    async def send(self, *requests: ToolRequest) -> list[int]:
        """Hand calls over; their numbers."""
        calls = []
        for request in requests:
            self._number += 1
            calls.append(wire(self._number, request))
        await self._exchange(calls, wait=False)
        return [call[0] for call in calls]

    async def answer(self, number: int) -> Answer:
        """The answer of a call, fetched by exchanges that park."""
        async with asyncio.timeout(LIMIT_SECS):
            while number not in self._answers:
                await self._exchange([], wait=True)
        return self._answers.pop(number)

    async def ask(self, request: ToolRequest) -> Answer:
        (number,) = await self.send(request)
        return await self.answer(number)

    async def cancel(self, number: int) -> None:
        await self._exchange([], [number], wait=False)

    async def _exchange(
        self, calls: Sequence[Any], cancels: Sequence[int] = (), *, wait: bool
    ) -> None:
        hosts, self.refused, answers = await self.desk.exchange(
            self.name, self.version, wait, calls, cancels
        )
        self.hosts = hosts or self.hosts
        self._answers |= {answer[0]: answer for answer in answers}


@pytest.fixture
async def harbour() -> AsyncIterator[Harbour]:
    async with open_harbour() as opened:
        yield opened


@pytest.fixture
async def caller(settings: Settings) -> AsyncIterator[Caller]:
    desk = Desk(HOST, lambda: SessionPool(LabSources(settings)))
    yield Caller(desk)
    await asyncio.wait_for(desk.close(), LIMIT_SECS)


async def test_a_call_is_carried_out_and_answered(caller: Caller, harbour: Harbour) -> None:
    answer = await caller.ask(harbour.request(new_id(), "echo", value={"a": 1}))
    assert answer[1:5] == (b'{"a":1}', None, None, False)


async def test_a_connector_that_blocks_its_loop_delays_no_neighbour(
    caller: Caller, harbour: Harbour
) -> None:
    blocker, neighbour = new_id(), new_id()
    (waiting,) = await caller.send(harbour.request(neighbour))
    first = await harbour.next()
    (blocked,) = await caller.send(harbour.request(blocker, "block"))
    block = await harbour.next()
    # The neighbour's read was on the loop that hangs: it is carried out again on another one.
    second = await harbour.next()
    assert (first.tool, second.tool) == ("report", "report")
    second.release("again")
    assert (await caller.answer(waiting))[1] == b'"again"'
    assert (await caller.ask(harbour.request(neighbour, "echo", value=1)))[1] == b"1"
    block.release("awake")
    assert (await caller.answer(blocked))[1] == b'"awake"'
    first.release("late")
    assert (await caller.ask(harbour.request(blocker, "echo", value=2)))[1] == b"2"


async def test_a_source_that_blocked_once_is_alone_when_it_blocks_again(
    caller: Caller, harbour: Harbour
) -> None:
    blocker, neighbour = new_id(), new_id()
    for turn in range(2):
        (blocked,) = await caller.send(harbour.request(blocker, "block"))
        block = await harbour.next()
        for i in range(3):
            (number,) = await caller.send(harbour.request(neighbour, name=f"{turn}{i}"))
            call = await harbour.next()
            while call.name != f"{turn}{i}":  # one that was repeated, the first time
                call = await harbour.next()
            call.release()
            assert (await caller.answer(number))[1] == b'"done"'
        block.release()
        await caller.answer(blocked)


async def test_a_write_that_was_sent_is_not_repeated_when_its_loop_hangs(
    caller: Caller, harbour: Harbour
) -> None:
    blocker, neighbour = new_id(), new_id()
    (sent,) = await caller.send(harbour.request(neighbour, effect=Effect.WRITE))
    first = await harbour.next()
    (blocked,) = await caller.send(harbour.request(blocker, "block"))
    block = await harbour.next()
    # Handed to the loop that hangs and so not sent: taken over, and carried out once.
    (unsent,) = await caller.send(harbour.request(neighbour, effect=Effect.WRITE, name="unsent"))
    moved = await harbour.next()
    assert moved.name == "unsent"
    moved.release("moved")
    assert (await caller.answer(unsent))[1] == b'"moved"'
    block.release()
    await caller.answer(blocked)
    first.release("once")
    assert (await caller.answer(sent))[1] == b'"once"'
    assert harbour.arrived.empty()


async def test_calls_on_a_loop_that_hangs_end_at_their_deadlines(
    caller: Caller, harbour: Harbour
) -> None:
    blocker, neighbour = new_id(), new_id()
    (write,) = await caller.send(harbour.request(neighbour, effect=Effect.WRITE, within=2))
    call = await harbour.next()
    (read,) = await caller.send(harbour.request(blocker, "block", within=2))
    block = await harbour.next()
    (queued,) = await caller.send(harbour.request(blocker, "echo", Effect.WRITE, within=2))
    codes = [(await caller.answer(number))[2] for number in (write, read, queued)]
    assert codes == ["indeterminate", "connector_timeout", "unavailable"]
    block.release()
    call.release()


async def test_a_connector_that_ends_its_loop_takes_no_neighbour_along(
    caller: Caller, harbour: Harbour
) -> None:
    (read,) = await caller.send(harbour.request(new_id()))
    call = await harbour.next()
    (end,) = await caller.send(harbour.request(new_id(), "end", within=1))
    assert (await caller.answer(end))[2] == "connector_timeout"
    call.release()
    assert (await caller.answer(read))[1] == b'"done"'


async def test_a_read_that_is_given_up_is_stopped(caller: Caller, harbour: Harbour) -> None:
    (number,) = await caller.send(harbour.request(new_id()))
    await harbour.next()
    await caller.cancel(number)
    assert (await caller.answer(number))[2] == "cancelled"


async def test_a_host_refuses_what_another_one_owns_and_tells_who_there_is(
    caller: Caller, harbour: Harbour
) -> None:
    names = (HOST, "session-host-1")
    caller.desk.learn(HostSet(7, names))
    ids = [new_id() for _ in range(50)]
    mine = next(i for i in ids if choose_host(i, names) == HOST)
    others = next(i for i in ids if choose_host(i, names) != HOST)
    kept, refused = await caller.send(
        harbour.request(mine, "echo"), harbour.request(others, "echo")
    )
    assert caller.refused == [refused]
    assert caller.hosts == HostSet(7, names)
    assert (await caller.answer(kept))[2] is None
    caller.version = 7  # who knows the set decides: the owner may be away
    assert (await caller.ask(harbour.request(others, "echo")))[2] is None


async def test_a_host_says_how_many_calls_it_holds(caller: Caller, harbour: Harbour) -> None:
    numbers = await caller.send(*(harbour.request(new_id()) for _ in range(5)))
    for _ in numbers:
        (await harbour.next()).release()
    for number in numbers:
        await caller.answer(number)
    load = caller.desk.learn(HostSet(1, (HOST,)))
    assert (load.in_flight, load.peak, load.undelivered) == (0, 5, 0)
    assert caller.desk.learn(HostSet(1, (HOST,))).peak == 0


async def test_a_source_is_checked_where_its_session_is(caller: Caller) -> None:
    assert await caller.desk.check(ORG, new_id()) is None
    same = UUID(int=5)
    assert isinstance(await caller.desk.check(same, same), NotFoundError)
