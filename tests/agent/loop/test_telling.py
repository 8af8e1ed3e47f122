"""What a run tells of its reasoning and of long arguments."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from agentcy_ray.agent.control import RunControl, Stopped
from agentcy_ray.agent.profiles import NewAgent
from agentcy_ray.agent.tool_turn import ARGS_INLINE_CHARS
from agentcy_ray.core.events import EventType, RunEvent
from agentcy_ray.llm.scripted import scripted_reference
from tests.agent.loop.conftest import World
from tests.agent.loop.kit import RecordingTools, execute, log_of, loop_of, of, words

LONG = "line of a file\n" * 1000


@pytest.mark.parametrize("shown", [True, False])
async def test_reasoning_is_told_only_by_an_agent_that_shows_it(world: World, shown: bool) -> None:
    agent = await world.agents.create(world.org_id, NewAgent(name="thinker", show_reasoning=shown))
    assert (await world.agents.get(world.org_id, agent.id)).show_reasoning is shown
    model = scripted_reference(think="First look, then say.", tools="a.read", text="Said.")
    run = await world.start(model=model, agent=agent)
    events = await execute(world, loop_of(world, RecordingTools()))
    told = "".join(data["delta"] for data in of(events, EventType.THINKING_DELTA))
    assert told == ("First look, then say." * 2 if shown else "")
    assert words(events) == "Said."
    (answer, _) = await world.conversations.messages(world.principal, run.conversation_id)
    assert answer.content == "Said."


def arguments(events: list[RunEvent], call: str) -> Any:
    """A call's arguments as a reader puts them together."""
    pieces = [
        data["args_delta"]
        for data in of(events, EventType.TOOL_CALL_DELTA)
        if data["tool_call_id"] == call
    ]
    return orjson.loads("".join(pieces)) if pieces else None


async def test_long_arguments_follow_the_start_of_their_call_in_pieces(world: World) -> None:
    args = {
        "a.write": {"content": LONG, "password": "hunter2-hunter2"},
        "b.write": {"content": "x"},
    }
    await world.start(model=scripted_reference(tools="a.write+b.write", args=args))
    events = await execute(world, loop_of(world, RecordingTools()))
    long, short = of(events, EventType.TOOL_CALL_START)
    assert "args" not in long
    assert short["args"]["args"] == {"content": "x"}
    told = arguments(events, long["tool_call_id"])
    assert told["args"]["content"] == LONG
    assert told["args"]["password"] == "[redacted]"
    told_of_calls = events[1:]  # the first names the model, whose name is its script
    assert "hunter2" not in "".join(event.model_dump_json() for event in told_of_calls)
    assert arguments(events, short["tool_call_id"]) is None
    deltas = of(events, EventType.TOOL_CALL_DELTA)
    assert len(deltas) > 3
    assert all(len(data["args_delta"]) <= ARGS_INLINE_CHARS for data in deltas)
    kinds = [event.type for event in events]
    first = kinds.index(EventType.TOOL_CALL_START)
    assert kinds[first + 1 : first + 1 + len(deltas)] == [EventType.TOOL_CALL_DELTA] * len(deltas)


async def test_a_successor_does_not_tell_arguments_again(world: World) -> None:
    control = RunControl()

    async def answer(_: object) -> object:
        control.stop("handover")
        return {"ok": True}

    args = {"a.write": {"content": LONG}, "b.write": {"content": LONG}}
    run = await world.start(model=scripted_reference(tools="a.write+b.write", args=args))
    first = await world.claim("a")
    with pytest.raises(Stopped):
        await loop_of(world, RecordingTools(answer)).execute(first, control)  # type: ignore[arg-type]
    before = len(of(await log_of(world, run), EventType.TOOL_CALL_DELTA))
    await world.runs.release(first.key)
    events = await execute(world, loop_of(world, RecordingTools()), "b")
    assert len(of(events, EventType.TOOL_RESULT)) == 2
    assert len(of(events, EventType.TOOL_CALL_DELTA)) == before > 0
