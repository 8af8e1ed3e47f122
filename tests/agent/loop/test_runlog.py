"""The run log: numbered, fenced, followed without loss."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from agentcy_ray.agent.follow import run_channel
from agentcy_ray.agent.run_records import Ending, message_end
from agentcy_ray.agent.run_writer import EVENT_BYTES, RunKey, Stored
from agentcy_ray.agent.runlog import RunLog
from agentcy_ray.core.clock import rfc3339
from agentcy_ray.core.errors import GoneError, LeaseLostError, NotFoundError
from agentcy_ray.core.events import EventType, RunEvent, Usage
from agentcy_ray.core.ids import new_id
from agentcy_ray.core.settings import Settings
from agentcy_ray.stores.bell import Bell
from agentcy_ray.stores.redis import open_redis
from tests.agent.loop.conftest import World

DELTA = EventType.CONTENT_DELTA


async def end(world: World, run_id: object = None) -> None:
    """End the one run that is active."""
    (run,) = [r for r in await world.runs.list(world.principal) if not r.ended]
    ending = Ending(
        status="completed",
        reason="end_turn",
        usage=Usage(),
        events=(message_end(run, "end_turn", Usage()),),
    )
    await world.runs.end(run, ending)


async def collect(stream: AsyncGenerator[RunEvent | None]) -> list[RunEvent]:
    return [event async for event in stream if event is not None]


async def test_numbers_grow_by_one_across_concurrent_appends(world: World) -> None:
    await world.start()
    run = await world.claim()
    await asyncio.gather(
        *(
            world.log.append(run.key, [(DELTA, {"delta": f"{n}a"}), (DELTA, {"delta": f"{n}b"})])
            for n in range(20)
        )
    )
    events = await world.log.read(world.org_id, run.id)
    assert [event.seq for event in events] == list(range(1, 42))
    assert events[0].type is EventType.MESSAGE_START
    deltas = [event.data["delta"] for event in events[1:]]
    assert all(b == f"{a[:-1]}b" for a, b in zip(deltas[::2], deltas[1::2], strict=True))


@pytest.mark.requirement("AGT-09")
async def test_a_former_owner_writes_nothing_while_others_in_its_batch_do(world: World) -> None:
    await world.start()
    stale = await world.claim("a")
    await world.runs.release(stale.key)
    fresh = await world.claim("b")
    assert fresh.epoch == stale.epoch + 1
    refused, written = await asyncio.gather(
        world.log.append(stale.key, [(DELTA, {"delta": "stale"})]),
        world.log.append(fresh.key, [(DELTA, {"delta": "fresh"})]),
        return_exceptions=True,
    )
    assert isinstance(refused, LeaseLostError)
    assert isinstance(written, list)
    texts = [e.data.get("delta") for e in await world.log.read(world.org_id, fresh.id)]
    assert texts == [None, "fresh"]


async def test_an_ended_run_takes_no_more_events(world: World) -> None:
    await world.start()
    run = await world.claim()
    await end(world)
    with pytest.raises(LeaseLostError):
        await world.log.append(run.key, [(DELTA, {"delta": "x"})])


async def test_a_reader_gets_backlog_and_live_events_once_in_order_to_the_end(world: World) -> None:
    await world.start()
    run = await world.claim()
    for n in range(3):
        await world.log.append(run.key, [(DELTA, {"delta": str(n)})])
    reading = asyncio.create_task(collect(world.log.follow(world.org_id, run.id)))
    for n in range(3, 60):
        await world.log.append(run.key, [(DELTA, {"delta": str(n)})])
    await end(world)
    events = await asyncio.wait_for(reading, 60)
    assert [event.seq for event in events] == list(range(1, 63))
    assert events[-1].type is EventType.MESSAGE_END


@pytest.mark.requirement("SSE-02")
async def test_a_reader_resumes_on_another_replica_where_the_first_stopped(world: World) -> None:
    await world.start()
    run = await world.claim()
    stream = world.log.follow(world.org_id, run.id)
    await world.log.append(run.key, [(DELTA, {"delta": str(n)}) for n in range(5)])
    first = [await anext(stream) for _ in range(3)]
    await stream.aclose()
    elsewhere = await open_redis(world.redis_url, world.redis_prefix)
    bell = Bell(elsewhere)
    other = RunLog(world.db, bell, world.settings)
    last = first[-1]
    assert last is not None
    reading = asyncio.create_task(collect(other.follow(world.org_id, run.id, after=last.seq)))
    await world.log.append(run.key, [(DELTA, {"delta": "live"})])
    await end(world)
    rest = await asyncio.wait_for(reading, 60)
    await bell.aclose()
    await elsewhere.aclose()
    assert [event.seq for event in rest] == [4, 5, 6, 7, 8]


async def test_lost_rings_delay_events_but_lose_none(world: World) -> None:
    nowhere = await open_redis(world.redis_url, "another-prefix")
    silent = RunLog(world.db, Bell(nowhere), world.settings)
    await world.start()
    run = await world.claim()
    stream = world.log.follow(world.org_id, run.id)
    assert await anext(stream)
    await silent.append(run.key, [(DELTA, {"delta": "unheard"})])
    event = await asyncio.wait_for(anext(stream), 60)
    assert event is not None
    assert event.data == {"delta": "unheard"}
    await stream.aclose()
    await nowhere.aclose()


async def test_rings_out_of_order_or_twice_change_nothing(world: World) -> None:
    await world.start()
    run = await world.claim()
    stream = world.log.follow(world.org_id, run.id)
    await anext(stream)
    reading = asyncio.create_task(collect(stream))
    written = await world.log.append(
        run.key, [(DELTA, {"delta": "one"}), (DELTA, {"delta": "two"})]
    )
    for event in reversed(written):
        await world.bell.ring(run_channel(run.id), {"seq": event.seq, "events": [_rung(event)]})
    await world.bell.ring(run_channel(run.id), {"seq": 1})
    await end(world)
    events = await asyncio.wait_for(reading, 60)
    assert [event.seq for event in events] == [2, 3, 4]


@pytest.mark.requirement("SSE-05")
async def test_a_quiet_stream_says_when_to_ping(world: World) -> None:
    settings = Settings.load({}, redis_prefix=world.redis_prefix, sse_ping_secs=0.05)
    log = RunLog(world.db, world.bell, settings)
    await world.start()
    run = await world.claim()
    stream = log.follow(world.org_id, run.id)
    assert (await anext(stream)) is not None
    assert (await asyncio.wait_for(anext(stream), 60)) is None
    assert (await asyncio.wait_for(anext(stream), 60)) is None
    await stream.aclose()


@pytest.mark.requirement("SSE-07")
async def test_a_finished_run_is_replayed_and_closed(world: World) -> None:
    await world.start()
    run = await world.claim()
    await end(world)
    events = await asyncio.wait_for(collect(world.log.follow(world.org_id, run.id)), 60)
    assert [event.type for event in events] == [EventType.MESSAGE_START, EventType.MESSAGE_END]


@pytest.mark.requirement("SSE-07")
async def test_a_log_past_its_retention_is_gone(world: World) -> None:
    await world.start()
    run = await world.claim()
    await end(world)
    async with world.db.system() as connection:
        await connection.execute("UPDATE runs SET ended_at = now() - interval '31 days'")
    with pytest.raises(GoneError) as caught:
        await anext(world.log.follow(world.org_id, run.id))
    assert caught.value.code == "event_log_gone"


async def test_the_log_of_an_unknown_run_is_not_found(world: World) -> None:
    with pytest.raises(NotFoundError):
        await anext(world.log.follow(world.org_id, new_id()))


async def test_text_that_postgres_refuses_is_repaired(world: World) -> None:
    await world.start()
    run = await world.claim()
    (event,) = await world.log.append(run.key, [(DELTA, {"delta": "a\x00b\ud83d"})])
    (stored,) = await world.log.read(world.org_id, run.id, after=1)
    assert stored.data == event.data == {"delta": "a\ufffdb\ufffd"}


async def test_an_event_is_cut_to_its_limit_and_marked(world: World) -> None:
    await world.start()
    run = await world.claim()
    data = {"args": {"text": "x" * (2 * EVENT_BYTES)}, "name": "t"}
    (event,) = await world.log.append(run.key, [(EventType.TOOL_CALL_START, data)])
    assert event.data["truncated"] is True
    assert event.data["name"] == "t"
    assert len(event.text) <= EVENT_BYTES


async def test_an_append_to_a_run_that_does_not_exist_is_refused(world: World) -> None:
    with pytest.raises(LeaseLostError):
        await world.log.append(RunKey(world.org_id, new_id(), 1), [(DELTA, {"delta": "x"})])


async def test_nobody_waits_for_a_writer_that_was_stopped(world: World) -> None:
    await world.start()
    run = await world.claim()
    others = asyncio.all_tasks()
    waiting = asyncio.create_task(world.log.append(run.key, [(DELTA, {"delta": "never"})]))
    for _ in range(2):  # the caller's first step starts the writer, whose first step is next
        await asyncio.sleep(0)
    started = asyncio.all_tasks() - others
    (writer,) = (task for task in started if task.get_name() == "group-commit")
    writer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(waiting, 60)


def _rung(event: Stored) -> dict[str, object]:
    """An event as a ring carries it."""
    return {
        "seq": event.seq, "type": event.type.value, "data": event.data, "at": rfc3339(event.at),
    }  # fmt: skip


async def test_the_log_goes_with_its_conversation(world: World) -> None:
    run = await world.start()
    assert await world.log.read(world.org_id, run.id)
    assert run.conversation_id is not None
    await world.conversations.delete(world.principal, run.conversation_id)
    async with world.db.system() as connection:
        assert await connection.fetchval("SELECT count(*) FROM run_events") == 0


async def test_events_travel_with_the_ring_once_somebody_has_heard_one(world: World) -> None:
    run = await world.start()
    await world.claim()
    rings = world.log._rings
    run = await world.runs.get(world.principal, run.id)

    async def written(text: str) -> None:
        await world.log.append(run.key, [(DELTA, {"delta": text})])
        if rings._task is not None:
            await rings._task

    await written("unheard")
    async with world.bell.listen(run_channel(run.id)) as ear:
        await written("heard of")
        await written("heard")
        first, second = await ear.next(30), await ear.next(30)
    assert first == {"seq": 3}
    assert second is not None
    assert [event["data"]["delta"] for event in second["events"]] == ["heard"]
