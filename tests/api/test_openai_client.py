"""OpenAI's own client against ``/v1``: completions by models, by agents, and their refusals."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

import openai
import pytest
from openai.types.chat import ChatCompletionChunk

from agentcy_ray.agent.runs import QUEUED_CHANNEL
from agentcy_ray.api.openapi import v1_permissions
from agentcy_ray.core.ids import encode
from agentcy_ray.llm.scripted import scripted_reference
from tests.api.platform import Platform
from tests.api.vendors import ANSWER, PLAIN, SCHEMA, WEATHER, agent, openai_as, token_of

ASK: list[Any] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "How does the gateway retry?"}]},
]
TOOL: Any = {
    "type": "function",
    "function": {"name": "get_weather", "description": "d", "parameters": SCHEMA},
}


@pytest.fixture(scope="module", autouse=True)
async def docs(platform: Platform) -> None:
    """Something to find, before anybody looks."""
    folder = platform.roots / "v1-docs"
    folder.mkdir()
    (folder / "retries.md").write_text("# Retries\n\nThe zephyr gateway retries three times.\n")
    source = await platform.source(name="v1-docs", connector="files", config={"root": str(folder)})
    assert (await platform.sync(source["id"]))["status"] == "synced"


def said(chunks: list[ChatCompletionChunk]) -> str:
    return "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)


async def limited(owner: Any, **limit: Any) -> list[dict[str, Any]]:
    """The limits, once ``limit`` is set."""
    answer = await owner.patch("/org", json={"budget": {"limits": [limit]}})
    assert answer.status_code == 200, answer.text
    return answer.json()["budget"]["limits"]


def notes(answer: Any) -> dict[str, Any]:
    return answer.model_extra["x_agentcy"]


@pytest.mark.requirement("API-07")
async def test_a_chat_is_completed_whole_and_streamed_with_its_usage(platform: Platform) -> None:
    client = await openai_as(platform, "member")
    whole = await client.chat.completions.create(model=PLAIN, messages=ASK)
    assert whole.choices[0].message.content == ANSWER
    assert (whole.choices[0].finish_reason, whole.model) == ("stop", PLAIN)
    assert whole.usage is not None
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens > 0
    stream = await client.chat.completions.create(
        model=PLAIN, messages=ASK, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert said(chunks) == ANSWER
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks[:-1]] == [None] * (len(chunks) - 2) + [
        "stop"
    ]
    assert (chunks[-1].choices, chunks[-1].usage) == ([], whole.usage)
    assert {chunk.id for chunk in chunks} == {chunks[0].id}
    bare = await client.chat.completions.create(model=PLAIN, messages=ASK, stream=True)
    assert [chunk.usage async for chunk in bare] == [None] * (len(chunks) - 1)


@pytest.mark.requirement("API-07")
async def test_the_synchronous_client_is_answered_too(platform: Platform) -> None:
    token = await token_of(platform, "viewer")

    def talk() -> tuple[str | None, str]:
        with openai.OpenAI(base_url=f"{platform.url}/v1", api_key=token) as client:
            whole = client.chat.completions.create(model=PLAIN, messages=ASK)
            with client.chat.completions.stream(model=PLAIN, messages=ASK) as stream:
                stream.until_done()
                final = stream.get_final_completion()
        return whole.choices[0].message.content, final.choices[0].message.content or ""

    assert await asyncio.to_thread(talk) == (ANSWER, ANSWER)


async def test_tool_calls_go_to_the_caller_and_their_results_come_back(platform: Platform) -> None:
    client = await openai_as(platform, "member")
    how: Any = {"model": WEATHER, "tools": [TOOL], "tool_choice": "auto"}
    first = await client.chat.completions.create(messages=ASK, **how)
    (call,) = first.choices[0].message.tool_calls or []
    assert first.choices[0].finish_reason == "tool_calls"
    assert call.type == "function"
    assert (call.function.name, call.function.arguments) == ("get_weather", '{"city": "Bern"}')
    stream = await client.chat.completions.create(messages=ASK, stream=True, **how)
    deltas = [c.choices[0].delta.tool_calls async for c in stream if c.choices[0].delta.tool_calls]
    assert [(one.index, one.id) for one in deltas[0] or []] == [(0, call.id)]
    history = [
        *ASK,
        first.choices[0].message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": "sunny"},
    ]
    second = await client.chat.completions.create(messages=history, **how)
    assert second.choices[0].message.content == "It is sunny in Bern."
    stray = [*ASK, {"role": "tool", "tool_call_id": "call_x", "content": "?"}]
    with pytest.raises(openai.BadRequestError) as refused:
        await client.chat.completions.create(messages=stray, **how)
    assert refused.value.param == "messages.2.tool_call_id"


async def test_an_answer_ends_at_a_stop_text_and_at_its_length(platform: Platform) -> None:
    client = await openai_as(platform, "member")
    cut = await client.chat.completions.create(
        model=PLAIN, messages=ASK, stop=["never", " times a"]
    )
    assert cut.choices[0].message.content == "The gateway retries three"
    assert cut.choices[0].finish_reason == "stop"
    assert cut.usage is not None
    assert cut.usage.completion_tokens > 0
    stream = await client.chat.completions.create(
        model=PLAIN, messages=ASK, stop="then", stream=True
    )
    assert said([chunk async for chunk in stream]) == "The gateway retries three times and "
    short = await client.chat.completions.create(model=PLAIN, messages=ASK, max_completion_tokens=3)
    assert short.choices[0].finish_reason == "length"


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"temperature": 3}, "temperature"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "system", "content": "Be brief."}]}, "messages"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "x"}}},
         "tool_choice"),
        ({"messages": [{"role": "user", "content": [
            {"type": "image_url", "image_url": {"url": "data:,x"}}]}]}, "messages.0.content.0"),
    ],
)  # fmt: skip
async def test_what_cannot_be_honoured_is_a_bad_request(
    platform: Platform, change: Any, param: str
) -> None:
    client = await openai_as(platform, "member")
    with pytest.raises(openai.BadRequestError) as refused:
        await client.chat.completions.create(**{"model": PLAIN, "messages": ASK, **change})
    error = refused.value
    assert (error.code, error.type) == ("validation_failed", "invalid_request_error")
    assert (error.param or "").startswith(param)


async def test_errors_are_the_clients_own_exceptions(platform: Platform) -> None:
    client = await openai_as(platform, "member")
    chat = client.chat.completions
    for model in ("gpt-4o", "agent:nobody", "nobody:x", "scripted:what=1"):
        with pytest.raises(openai.NotFoundError) as absent:
            await chat.create(model=model, messages=ASK)
        assert (absent.value.code, absent.value.param) == ("model_not_found", "model")
    stranger = await openai_as(platform, "member", api_key="x.y.z")
    with pytest.raises(openai.AuthenticationError) as unknown:
        await stranger.models.list()
    assert unknown.value.type == "authentication_error"
    failing = scripted_reference(fail=0, text=ANSWER)
    with pytest.raises(openai.InternalServerError) as failed:
        await chat.create(model=failing, messages=ASK, stream=True)
    assert (failed.value.status_code, failed.value.code) == (502, "llm_error")
    assert failed.value.request_id == failed.value.response.headers["x-request-id"]
    late = await chat.create(
        model=scripted_reference(fail=2, text=ANSWER), messages=ASK, stream=True
    )
    with pytest.raises(openai.APIError, match="fails as it was told to"):
        assert [chunk async for chunk in late]
    raw = await (await platform.as_("member")).post(f"{platform.url}/v1/nowhere", json={})
    assert raw.json()["error"]["type"] == "invalid_request_error"


async def test_models_are_agents_then_what_is_set_up(platform: Platform) -> None:
    client = await openai_as(platform, "viewer")
    listed = [model.id async for model in await client.models.list()]
    kinds = [model.startswith("agent:") for model in listed]
    assert kinds == sorted(kinds, reverse=True)
    assert {"agent:default", "offline:extractive", "local:all-MiniLM-L6-v2"} <= set(listed)
    for model in listed:
        assert (await client.models.retrieve(model)).id == model
    one = await client.models.retrieve("agent:default")
    assert (one.id, one.owned_by) == ("agent:default", "agentcy")
    with pytest.raises(openai.NotFoundError):
        await client.models.retrieve("agent:absent")


async def test_every_route_asks_for_the_permission_to_invoke(platform: Platform) -> None:
    named = v1_permissions(platform.app)
    assert set(named.values()) == {"llm.invoke"}
    document = (await platform.client().get("/openapi.json")).json()["paths"]
    async with platform.client() as client:
        for method, path in named:
            assert document[path][method.lower()]["x-permission"] == "llm.invoke"
            refused = await client.request(method, platform.url + path, json={})
            assert refused.status_code == 401, path
            assert refused.json()["error"]["type"] == "authentication_error"


async def test_a_repeated_key_gets_the_first_completion(platform: Platform) -> None:
    client = await openai_as(platform, "member")
    key = {"idempotency-key": "complete-once"}
    how: Any = {"model": PLAIN, "messages": ASK, "extra_headers": key}
    first = await client.chat.completions.create(**how)
    raw = await client.chat.completions.with_raw_response.create(**how)
    assert raw.headers["idempotent-replay"] == "true"
    assert raw.parse() == first
    with pytest.raises(openai.ConflictError) as other:
        await client.chat.completions.create(**how, max_tokens=7)
    assert other.value.code == "idempotency_mismatch"
    streamed = {"idempotency-key": "stream-once"}
    logs = [
        [
            chunk
            async for chunk in await client.chat.completions.create(
                model=PLAIN, messages=ASK, stream=True, extra_headers=streamed
            )
        ]
        for _ in range(2)
    ]
    assert logs[0] == logs[1]
    assert said(logs[0]) == ANSWER


@pytest.mark.requirement("AGT-10")
async def test_a_used_up_budget_is_a_rate_limit_that_is_not_tried_again(
    platform: Platform,
) -> None:
    owner = await platform.as_("owner")
    subject = encode("usr", platform.users["colleague"])
    limit = {"scope": "user", "subject": subject, "unit": "tokens", "soft_share": 1.0}
    client = await openai_as(platform, "colleague", max_retries=2)
    limits = await limited(owner, **limit, hard=50_000)
    (before,) = [one["spent"] for one in limits if one["subject"] == subject]
    try:
        how: Any = {"model": PLAIN, "messages": ASK, "max_tokens": 1_000}
        held = await client.chat.completions.create(**how)
        limits = (await owner.get("/org")).json()["budget"]["limits"]
        (row,) = [one for one in limits if one["subject"] == subject]
        assert held.usage is not None
        assert (row["spent"] - before, row["reserved"]) == (held.usage.total_tokens, 0)
        stream = await client.chat.completions.create(**how, stream=True)
        assert said([chunk async for chunk in stream]) == ANSWER
        await limited(owner, **limit, hard=20)
        embeddings: Any = {"model": "local:all-MiniLM-L6-v2", "input": ["word " * 200]}
        for refused in (
            client.chat.completions.create(**how),
            client.chat.completions.create(**how, stream=True),
            client.embeddings.create(**embeddings),
        ):
            with pytest.raises(openai.RateLimitError) as error:
                await refused
            assert (error.value.code, error.value.type) == ("budget_exceeded", "rate_limit_error")
            assert error.value.response.headers["x-should-retry"] == "false"
    finally:
        await limited(owner, **limit, hard=None)


# -- agents -------------------------------------------------------------------------------------


async def test_an_agent_answers_by_a_governed_run_that_knows_what_was_said(
    platform: Platform,
) -> None:
    model = await agent(platform, "echo", scripted_reference(text=ANSWER))
    client = await openai_as(platform, "member")
    messages: Any = [
        *ASK, {"role": "assistant", "content": "Thrice."}, {"role": "user", "content": "And then?"},
    ]  # fmt: skip
    whole = await client.chat.completions.create(model=model, messages=messages)
    assert whole.choices[0].message.content == ANSWER
    assert whole.usage is not None
    assert whole.usage.prompt_tokens > 0
    run_id = notes(whole)["run_id"]
    member = await platform.as_("member")
    run = (await member.get(f"/runs/{run_id}")).json()
    assert (run["kind"], run["agent"], run["status"]) == ("openai", "echo", "completed")
    assert run["input"]["text"] == "And then?"
    assert [turn["role"] for turn in run["input"]["history"]] == ["user", "assistant"]
    assert run["input"]["instructions"] == "Be brief."
    assert (await (await platform.as_("other")).get(f"/runs/{run_id}")).status_code == 404
    with pytest.raises(openai.NotFoundError):
        await (await openai_as(platform, "other")).chat.completions.create(
            model=model, messages=messages
        )
    stream = await client.chat.completions.create(
        model=model, messages=ASK, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert said(chunks) == ANSWER
    assert notes(chunks[0])["run_id"].startswith("run_")
    assert notes(chunks[-2])["finish_reason"] == "end_turn"
    assert chunks[-1].usage is not None


async def test_an_agent_is_told_what_was_said_before(platform: Platform) -> None:
    # What this model says follows from what it reads.
    model = await agent(platform, "listener", "scripted:tokens=8")
    client = await openai_as(platform, "member")
    last = {"role": "user", "content": "And then?"}
    before: list[Any] = [*ASK, {"role": "assistant", "content": "Thrice."}]
    answers = [
        (await client.chat.completions.create(model=model, messages=messages))
        .choices[0]
        .message.content
        for messages in ([*before, last], [*before, last], [last])
    ]
    assert answers[0] == answers[1] != answers[2]


@pytest.mark.requirement("API-08")
async def test_an_agents_tool_calls_pass_policy_approval_and_audit(platform: Platform) -> None:
    folder = platform.roots / "v1-files"
    folder.mkdir()
    config = {"root": str(folder), "writable": True}
    await platform.source(name="v1-files", connector="files", config=config)
    script = scripted_reference(
        tools="files@v1-files.write_file",
        args={"files@v1-files.write_file": {"path": "note.md", "content": "kept"}},
        text="It is written.",
    )
    model = await agent(platform, "scribe", script)
    client, owner = await openai_as(platform, "owner"), await platform.as_("owner")
    stream = await client.chat.completions.create(model=model, messages=ASK, stream=True)
    chunks: list[ChatCompletionChunk] = []
    async with asyncio.timeout(60):
        async for chunk in stream:
            chunks.append(chunk)
            approval = (chunk.model_extra or {}).get("x_agentcy", {}).get("approval_id")
            if approval:
                assert not (folder / "note.md").exists()
                decided = await owner.post(f"/approvals/{approval}", json={"approved": True})
                assert decided.status_code == 200, decided.text
    assert said(chunks) == "It is written."
    assert (folder / "note.md").read_text() == "kept"
    run_id = notes(chunks[0])["run_id"]
    rows = await platform.sql(
        "SELECT action, decision, input FROM audit_log WHERE context->>'run_id' = $1", run_id
    )
    entries = {row["action"]: row for row in rows}
    assert entries.keys() == {"chat.approve", "chat.tool.execute"}
    assert entries["chat.tool.execute"]["decision"] == "allow"
    question = entries["chat.tool.execute"]["input"]
    assert question["context"]["agent"] == "scribe", question


async def test_an_agent_cites_what_it_found(platform: Platform) -> None:
    client = await openai_as(platform, "member")
    ask: Any = [{"role": "user", "content": "How often does the zephyr gateway retry?"}]
    model = await agent(platform, "quoter", "offline:extractive")
    whole = await client.chat.completions.create(model=model, messages=ask)
    assert "zephyr gateway retries three times" in (whole.choices[0].message.content or "")
    titles = [citation["title"] for citation in notes(whole)["citations"]]
    assert any("retries" in title.lower() for title in titles), titles


async def test_what_an_agent_decides_itself_is_refused(platform: Platform) -> None:
    client = await openai_as(platform, "member")
    for field, change in (
        ("tools", {"tools": [TOOL]}), ("stop", {"stop": "x"}),
        ("response_format", {"response_format": {"type": "json_object"}}),
        ("messages", {"messages": [*ASK, {"role": "assistant", "content": "Hm"}]}),
        ("realms", {"extra_body": {"x_agentcy": {"realm": "nowhere"}}}),
    ):  # fmt: skip
        with pytest.raises(openai.BadRequestError) as refused:
            await client.chat.completions.create(
                **{"model": "agent:default", "messages": ASK, **change}  # type: ignore[arg-type]
            )
        assert field == "realms" or refused.value.param == field


async def test_a_client_that_leaves_cancels_the_run_unless_it_says_otherwise(
    platform: Platform,
) -> None:
    client = await openai_as(platform, "owner")
    for wish, end, tokens in (("cancel", "cancelled", 4000), ("continue", "completed", 80)):
        model = await agent(platform, f"slow-{wish}", f"scripted:tokens={tokens},itl=10")
        stream = await client.chat.completions.create(
            model=model,
            messages=ASK,
            stream=True,
            extra_body={"x_agentcy": {"on_disconnect": wish}},
        )
        run_id = ""
        async for chunk in stream:
            run_id = run_id or notes(chunk)["run_id"]
            if chunk.choices[0].delta.content:
                break
        await stream.close()
        assert (await platform.run_ended(run_id))["status"] == end


async def test_a_client_that_leaves_while_it_waits_for_the_whole_cancels_too(
    platform: Platform,
) -> None:
    model = await agent(platform, "slower", "scripted:tokens=4000,itl=20")
    client = await openai_as(platform, "owner")
    async with platform.services.bell.listen(QUEUED_CHANNEL) as ear:
        waiting = asyncio.create_task(client.chat.completions.create(model=model, messages=ASK))
        rung = await ear.next(60)
    assert rung is not None
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    run = await platform.run_ended(encode("run", UUID(rung["run"])))
    assert (run["status"], run["agent"]) == ("cancelled", "slower")
