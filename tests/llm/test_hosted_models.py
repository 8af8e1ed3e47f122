"""Models of providers, against servers that speak their wire formats."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from agentcy_ray.api.error_shapes import Fault, status_of
from agentcy_ray.api.routes.v1.pieces import Finish
from agentcy_ray.api.routes.v1.plain import plain_pieces
from agentcy_ray.core.errors import InvalidError, ModelError, ModelTimeoutError
from agentcy_ray.core.settings import Settings
from agentcy_ray.llm.model import (
    Done,
    JsonAnswer,
    Message,
    Model,
    ModelEvent,
    ModelRequest,
    TextDelta,
    ToolCallReady,
    ToolOffer,
    ToolReply,
    ToolUse,
)
from agentcy_ray.llm.registry import KEPT, Models
from tests.llm.wire import anthropic_events, bedrock_stream, google_events, openai_events, stream_of

ASK = ModelRequest(system="Be brief.", messages=(Message.say("user", "Hello?"),))
MESSAGES = "/v1/messages"
COMPLETIONS = "/v1/chat/completions"


@pytest.fixture
def pauses() -> list[float]:
    return []


def models(pauses: list[float] | None = None, **settings: Any) -> Models:
    async def sleep(secs: float) -> None:
        if pauses is not None:
            pauses.append(secs)

    return Models(Settings.load({}, **settings), sleep=sleep)


def anthropic(server: HTTPServer, pauses: list[float] | None = None, **settings: Any) -> Models:
    return models(
        pauses,
        llm_provider="anthropic",
        llm_api_key="k-anthropic",
        llm_base_url=server.url_for(""),
        **settings,
    )


async def events_of(found: Models, request: ModelRequest = ASK) -> list[ModelEvent]:
    return [event async for event in _only(found).stream(request)]


def text_of(events: list[ModelEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


@pytest.mark.requirement("LLM-01")
def test_a_key_alone_makes_anthropic_the_default() -> None:
    assert models(llm_api_key="k").default_reference().startswith("anthropic:claude-")


async def test_an_anthropic_turn_streams_text_calls_usage_and_cost(httpserver: HTTPServer) -> None:
    httpserver.expect_request(MESSAGES).respond_with_handler(
        lambda _: stream_of(
            anthropic_events(
                "Let me ", "look.", tools=[("tu_1", "list_connectors", {"realm": "x"})]
            )
        )
    )
    tool = ToolOffer(name="list_connectors", description="d", input_schema={"type": "object"})
    events = await events_of(anthropic(httpserver), ASK.model_copy(update={"tools": (tool,)}))
    call = ToolUse(id="tu_1", name="list_connectors", args={"realm": "x"})
    assert text_of(events) == "Let me look."
    ready = next(event.call for event in events if isinstance(event, ToolCallReady))
    assert (ready.id, ready.name, ready.args) == (call.id, call.name, call.args)
    done = events[-1]
    assert isinstance(done, Done)
    assert done.stop_reason == "tool_calls"
    assert (done.usage.in_tokens, done.usage.out_tokens) == (1000, 100)
    assert done.usage.cost_usd is not None
    assert done.usage.cost_usd > 0
    assert not done.usage.estimated
    sent, _ = httpserver.log[0]
    assert sent.headers["authorization"] == "Bearer k-anthropic"
    body = json.loads(sent.data)
    assert body["stream"] is True
    assert [tool["name"] for tool in body["tools"]] == ["list_connectors"]


async def test_a_completed_turn_with_results_is_sent_back_in_the_providers_form(
    httpserver: HTTPServer,
) -> None:
    httpserver.expect_request(MESSAGES).respond_with_handler(
        lambda _: stream_of(anthropic_events("Fine."))
    )
    history = (
        Message.say("user", "Go."),
        Message(role="assistant", parts=(ToolUse(id="tu_1", name="t", args={"a": 1}),)),
        Message(role="user", parts=(ToolReply(id="tu_1", name="t", text="denied", is_error=True),)),
    )
    stored = ModelRequest.model_validate_json(
        ModelRequest(system="S", messages=history).model_dump_json()
    )
    await events_of(anthropic(httpserver), stored)
    body = json.loads(httpserver.log[0][0].data)
    assert body["messages"][1]["content"][0]["type"] == "tool_use"
    result = body["messages"][2]["content"][0]
    assert (result["type"], result["tool_use_id"], result["is_error"]) == (
        "tool_result",
        "tu_1",
        True,
    )


@pytest.mark.requirement("LLM-02")
async def test_provider_openai_sends_openai_requests_with_the_key(httpserver: HTTPServer) -> None:
    httpserver.expect_request(COMPLETIONS).respond_with_handler(
        lambda _: stream_of(openai_events("Hi", " there"))
    )
    found = models(
        llm_provider="openai", llm_api_key="k-openai", llm_base_url=httpserver.url_for("/v1")
    )
    events = await events_of(found)
    assert text_of(events) == "Hi there"
    sent, _ = httpserver.log[0]
    assert sent.headers["authorization"] == "Bearer k-openai"
    body = json.loads(sent.data)
    assert body["stream"] is True
    assert {message["role"] for message in body["messages"]} >= {"user"}


def test_models_are_named_of_what_is_set_up_and_of_the_table(tmp_path: Path) -> None:
    table = tmp_path / "models.toml"
    table.write_text('[models."openai:gpt-9"]\nwindow = 5\n[models."bedrock:x"]\nwindow = 5\n')
    found = models(openai_api_key="k", llm_models_file=str(table)).references()
    assert found == ["openai:gpt-6.1-terra", "offline:extractive", "openai:gpt-9"]


async def test_how_to_answer_is_sent_in_the_providers_form(httpserver: HTTPServer) -> None:
    httpserver.expect_request(COMPLETIONS).respond_with_handler(
        lambda _: stream_of(openai_events("{}"))
    )
    found = models(llm_api_key="k", llm_provider="openai", llm_base_url=httpserver.url_for("/v1"))
    model = found.resolve("openai:gpt-4o")
    look = ToolOffer(name="look", description="d", input_schema={"type": "object"})
    leap = look.model_copy(update={"name": "leap"})
    wanted = ASK.model_copy(
        update={
            "tools": (look, leap), "only_tool": "look", "parallel_tool_calls": False,
            "stop": ("END",), "top_p": 0.5, "max_tokens": 9,
        }
    )  # fmt: skip
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    shaped = ASK.model_copy(update={"json_answer": JsonAnswer(name="x", json_schema=schema)})
    free = ASK.model_copy(update={"json_answer": JsonAnswer()})
    for request in (wanted, shaped, free):
        assert [event async for event in model.stream(request)]
    first, second, third = (json.loads(sent.data) for sent, _ in httpserver.log)
    assert first["tool_choice"] == {"type": "function", "function": {"name": "look"}}
    assert (first["parallel_tool_calls"], first["stop"], first["top_p"]) == (False, ["END"], 0.5)
    assert second["response_format"]["json_schema"]["schema"]["properties"] == schema["properties"]
    assert third["response_format"] == {"type": "json_object"}
    assert [message["content"] for message in third["messages"]] == ["Be brief.", "Hello?"]


async def test_json_that_a_model_cannot_be_held_to_is_refused_at_once(
    httpserver: HTTPServer,
) -> None:
    free = ASK.model_copy(update={"json_answer": JsonAnswer()})
    with pytest.raises(InvalidError, match="response_format"):
        await events_of(anthropic(httpserver), free)
    for reference in ("offline:extractive", "scripted:tokens=2"):
        with pytest.raises(InvalidError, match="response_format"):
            assert [event async for event in models().resolve(reference).stream(free)]
    assert httpserver.log == []


@pytest.mark.requirement("LLM-05")
@pytest.mark.parametrize("key", [None, "k-own"])
async def test_a_base_url_alone_makes_an_openai_compatible_server_the_provider(
    httpserver: HTTPServer, key: str | None
) -> None:
    httpserver.expect_request(COMPLETIONS).respond_with_handler(
        lambda _: stream_of(openai_events("Hi", usage=False))
    )
    found = models(llm_base_url=httpserver.url_for("/v1"), llm_api_key=key, llm_model="qwen3")
    assert found.default_reference() == "openai_compatible:qwen3"
    done = (await events_of(found))[-1]
    assert isinstance(done, Done)
    assert done.usage.estimated
    assert done.usage.cost_usd is None
    if key:
        assert httpserver.log[0][0].headers["authorization"] == f"Bearer {key}"


@pytest.mark.requirement("LLM-03")
async def test_bedrock_signs_with_the_ambient_credentials_and_needs_no_key(
    httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    httpserver.expect_request("/model/amazon.nova-lite-v1:0/converse-stream").respond_with_handler(
        lambda _: Response(
            bedrock_stream("Hi"), headers={"content-type": "application/vnd.amazon.eventstream"}
        )
    )
    found = models(
        llm_provider="bedrock",
        llm_model="amazon.nova-lite-v1:0",
        llm_base_url=httpserver.url_for(""),
        aws_region="us-east-1",
    )
    assert text_of(await events_of(found)) == "Hi"
    signed = httpserver.log[0][0].headers["authorization"]
    assert signed.startswith("AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/")


@pytest.mark.requirement("LLM-04")
async def test_vertex_uses_the_ambient_workload_identity_and_needs_no_key(
    httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(
        "GOOGLE_APPLICATION_CREDENTIALS", str(_workload_identity(tmp_path, httpserver))
    )
    httpserver.expect_request("/sts").respond_with_json({
        "access_token": "ambient-token", "issued_token_type": "urn:ietf:params:oauth:token-type:"
        "access_token", "token_type": "Bearer", "expires_in": 3600,
    })  # fmt: skip
    generated: list[Request] = []

    def generate(request: Request) -> Response:
        generated.append(request)
        return stream_of(google_events("Hi"))

    httpserver.expect_request(
        "/v1beta1/projects/p1/locations/europe-west4/publishers/google/models/"
        "gemini-3.8-flash:streamGenerateContent"
    ).respond_with_handler(generate)
    found = models(
        llm_provider="vertex",
        llm_base_url=httpserver.url_for(""),
        vertex_project="p1",
        vertex_location="europe-west4",
    )
    assert text_of(await events_of(found)) == "Hi"
    assert generated[0].headers["authorization"] == "Bearer ambient-token"


def _workload_identity(folder: Path, server: HTTPServer) -> Path:
    (folder / "token").write_text("pod-token")
    config = folder / "identity.json"
    config.write_text(
        json.dumps({
            "type": "external_account",
            "audience": "//iam.googleapis.com/locations/global/workforcePools/a/providers/b",
            "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
            "token_url": server.url_for("/sts"),
            "credential_source": {"file": str(folder / "token")},
        })
    )
    return config


@pytest.mark.requirement("LLM-09")
@pytest.mark.parametrize("status", [429, 500, 529])
async def test_a_refusal_before_the_first_token_is_retried(
    httpserver: HTTPServer, pauses: list[float], status: int
) -> None:
    httpserver.expect_ordered_request(MESSAGES).respond_with_json(
        {"type": "error", "error": {"type": "e", "message": "later"}},
        status=status,
        headers={"retry-after": "7"},
    )
    httpserver.expect_ordered_request(MESSAGES).respond_with_handler(
        lambda _: stream_of(anthropic_events("Done."))
    )
    assert text_of(await events_of(anthropic(httpserver, pauses))) == "Done."
    assert pauses == [7.0]


async def test_retries_end_after_the_configured_number(
    httpserver: HTTPServer, pauses: list[float]
) -> None:
    httpserver.expect_request(MESSAGES).respond_with_json({"error": {"message": "no"}}, status=503)
    with pytest.raises(ModelError, match="503"):
        await events_of(anthropic(httpserver, pauses, llm_max_retries=2))
    assert len(httpserver.log) == 3
    assert len(pauses) == 2


@pytest.mark.requirement("LLM-09")
async def test_a_failure_after_the_first_token_is_not_retried(
    httpserver: HTTPServer, pauses: list[float]
) -> None:
    fault = {"type": "error", "error": {"type": "overloaded_error", "message": "x"}}
    overloaded = f"event: error\ndata: {json.dumps(fault)}\n\n".encode()
    httpserver.expect_request(MESSAGES).respond_with_handler(
        lambda _: stream_of([*anthropic_events("Half")[:3], overloaded])
    )
    model = anthropic(httpserver, pauses)
    seen: list[ModelEvent] = []

    async def read() -> None:
        async for event in model.resolve(model.default_reference()).stream(ASK):
            seen.append(event)

    with pytest.raises(ModelError):
        await read()
    assert text_of(seen) == "Half"
    assert len(httpserver.log) == 1
    assert pauses == []


@pytest.mark.parametrize(
    ("status", "words"), [(401, "credentials"), (404, "another model"), (400, "status 400")]
)
async def test_a_lasting_refusal_is_final_and_never_shows_the_key(
    httpserver: HTTPServer, pauses: list[float], status: int, words: str
) -> None:
    httpserver.expect_request(MESSAGES).respond_with_json(
        {"type": "error", "error": {"type": "e", "message": "bad k-anthropic"}}, status=status
    )
    with pytest.raises(ModelError, match=words) as caught:
        await events_of(anthropic(httpserver, pauses))
    assert "k-anthropic" not in str(caught.value.body())
    assert pauses == []


async def test_a_longer_pause_than_a_minute_fails_at_once(
    httpserver: HTTPServer, pauses: list[float]
) -> None:
    httpserver.expect_request(MESSAGES).respond_with_json(
        {"error": {"message": "no"}}, status=429, headers={"retry-after": "3600"}
    )
    with pytest.raises(ModelError):
        await events_of(anthropic(httpserver, pauses))
    assert pauses == []


async def test_an_unreachable_server_is_tried_again_and_then_named(pauses: list[float]) -> None:
    found = models(pauses, llm_base_url="http://127.0.0.1:9/v1", llm_max_retries=1)
    with pytest.raises(ModelError, match="LLM_BASE_URL"):
        await events_of(found)
    assert len(pauses) == 1


@asynccontextmanager
async def trickle(first: list[bytes]) -> AsyncIterator[tuple[str, asyncio.Event]]:
    """A server that sends ``first`` and then nothing; the event tells when the client has gone."""
    gone = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if first:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n")
            writer.writelines(first)
            await writer.drain()
        while await reader.read(65536):
            pass
        gone.set()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", gone


async def test_closing_the_stream_closes_the_providers_connection() -> None:
    async with trickle(openai_events("One ")[:1]) as (url, gone):
        found = models(llm_base_url=url)
        async with aclosing(found.resolve(found.default_reference()).stream(ASK)) as stream:
            assert await anext(stream) == TextDelta("One ")
        await asyncio.wait_for(gone.wait(), 60)


async def test_cancelling_a_reader_in_wait_closes_the_providers_connection() -> None:
    async with trickle(openai_events("One ")[:1]) as (url, gone):
        found = models(llm_base_url=url)
        first = asyncio.Event()

        async def read() -> None:
            async with aclosing(found.resolve(found.default_reference()).stream(ASK)) as stream:
                async for _ in stream:
                    first.set()

        reader = asyncio.create_task(read())
        await asyncio.wait_for(first.wait(), 60)
        reader.cancel()
        await asyncio.wait_for(gone.wait(), 60)


async def test_no_first_token_in_time_is_a_model_timeout() -> None:
    async with trickle([]) as (url, _):
        with pytest.raises(ModelTimeoutError, match="LLM_TIMEOUT_SECS"):
            await events_of(models(llm_base_url=url, llm_timeout_secs=0.05))


def test_an_unknown_provider_names_those_that_exist() -> None:
    with pytest.raises(InvalidError, match=r"anthropic, bedrock.*scripted"):
        models().resolve("acme:m1")


def test_a_provider_that_is_not_set_up_says_what_to_set() -> None:
    with pytest.raises(InvalidError, match="OPENAI_API_KEY"):
        models(llm_api_key="k").resolve("openai:gpt-6-luna")


def test_a_models_file_is_merged_over_the_shipped_table(tmp_path: Path) -> None:
    table = tmp_path / "models.toml"
    table.write_text('[models."openai_compatible:q"]\nwindow = 4242\n')
    found = models(llm_base_url="http://127.0.0.1:9/v1", llm_models_file=str(table))
    assert found.resolve("openai_compatible:q").window == 4242


def test_importing_the_room_loads_no_provider_sdk() -> None:
    import subprocess
    import sys

    code = (
        "import sys, agentcy_ray.llm.registry;"
        "print([m for m in ('boto3', 'google.genai', 'anthropic', 'openai', 'pydantic_ai')"
        " if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


async def test_a_stop_text_that_the_provider_met_is_told_from_an_end_of_its_own(
    httpserver: HTTPServer,
) -> None:
    httpserver.expect_request(MESSAGES).respond_with_handler(
        lambda _: stream_of(anthropic_events("One, ", stop="two"))
    )
    asked = ASK.model_copy(update={"stop": ("two",)})
    done = (await events_of(anthropic(httpserver), asked))[-1]
    assert isinstance(done, Done)
    assert done.stop_reason == "stop_text"
    pieces = [piece async for piece in plain_pieces(_only(anthropic(httpserver)), asked)]
    finish = pieces[-1]
    assert isinstance(finish, Finish)
    assert (finish.reason, finish.stop_sequence) == ("stop", "two")


@pytest.mark.parametrize(
    ("status", "said", "known"),
    [
        (404, {"type": "not_found_error", "message": "model: claude-0"}, "model_not_found"),
        (400, {"type": "invalid_request_error", "message": "prompt is too long: 9 > 8"},
         "llm_error"),
    ],
)  # fmt: skip
async def test_what_a_provider_says_of_the_request_is_known_by_its_status(
    httpserver: HTTPServer, status: int, said: dict[str, str], known: str
) -> None:
    httpserver.expect_request(MESSAGES).respond_with_json(
        {"type": "error", "error": said}, status=status
    )
    with pytest.raises(ModelError) as refused:
        await events_of(anthropic(httpserver))
    error = refused.value
    assert (error.code, error.details["status"]) == (known, status)
    assert status_of(Fault(error.status, error.code, "", "", error.details)) == status


def test_names_that_nobody_uses_again_are_forgotten() -> None:
    found = models(llm_api_key="k")
    first, used = found.resolve("anthropic:first"), found.resolve("anthropic:used")
    for number in range(KEPT):
        found.resolve(f"anthropic:{number}")
        assert found.resolve("anthropic:used") is used
    assert found.resolve("anthropic:first") is not first


def _only(found: Models) -> Model:
    return found.resolve(found.default_reference())
