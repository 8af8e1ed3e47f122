"""Models that the cluster serves, as the agent loop sees them: a transport, and no cluster."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

import pytest

from agentcy_ray.core.errors import InvalidError, ModelError, ModelUnavailableError
from agentcy_ray.core.settings import Settings
from agentcy_ray.llm.local import LocalAnswer, LocalModel, LocalState
from agentcy_ray.llm.model import (
    Done,
    Message,
    ModelEvent,
    ModelRequest,
    TextDelta,
    ToolCallReady,
    ToolOffer,
    ToolReply,
    ToolUse,
)
from agentcy_ray.llm.registry import Models
from tests.llm.wire import openai_events

ASK = ModelRequest(system="Be brief.", messages=(Message.say("user", "Hello?"),))


class Cluster:
    """Answers as an engine does; remembers what it was sent and whether it was left."""

    def __init__(self, *answers: LocalAnswer | Exception) -> None:
        self.answers = list(answers)
        self.sent: list[tuple[str, dict[str, Any]]] = []

    def listed(self) -> tuple[LocalModel, ...]:
        return (
            LocalModel(name="qwen", task="chat", window=4096, adapters=True),
            LocalModel(name="plain", task="chat"),
            LocalModel(name="bge", task="embed"),
        )

    async def states(self) -> tuple[LocalState, ...]:
        return (LocalState(name="qwen", task="chat", state="starting", message="weights load"),)

    async def complete(self, name: str, body: Mapping[str, Any]) -> LocalAnswer:
        self.sent.append((name, dict(body)))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def answer(parts: list[bytes], status: int = 200) -> LocalAnswer:
    async def body() -> AsyncGenerator[bytes]:
        for part in parts:
            yield part

    return LocalAnswer(status, body())


def models(cluster: Cluster, pauses: list[float] | None = None, **settings: Any) -> Models:
    async def sleep(secs: float) -> None:
        if pauses is not None:
            pauses.append(secs)

    return Models(Settings.load({}, **settings), sleep=sleep, local=cluster)


async def turn(cluster: Cluster, name: str = "local:qwen", **settings: Any) -> list[ModelEvent]:
    model = models(cluster, **settings).resolve(name)
    return [event async for event in model.stream(ASK)]


async def test_a_turn_streams_text_and_usage_by_name() -> None:
    cluster = Cluster(answer(openai_events("Hi", " there")))
    events = await turn(cluster)
    assert "".join(e.text for e in events if isinstance(e, TextDelta)) == "Hi there"
    done = events[-1]
    assert isinstance(done, Done)
    assert not done.usage.estimated
    [(name, body)] = cluster.sent
    assert name == "qwen"
    assert body["stream"] is True
    assert body["stream_options"] == {"include_usage": True}
    assert [message["role"] for message in body["messages"]] == ["system", "user"]


async def test_tools_go_out_calls_come_back_and_results_are_sent_again() -> None:
    call = {
        "index": 0, "id": "c1", "type": "function",
        "function": {"name": "look", "arguments": '{"at": 1}'},
    }  # fmt: skip
    chunks = [
        {"choices": [{"index": 0, "delta": {"role": "assistant", "tool_calls": [call]}}]},
        {"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]},
        {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}},
    ]
    head = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "qwen"}
    wire = [f"data: {json.dumps(head | chunk)}\n\n".encode() for chunk in chunks]
    cluster = Cluster(answer([*wire, b"data: [DONE]\n\n"]), answer(openai_events("Fine.")))
    model = models(cluster).resolve("local:qwen")
    offer = ToolOffer(name="look", description="Look.", input_schema={"type": "object"})
    asked = ASK.model_copy(update={"tools": (offer,)})
    events = [event async for event in model.stream(asked)]
    [ready] = [event.call for event in events if isinstance(event, ToolCallReady)]
    assert (ready.name, ready.args) == ("look", {"at": 1})
    assert isinstance(events[-1], Done)
    assert (events[-1].usage.in_tokens, events[-1].usage.out_tokens) == (9, 4)
    history = (
        *ASK.messages,
        Message(role="assistant", parts=(ToolUse(id="c1", name="look", args={"at": 1}),)),
        Message(role="user", parts=(ToolReply(id="c1", name="look", text="seen"),)),
    )
    async with aclosing(model.stream(asked.model_copy(update={"messages": history}))) as stream:
        assert [event async for event in stream]
    assert cluster.sent[0][1]["tools"][0]["function"]["name"] == "look"
    assert cluster.sent[1][1]["messages"][-1]["role"] == "tool"


async def test_leaving_a_turn_closes_the_request_on_the_cluster() -> None:
    closed = asyncio.Event()

    async def endless() -> AsyncGenerator[bytes]:
        try:
            yield b"".join(openai_events("Half")[:1])
            await asyncio.Event().wait()
        finally:
            closed.set()

    model = models(Cluster(LocalAnswer(200, endless()))).resolve("local:qwen")
    async with aclosing(model.stream(ASK)) as events:
        assert isinstance(await anext(events), TextDelta)
    async with asyncio.timeout(60):
        await closed.wait()


async def test_a_lost_replica_is_tried_again_and_a_refusal_is_not() -> None:
    pauses: list[float] = []
    lost = ModelUnavailableError("the replica was lost")
    cluster = Cluster(lost, answer(openai_events("Hi")))
    model = models(cluster, pauses).resolve("local:qwen")
    assert [event async for event in model.stream(ASK)]
    assert len(pauses) == 1
    refused = Cluster(answer([b'{"error": {"message": "no such argument"}}'], status=400))
    with pytest.raises(ModelError, match="no such argument"):
        await turn(refused)
    assert len(refused.sent) == 1


async def test_a_model_that_is_not_served_is_told_with_its_own_reason() -> None:
    reason = "local:qwen is refused: vLLM is not installed"
    cluster = Cluster(*[ModelUnavailableError(reason)] * 2)
    with pytest.raises(ModelUnavailableError, match="vLLM is not installed"):
        await turn(cluster, llm_max_retries=1)


def test_only_chat_models_of_the_config_and_their_adapters_have_a_name() -> None:
    found = models(Cluster())
    assert found.resolve("local:qwen").window == 4096
    assert found.resolve("vllm:plain").reference == "vllm:plain"
    assert found.resolve("local:qwen:sql").reference == "local:qwen:sql"
    for name in ("local:absent", "local:bge", "local:plain:sql"):
        with pytest.raises(InvalidError, match="local:qwen, local:plain"):
            found.resolve(name)
    with pytest.raises(InvalidError, match="there are: none"):
        Models(Settings.load({})).resolve("local:qwen")


def test_the_provider_local_makes_the_first_chat_model_the_default() -> None:
    assert models(Cluster(), llm_provider="local").default_reference() == "local:qwen"
    named = models(Cluster(), llm_provider="local", llm_model="plain")
    assert named.default_reference() == "local:plain"
    assert Models(Settings.load({}, llm_provider="local")).default_reference().startswith("offline")


async def test_health_names_the_models_that_are_not_ready() -> None:
    with pytest.raises(ModelUnavailableError, match="qwen is starting: weights load"):
        await models(Cluster()).require_local()
