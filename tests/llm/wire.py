"""Provider wire formats, as servers speak them."""

from __future__ import annotations

import binascii
import json
import struct
from collections.abc import Iterator
from typing import Any

from werkzeug import Response

SSE = {"content-type": "text/event-stream"}


def anthropic_events(
    *texts: str, tools: list[tuple[str, str, dict[str, Any]]] | None = None, stop: str | None = None
) -> list[bytes]:
    """A Messages stream: text deltas, then tool uses as (id, name, input), or a stop text met."""
    events: list[tuple[str, dict[str, Any]]] = [
        (
            "message_start",
            {
                "message": {
                    "id": "msg_1",
                    "type": "message",
                    "role": "assistant",
                    "model": "claude-sonnet-5-5",
                    "content": [],
                    "stop_reason": None,
                    "stop_sequence": None,
                    "usage": {"input_tokens": 1000, "output_tokens": 1},
                }
            },
        ),
        ("content_block_start", {"index": 0, "content_block": {"type": "text", "text": ""}}),
    ]
    events += [
        ("content_block_delta", {"index": 0, "delta": {"type": "text_delta", "text": text}})
        for text in texts
    ]
    events.append(("content_block_stop", {"index": 0}))
    for index, (call, name, args) in enumerate(tools or [], start=1):
        block = {"type": "tool_use", "id": call, "name": name, "input": {}}
        raw = json.dumps(args)
        events += [
            ("content_block_start", {"index": index, "content_block": block}),
            *(
                (
                    "content_block_delta",
                    {"index": index, "delta": {"type": "input_json_delta", "partial_json": piece}},
                )
                for piece in (raw[: len(raw) // 2], raw[len(raw) // 2 :])
            ),
            ("content_block_stop", {"index": index}),
        ]
    events += [
        (
            "message_delta",
            {
                "delta": {
                    "stop_reason": "tool_use" if tools else "stop_sequence" if stop else "end_turn",
                    "stop_sequence": stop,
                },
                "usage": {"output_tokens": 100},
            },
        ),
        ("message_stop", {}),
    ]
    return [
        f"event: {name}\ndata: {json.dumps({'type': name, **data})}\n\n".encode()
        for name, data in events
    ]


def openai_events(*texts: str, usage: bool = True) -> list[bytes]:
    """A Chat Completions stream."""
    base = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    chunks: list[dict[str, Any]] = [
        {"choices": [{"index": 0, "delta": {"role": "assistant", "content": text}}]}
        for text in texts
    ]
    chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    if usage:
        counts = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
        chunks.append({"choices": [], "usage": counts})
    lines = [f"data: {json.dumps({**base, **chunk})}\n\n".encode() for chunk in chunks]
    return [*lines, b"data: [DONE]\n\n"]


def google_events(text: str) -> list[bytes]:
    """A ``streamGenerateContent?alt=sse`` stream."""
    chunk = {
        "candidates": [
            {"content": {"role": "model", "parts": [{"text": text}]}, "finishReason": "STOP"}
        ],
        "usageMetadata": {"promptTokenCount": 5, "candidatesTokenCount": 2, "totalTokenCount": 7},
    }
    return [f"data: {json.dumps(chunk)}\r\n\r\n".encode()]


def bedrock_stream(text: str) -> bytes:
    """A ``ConverseStream`` answer in AWS event-stream framing."""
    return b"".join([
        _aws_event("messageStart", {"role": "assistant"}),
        _aws_event("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": text}}),
        _aws_event("contentBlockStop", {"contentBlockIndex": 0}),
        _aws_event("messageStop", {"stopReason": "end_turn"}),
        _aws_event("metadata", {
            "usage": {"inputTokens": 5, "outputTokens": 2, "totalTokens": 7},
            "metrics": {"latencyMs": 1},
        }),
    ])  # fmt: skip


def _aws_event(kind: str, payload: dict[str, Any]) -> bytes:
    headers = b"".join(
        bytes([len(name)])
        + name.encode()
        + b"\x07"
        + struct.pack(">H", len(value))
        + value.encode()
        for name, value in (
            (":event-type", kind),
            (":content-type", "application/json"),
            (":message-type", "event"),
        )
    )
    body = json.dumps(payload).encode()
    prelude = struct.pack(">II", 16 + len(headers) + len(body), len(headers))
    head = prelude + struct.pack(">I", binascii.crc32(prelude))
    message = head + headers + body
    return message + struct.pack(">I", binascii.crc32(message))


def stream_of(events: list[bytes]) -> Response:
    """A streamed 200 answer."""

    def chunks() -> Iterator[bytes]:
        yield from events

    return Response(chunks(), headers=SSE)
