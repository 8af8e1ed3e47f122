"""Answers as an Arrow IPC stream, batch by batch, as they come from the engine.

An error before the first batch is answered like any other. A later one ends the connection without
the stream's end marker and without the last chunk of the body, so no reader takes a part for the
whole; the log has it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator

import pyarrow as pa
from starlette.requests import Request
from starlette.responses import StreamingResponse

MEDIA_TYPE = "application/vnd.apache.arrow.stream"
END = b"\xff\xff\xff\xff\x00\x00\x00\x00"
"""Ends an IPC stream (Arrow columnar format, "IPC Streaming Format")."""


def wants_arrow(request: Request) -> bool:
    """Whether the request accepts an Arrow stream by name; ``*/*`` means JSON."""
    kinds = request.headers.get("accept", "").split(",")
    return any(kind.partition(";")[0].strip().lower() == MEDIA_TYPE for kind in kinds)


async def arrow_response(batches: AsyncIterator[pa.RecordBatch]) -> StreamingResponse:
    """The batches as they come; the first one is waited for here.

    Raises:
        AgentcyError: whatever ``batches`` raises before its first one.
    """
    first = await anext(batches, None)
    return StreamingResponse(_sent(first, batches), media_type=MEDIA_TYPE)


async def _sent(
    first: pa.RecordBatch | None, batches: AsyncIterator[pa.RecordBatch]
) -> AsyncGenerator[bytes | memoryview]:
    """The messages; the engine is read ahead by its client, and held back by a slow reader."""
    try:
        schema = pa.schema([]) if first is None else _plain(first).schema
        yield memoryview(schema.serialize())
        if first is not None and first.num_rows:
            yield memoryview(_plain(first).serialize())
        async for batch in batches:
            yield memoryview(_plain(batch).serialize())
        yield END
    finally:
        close = getattr(batches, "aclose", None)
        if close is not None:
            await close()


def _plain(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The batch without dictionaries, whose values would have to be sent beside it."""
    if not any(pa.types.is_dictionary(field.type) for field in batch.schema):
        return batch
    fields = [
        field.with_type(field.type.value_type) if pa.types.is_dictionary(field.type) else field
        for field in batch.schema
    ]
    return batch.cast(pa.schema(fields, metadata=batch.schema.metadata))
