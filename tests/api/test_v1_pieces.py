"""What answers below ``/v1`` are made of, whatever the form."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentcy_ray.api.error_shapes import Fault, dialect_of, written
from agentcy_ray.api.routes.v1.anthropic_answers import AnthropicWriter
from agentcy_ray.api.routes.v1.openai_answers import KEEP_ALIVE, OpenAiWriter
from agentcy_ray.api.routes.v1.openai_requests import ChatRequest, asked
from agentcy_ray.api.routes.v1.pieces import Finish, Idle, Pieces, Void, Words, gathered
from agentcy_ray.api.routes.v1.plain import StopCut, begun
from agentcy_ray.api.routes.v1.writer import Head
from agentcy_ray.core.errors import ModelError
from agentcy_ray.core.events import Usage
from agentcy_ray.core.ids import new_id

END = Finish(reason="end", usage=Usage(in_tokens=1, out_tokens=1))
HEAD = Head(id=new_id(), created=0, model="m", request_id="req_12345678", asked_tokens=1)


@given(
    st.text("abc", max_size=30),
    st.lists(st.text("abc", min_size=1, max_size=4), max_size=3),
    st.data(),
)
def test_a_text_ends_before_its_first_stop_however_it_is_cut(
    text: str, stops: list[str], data: st.DataObject
) -> None:
    cut, shown, rest = StopCut(stops), "", text
    while rest and cut.met is None:
        size = data.draw(st.integers(1, len(rest)))
        shown += cut.feed(rest[:size])
        rest = rest[size:]
    shown += cut.rest()
    ends = [place for stop in stops if (place := text.find(stop)) >= 0]
    if cut.met is None:
        assert shown == text
        assert not ends
    else:
        assert text.startswith(shown + cut.met)
        assert cut.met in stops
        assert not any(stop in shown for stop in stops)


async def test_a_silent_source_is_kept_alive_and_a_failing_one_fails_at_once() -> None:
    go = asyncio.Event()

    async def slow() -> Pieces:
        await go.wait()
        yield Words("late")
        yield END

    pieces = await begun(slow(), 0.01)
    assert isinstance(await anext(pieces), Idle)
    frames = OpenAiWriter().frames(HEAD, pieces)
    assert b"assistant" in await anext(frames)
    assert await anext(frames) == KEEP_ALIVE
    go.set()
    rest = [frame async for frame in frames if frame != KEEP_ALIVE]
    assert b'"late"' in rest[0]
    assert rest[-1] == b"data: [DONE]\n\n"

    async def broken() -> Pieces:
        raise ModelError("the provider is away", status=429)
        yield END

    with pytest.raises(ModelError):
        await begun(broken(), 5)


def test_arguments_that_no_parser_takes_are_kept_as_they_were_written() -> None:
    deep = "[" * 100_000
    call = {"id": "c1", "function": {"name": "look", "arguments": deep}}
    body = ChatRequest.model_validate({
        "model": "m",
        "messages": [{"role": "user", "content": "?"}, {"role": "assistant", "tool_calls": [call]}],
    })
    (use,) = asked(body).request.messages[1].tool_calls
    assert (use.args, use.invalid) == ({}, deep)


async def test_words_of_a_turn_that_was_begun_anew_do_not_count_twice() -> None:
    async def restarted() -> Pieces:
        for piece in (
            Words("Whole. ", 1),
            Words("Ha", 2),
            Void(2, "taken over"),
            Words("Half.", 4),
        ):
            yield piece
        yield END

    assert (await gathered(restarted())).text == "Whole. Half."
    events = b"".join([frame async for frame in AnthropicWriter().frames(HEAD, restarted())])
    assert b"taken over" in events


def test_what_a_provider_says_of_a_request_reaches_its_caller() -> None:
    fault = Fault(502, "llm_error", "too many", "req_12345678", {"status": 429})
    assert written(fault, "openai")[0] == 429
    assert written(fault, "house")[0] == 502
    status, body, headers = written(fault, "anthropic")
    assert (status, body["type"], body["error"]["type"]) == (429, "error", "rate_limit_error")
    assert headers["x-should-retry"] == "false"
    assert written(Fault(502, "llm_error", "m", "r", {"status": 401}), "openai")[0] == 502
    assert [dialect_of(path) for path in ("/v1", "/v1/messages", "/v1x", "/api/v1/runs")] == [
        "openai", "anthropic", "house", "house",
    ]  # fmt: skip
