"""Answers in OpenAI's form: chat completions, whole and as chunks."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from agentcy_ray.api.routes.v1.pieces import (
    Call,
    Finish,
    Idle,
    Notice,
    Pieces,
    Reason,
    Reasoning,
    Spoken,
    Void,
    Words,
)
from agentcy_ray.api.routes.v1.writer import Head, arguments_of, late_error
from agentcy_ray.api.sse import one_line
from agentcy_ray.core.errors import AgentcyError
from agentcy_ray.core.events import Usage
from agentcy_ray.llm.model import ToolUse

KEEP_ALIVE = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"
_REASONS: dict[Reason, str] = {
    "end": "stop",
    "stop": "stop",
    "tool_calls": "tool_calls",
    "length": "length",
    "content_filter": "content_filter",
}


class OpenAiWriter:
    """Writes chat completions."""

    def body(self, head: Head, spoken: Spoken) -> dict[str, Any]:
        """A ``chat.completion``."""
        message: dict[str, Any] = {
            "role": "assistant",
            "content": spoken.text if spoken.text or not spoken.calls else None,
            "refusal": None,
        }
        if spoken.reasoning:
            message["reasoning_content"] = spoken.reasoning
        if spoken.calls:
            message["tool_calls"] = [_call(call) for call in spoken.calls]
        reason = _REASONS[spoken.finish.reason]
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reason}
        body = {
            "id": head.named("chatcmpl-"),
            "object": "chat.completion",
            "created": head.created,
            "model": head.model,
            "choices": [choice],
            "usage": usage_of(spoken.finish.usage),
        }
        if spoken.finish.notes is not None:
            body["x_agentcy"] = spoken.finish.notes
        return body

    async def frames(self, head: Head, pieces: Pieces) -> AsyncGenerator[bytes]:
        """``chat.completion.chunk`` events, then ``[DONE]``."""
        chunk = _Chunks(head)
        calls = 0
        yield chunk.of({"role": "assistant", "content": ""}, notes=head.notes)
        try:
            async with aclosing(pieces):
                async for piece in pieces:
                    match piece:
                        case Words(text):
                            yield chunk.of({"content": text})
                        case Reasoning(text):
                            yield chunk.of({"reasoning_content": text})
                        case Call(call):
                            yield chunk.of({"tool_calls": [{"index": calls, **_call(call)}]})
                            calls += 1
                        case Notice(data):
                            yield chunk.of({}, notes=data)
                        case Void(message=message):
                            yield chunk.of({}, notes={**(head.notes or {}), "warning": message})
                        case Idle():
                            yield KEEP_ALIVE
                        case Finish():
                            yield chunk.of({}, _REASONS[piece.reason], piece.notes)
                            if head.include_usage:
                                yield chunk.usage(piece.usage)
                    del piece
        except AgentcyError as error:
            yield _event(late_error(error, head, "openai"))
            return
        yield DONE


class _Chunks:
    """Chunks of one answer."""

    def __init__(self, head: Head) -> None:
        self._base: dict[str, Any] = {
            "id": head.named("chatcmpl-"),
            "object": "chat.completion.chunk",
            "created": head.created,
            "model": head.model,
        }
        if head.include_usage:
            self._base["usage"] = None

    def of(
        self,
        delta: dict[str, Any],
        reason: str | None = None,
        notes: dict[str, Any] | None = None,
    ) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        chunk = {**self._base, "choices": [choice]}
        if notes is not None:
            chunk["x_agentcy"] = notes
        return _event(chunk)

    def usage(self, usage: Usage) -> bytes:
        """The last chunk, which has no choice."""
        return _event({**self._base, "choices": [], "usage": usage_of(usage)})


def usage_of(usage: Usage) -> dict[str, int]:
    """Token counts in OpenAI's words."""
    return {
        "prompt_tokens": usage.in_tokens,
        "completion_tokens": usage.out_tokens,
        "total_tokens": usage.in_tokens + usage.out_tokens,
    }


def _call(call: ToolUse) -> dict[str, Any]:
    function = {"name": call.name, "arguments": arguments_of(call)}
    return {"id": call.id, "type": "function", "function": function}


def _event(data: dict[str, Any]) -> bytes:
    return b"data: %s\n\n" % one_line(data)
