"""The body of an ingest request as records: NDJSON, a JSON array or one object, packed or not."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any, cast

import orjson

from agentcy_ray.core.errors import BadRequestError, MediaTypeError, TooLargeError

LINES = frozenset({
    "application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines",
    "application/jsonlines", "text/plain", "",
})  # fmt: skip
JSON = "application/json"
_GZIP = 16 + zlib.MAX_WBITS


class BadLine(ValueError):
    """What stands in place of a record that could not be read; the text is the reason."""


def media_type(header: str) -> str:
    """The media type of a Content-Type header.

    Raises:
        MediaTypeError: a pipeline does not read it.
    """
    kind = header.partition(";")[0].strip().lower()
    if kind != JSON and kind not in LINES:
        raise MediaTypeError(
            f"a pipeline reads application/x-ndjson and application/json, not {kind}"
        )
    return kind


def unpacked(body: bytes, encoding: str, limit: int) -> bytes:
    """The body without its Content-Encoding, never more than ``limit`` bytes of it.

    Raises:
        MediaTypeError: another encoding than gzip.
        TooLargeError: it passes the limit, packed or not.
        BadRequestError: it is no whole gzip stream.
    """
    if len(body) > limit:
        raise _too_large(limit)
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return body
    if encoding not in ("gzip", "x-gzip"):
        raise MediaTypeError(f"send the body plain or with Content-Encoding gzip, not {encoding}")
    parts: list[bytes] = []
    room, rest = limit, body
    try:
        while rest:
            member = zlib.decompressobj(_GZIP)
            part = member.decompress(rest, room + 1)
            if len(part) > room:
                raise _too_large(limit)
            if not member.eof:
                raise BadRequestError("the gzip stream ends too early; send all of it")
            parts.append(part)
            room -= len(part)
            rest = member.unused_data
    except zlib.error as error:
        raise BadRequestError(f"the body is no gzip stream: {error}") from error
    return b"".join(parts)


def records_of(body: bytes, kind: str) -> Iterator[tuple[int, dict[str, Any] | BadLine]]:
    """Records with their line, counted from 1; in a JSON array the line is the place in it.

    A body that says to be JSON and is none is read as lines, for many senders call NDJSON so.
    """
    if kind == JSON:
        try:
            whole = orjson.loads(body)
        except orjson.JSONDecodeError:
            yield from _lines(body)
            return
        items = cast("list[Any]", whole) if isinstance(whole, list) else [whole]
        for number, item in enumerate(items, start=1):
            yield number, _object(item)
        return
    yield from _lines(body)


def _lines(body: bytes) -> Iterator[tuple[int, dict[str, Any] | BadLine]]:
    for number, line in enumerate(body.split(b"\n"), start=1):
        if line.isspace() or not line:
            continue
        try:
            yield number, _object(orjson.loads(line))
        except orjson.JSONDecodeError as error:
            yield number, BadLine(f"it is not JSON: {error}")


def _object(value: Any) -> dict[str, Any] | BadLine:
    if isinstance(value, dict):
        return cast("dict[str, Any]", value)
    return BadLine("it is no JSON object")


def _too_large(limit: int) -> TooLargeError:
    return TooLargeError(f"the body passes {limit:,} bytes; send less at once")
