"""Answers in Anthropic's form: messages of content blocks, whole and as events."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import Any, Literal

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
from agentcy_ray.api.sse import frame
from agentcy_ray.core.errors import AgentcyError
from agentcy_ray.core.events import Usage
from agentcy_ray.llm.model import ToolUse

_REASONS: dict[Reason, str] = {
    "end": "end_turn",
    "stop": "stop_sequence",
    "tool_calls": "tool_use",
    "length": "max_tokens",
    "content_filter": "refusal",
}
BlockKind = Literal["text", "thinking"]


class AnthropicWriter:
    """Writes messages."""

    def body(self, head: Head, spoken: Spoken) -> dict[str, Any]:
        """A ``message``."""
        content: list[dict[str, Any]] = []
        if spoken.reasoning:
            content.append({"type": "thinking", "thinking": spoken.reasoning, "signature": ""})
        if spoken.text:
            content.append({"type": "text", "text": spoken.text})
        content += [{**_tool_use(call), "input": call.args} for call in spoken.calls]
        finish = spoken.finish
        body = _message(head, content, usage_of(finish.usage))
        body["stop_reason"] = _REASONS[finish.reason]
        body["stop_sequence"] = finish.stop_sequence
        if finish.notes is not None:
            body["x_agentcy"] = finish.notes
        return body

    async def frames(self, head: Head, pieces: Pieces) -> AsyncGenerator[bytes]:
        """``message_start``, the blocks with their deltas, ``message_delta``, ``message_stop``."""
        blocks = _Blocks()
        yield _event("message_start", message=_begun(head))
        try:
            async with aclosing(pieces):
                async for piece in pieces:
                    match piece:
                        case Words(text):
                            for event in blocks.text(text):
                                yield event
                        case Reasoning(text):
                            for event in blocks.thinking(text):
                                yield event
                        case Call(call):
                            for event in blocks.tool_use(call):
                                yield event
                        case Notice(data):
                            yield _event("ping", x_agentcy=data)
                        case Void(message=message):
                            notes = {**(head.notes or {}), "warning": message}
                            yield _event("ping", x_agentcy=notes)
                        case Idle():
                            yield _event("ping")
                        case Finish():
                            for event in blocks.close():
                                yield event
                            yield _finished(piece)
                    del piece
        except AgentcyError as error:
            yield frame("error", late_error(error, head, "anthropic"))
            return
        yield _event("message_stop")


class _Blocks:
    """The content blocks of one answer, one open at a time."""

    def __init__(self) -> None:
        self._index = -1
        self._open: BlockKind | None = None

    def text(self, text: str) -> Iterator[bytes]:
        """Words, in a block of their own kind."""
        yield from self._enter("text", {"type": "text", "text": ""})
        yield self._delta({"type": "text_delta", "text": text})

    def thinking(self, text: str) -> Iterator[bytes]:
        """Reasoning; its signature stays with the provider."""
        block = {"type": "thinking", "thinking": "", "signature": ""}
        yield from self._enter("thinking", block)
        yield self._delta({"type": "thinking_delta", "thinking": text})

    def tool_use(self, call: ToolUse) -> Iterator[bytes]:
        """A whole call."""
        yield from self.close()
        self._index += 1
        yield self._start({**_tool_use(call), "input": {}})
        # Arguments that are no JSON object cannot stand here; the client gets an empty one.
        raw = "{}" if call.invalid is not None else arguments_of(call)
        yield self._delta({"type": "input_json_delta", "partial_json": raw})
        yield self._stop()

    def close(self) -> Iterator[bytes]:
        """End the open block, if there is one."""
        if self._open is not None:
            self._open = None
            yield self._stop()

    def _enter(self, kind: BlockKind, block: dict[str, Any]) -> Iterator[bytes]:
        if self._open == kind:
            return
        yield from self.close()
        self._index += 1
        self._open = kind
        yield self._start(block)

    def _start(self, block: dict[str, Any]) -> bytes:
        return _event("content_block_start", index=self._index, content_block=block)

    def _delta(self, delta: dict[str, Any]) -> bytes:
        return _event("content_block_delta", index=self._index, delta=delta)

    def _stop(self) -> bytes:
        return _event("content_block_stop", index=self._index)


def usage_of(usage: Usage) -> dict[str, int]:
    """Token counts in Anthropic's words."""
    return {"input_tokens": usage.in_tokens, "output_tokens": usage.out_tokens}


def _message(head: Head, content: list[dict[str, Any]], usage: dict[str, int]) -> dict[str, Any]:
    return {
        "id": head.named("msg_"),
        "type": "message",
        "role": "assistant",
        "model": head.model,
        "content": content,
        "stop_reason": None,
        "stop_sequence": None,
        "usage": usage,
    }


def _begun(head: Head) -> dict[str, Any]:
    message = _message(head, [], {"input_tokens": head.asked_tokens, "output_tokens": 0})
    if head.notes is not None:
        message["x_agentcy"] = head.notes
    return message


def _finished(finish: Finish) -> bytes:
    delta = {"stop_reason": _REASONS[finish.reason], "stop_sequence": finish.stop_sequence}
    more = {} if finish.notes is None else {"x_agentcy": finish.notes}
    return _event("message_delta", delta=delta, usage=usage_of(finish.usage), **more)


def _tool_use(call: ToolUse) -> dict[str, Any]:
    return {"type": "tool_use", "id": call.id, "name": call.name}


def _event(kind: str, **data: Any) -> bytes:
    return frame(kind, {"type": kind, **data})
