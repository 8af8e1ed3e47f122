"""Anthropic's own client against ``/v1/messages``."""

from __future__ import annotations

import asyncio
from typing import Any

import anthropic
import pytest

from agentcy_ray.llm.scripted import scripted_reference
from tests.api.platform import Platform
from tests.api.vendors import ANSWER, PLAIN, SCHEMA, WEATHER, agent, anthropic_as, token_of

ASK: list[Any] = [{"role": "user", "content": "How does the gateway retry?"}]
TOOL: Any = {"name": "get_weather", "description": "d", "input_schema": SCHEMA}


@pytest.mark.requirement("API-07")
async def test_a_message_is_answered_whole_and_streamed(platform: Platform) -> None:
    client = await anthropic_as(platform, "member")
    how: Any = {"model": PLAIN, "max_tokens": 500, "messages": ASK, "system": "Be brief."}
    whole = await client.messages.create(**how)
    assert [block.text for block in whole.content if block.type == "text"] == [ANSWER]
    assert (whole.role, whole.stop_reason, whole.model) == ("assistant", "end_turn", PLAIN)
    assert whole.usage.input_tokens > 0
    assert whole.usage.output_tokens > 0
    kinds: list[str] = []
    async with client.messages.stream(**how) as stream:
        async for event in stream:
            kinds.append(event.type)
        final = await stream.get_final_message()
    assert (kinds[0], kinds[1], kinds[-1]) == (
        "message_start",
        "content_block_start",
        "message_stop",
    )
    assert kinds[-3:-1] == ["content_block_stop", "message_delta"]
    assert [block.text for block in final.content if block.type == "text"] == [ANSWER]
    assert (final.stop_reason, final.usage.output_tokens) == ("end_turn", whole.usage.output_tokens)
    assert final.usage.input_tokens == whole.usage.input_tokens


async def test_the_synchronous_client_streams_too_by_a_bearer(platform: Platform) -> None:
    token = await token_of(platform, "viewer")

    def talk() -> str:
        with (
            anthropic.Anthropic(base_url=platform.url, auth_token=token) as client,
            client.messages.stream(model=PLAIN, max_tokens=500, messages=ASK) as stream,
        ):
            return "".join(stream.text_stream)

    assert await asyncio.to_thread(talk) == ANSWER


async def test_tool_uses_go_to_the_caller_and_their_results_come_back(platform: Platform) -> None:
    client = await anthropic_as(platform, "member")
    how: Any = {"model": WEATHER, "max_tokens": 500, "tools": [TOOL]}
    first = await client.messages.create(messages=ASK, **how)
    (use,) = first.content
    assert use.type == "tool_use"
    assert (use.name, use.input, first.stop_reason) == ("get_weather", {"city": "Bern"}, "tool_use")
    async with client.messages.stream(messages=ASK, **how) as stream:
        streamed = await stream.get_final_message()
    assert streamed.content == first.content
    result = {"type": "tool_result", "tool_use_id": use.id, "content": "sunny"}
    history: Any = [
        *ASK,
        {"role": "assistant", "content": first.content},
        {"role": "user", "content": [result]},
    ]
    second = await client.messages.create(messages=history, **how)
    assert [block.text for block in second.content if block.type == "text"] == [
        "It is sunny in Bern."
    ]


async def test_reasoning_and_stop_texts_have_their_own_places(platform: Platform) -> None:
    client = await anthropic_as(platform, "member")
    model = scripted_reference(think="First the log.", text=ANSWER)
    how: Any = {"model": model, "max_tokens": 500, "messages": ASK, "stop_sequences": [" and"]}
    whole = await client.messages.create(**how)
    assert (whole.stop_reason, whole.stop_sequence) == ("stop_sequence", " and")
    async with client.messages.stream(**how) as stream:
        streamed = await stream.get_final_message()
    for message in (whole, streamed):
        thought, words = message.content
        assert (thought.type, words.type) == ("thinking", "text")
        assert (thought.thinking, words.text) == (
            "First the log.",
            "The gateway retries three times",
        )
    again: Any = [*ASK, {"role": "assistant", "content": whole.content}, *ASK]
    assert (await client.messages.create(**{**how, "messages": again})).content


async def test_errors_are_the_clients_own_exceptions(platform: Platform) -> None:
    client = await anthropic_as(platform, "member")
    with pytest.raises(anthropic.NotFoundError) as absent:
        await client.messages.create(model="claude-sonnet-5-5", max_tokens=5, messages=ASK)
    assert absent.value.body["error"]["type"] == "not_found_error"  # type: ignore[index]
    assert absent.value.body["type"] == "error"  # type: ignore[index]
    assert absent.value.request_id == absent.value.response.headers["x-request-id"]
    image = [{"role": "user", "content": [{"type": "image", "source": {}}]}]
    server_tool = {"type": "web_search_20250305", "name": "web_search"}
    for change in ({"messages": image}, {"tools": [server_tool]}, {"max_tokens": 0}):
        with pytest.raises(anthropic.BadRequestError) as refused:
            await client.messages.create(
                **{"model": PLAIN, "max_tokens": 5, "messages": ASK, **change}  # type: ignore[arg-type]
            )
        assert refused.value.body["error"]["type"] == "invalid_request_error"  # type: ignore[index]
    stranger = await anthropic_as(platform, "member", api_key="x.y.z")
    with pytest.raises(anthropic.AuthenticationError):
        await stranger.messages.create(model=PLAIN, max_tokens=5, messages=ASK)
    late = scripted_reference(fail=2, text=ANSWER)
    with pytest.raises(anthropic.APIStatusError, match="fails as it was told to"):
        async with client.messages.stream(model=late, max_tokens=99, messages=ASK) as stream:
            await stream.until_done()


async def test_an_agent_speaks_to_it_and_its_models_are_listed(platform: Platform) -> None:
    client = await anthropic_as(platform, "member")
    model = await agent(platform, "parrot", scripted_reference(text=ANSWER))
    assert model in [entry.id async for entry in client.models.list()]
    whole = await client.messages.create(model=model, max_tokens=500, messages=ASK)
    assert [block.text for block in whole.content if block.type == "text"] == [ANSWER]
    notes = (whole.model_extra or {})["x_agentcy"]
    assert (notes["run_id"][:4], notes["finish_reason"]) == ("run_", "end_turn")
    async with client.messages.stream(model=model, max_tokens=500, messages=ASK) as stream:
        assert [text async for text in stream.text_stream] == [ANSWER]
