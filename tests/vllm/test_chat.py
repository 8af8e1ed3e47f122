"""The governed agent, and a caller of the handle, with a chat model of the cluster's own."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import pytest

from agentcy_ray.core.errors import ModelError
from agentcy_ray.core.settings import Settings
from agentcy_ray.llm.model import Done, Message, ModelRequest, TextDelta, ToolOffer
from agentcy_ray.llm.registry import Models
from tests.e2e.conftest import Machine
from tests.vllm.chat_model import ANSWER, TOOL
from tests.vllm.conftest import busy

if TYPE_CHECKING:
    from agentcy_ray.runtime.served_models import ServedModels

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]
ASK = ModelRequest(
    system="Be brief.",
    messages=(Message.say("user", "Which sources are there?"),),
    tools=(
        ToolOffer(name=TOOL, description="List sources.", input_schema={"type": "object"}),
    ),
)  # fmt: skip
IDLE = {"open": 0, "engine": 0}


def test_the_governed_agent_calls_a_tool_and_answers_by_a_model_of_the_cluster(
    machine: Machine,
) -> None:
    events = machine.agentcy("chat", "Which sources are there?")["events"]
    kinds = [event["type"] for event in events]
    assert kinds[0] == "message_start"
    assert kinds[-1] == "message_end"
    assert TOOL in json.dumps([event for event in events if "tool" in event["type"]])
    assert ANSWER in "".join(
        event["data"]["delta"] for event in events if event["type"] == "content_delta"
    )
    usage = events[-1]["data"]["usage"]
    assert usage["in_tokens"] > usage["out_tokens"] > 0


@pytest.mark.requirement("LLM-10")
@pytest.mark.parametrize("name", ["vllm:tiny", "local:tiny"])
async def test_a_turn_streams_with_usage_and_its_tool_call(served: ServedModels, name: str) -> None:
    models = Models(Settings.load({}), local=served)
    events = [event async for event in models.resolve(name).stream(ASK)]
    done = events[-1]
    assert isinstance(done, Done)
    assert done.stop_reason == "tool_calls"
    assert [call.name for call in done.message.tool_calls] == [TOOL]
    assert not done.usage.estimated
    assert done.usage.in_tokens > 20


async def test_who_leaves_a_stream_ends_the_request_in_the_engine(served: ServedModels) -> None:
    body: dict[str, Any] = {
        "messages": [{"role": "user", "content": "Count."}],
        "stream": True,
        "max_tokens": 12_000,
        "ignore_eos": True,
    }
    answer = await served.complete("tiny", body)
    async with aclosing(answer.body) as chunks:
        assert answer.status == 200
        assert b"data:" in await anext(chunks)
        assert (await busy("tiny"))["engine"] == 1
    async with asyncio.timeout(30):
        while await busy("tiny") != IDLE:
            pass  # each look asks the engine's process


async def test_what_the_engine_refuses_is_told_in_its_words(served: ServedModels) -> None:
    models = Models(Settings.load({}), local=served)
    long = ModelRequest(system="", messages=(Message.say("user", "word " * 40_000),))
    with pytest.raises(ModelError, match="no longer fits the window"):
        [event async for event in models.resolve("local:tiny").stream(long)]
    assert await busy("tiny") == IDLE


async def test_eight_callers_stream_side_by_side(served: ServedModels) -> None:
    models = Models(Settings.load({}), local=served)
    plain = ASK.model_copy(update={"tools": (), "max_tokens": 32})

    async def one() -> int:
        return len([
            event
            async for event in models.resolve("local:tiny").stream(plain)
            if isinstance(event, TextDelta)
        ])

    assert all(await asyncio.gather(*(one() for _ in range(8))))
