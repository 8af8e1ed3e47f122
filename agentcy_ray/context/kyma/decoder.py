"""kyma's NDJSON back into Arrow, with the types that the text has lost.

A row leaves its nulls out, its keys are sorted, times have no zone, and ``dynamic`` is hexadecimal.
A schema restores all of it, and what lies as text in a column that ingest added; without one, types
are inferred and columns without a value are gone.
"""

from __future__ import annotations

import binascii
from collections.abc import Callable
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.json as pj

from agentcy_ray.context.kyma.arrow import pc
from agentcy_ray.core.errors import EngineError

_BLOCK = 16 * 1024 * 1024
_NANOS = pa.timestamp("ns")

Fit = Callable[[pa.RecordBatch], pa.RecordBatch]
"""Makes batches of one schema into batches of another. Raises as ``conform``."""


def decode(body: bytes, schema: pa.Schema | None = None) -> pa.Table:
    """Rows of an answer.

    Args:
        body: NDJSON as kyma writes it.
        schema: columns to return, in this order, absent ones as null; None = infer.

    Raises:
        EngineError: it is not NDJSON, or does not fit the schema.
    """
    if not body.strip():
        return (schema or pa.schema([])).empty_table()
    longest = max(map(len, body.splitlines())) if len(body) > _BLOCK else len(body)
    options = pj.ReadOptions(use_threads=False, block_size=max(_BLOCK, longest + 1))
    parsing = pj.ParseOptions(
        # Numbers and lists may be JSON or text; all else is text, which must not be guessed at.
        explicit_schema=None
        if schema is None
        else pa.schema([(f.name, pa.string()) for f in schema if not _inferred(f.type)]),
    )
    try:
        table = pj.read_json(pa.BufferReader(body), options, parsing)
        return table if schema is None else conform(table, schema)
    except (pa.ArrowException, ValueError) as error:
        raise EngineError(
            f"kyma's answer does not read as NDJSON of this shape: {error}"
        ) from error


def conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """``table`` with exactly the columns of ``schema``, cast; absent ones are null.

    Raises:
        pa.ArrowException, ValueError: a value does not fit its type.
    """
    columns: list[Any] = []
    for field in schema:
        place = table.schema.get_field_index(field.name)
        if place < 0:
            columns.append(pa.nulls(table.num_rows, field.type))
        else:
            columns.append(_cast(table.column(place), field.type))
    return pa.table(columns, schema=pa.schema([f.with_nullable(True) for f in schema]))


def fitting(given: pa.Schema, schema: pa.Schema) -> Fit:
    """What ``conform`` does, for the batches of one stream: columns that fit cost nothing."""
    places = [given.get_field_index(field.name) for field in schema]
    out = pa.schema([field.with_nullable(True) for field in schema])

    def fit(batch: pa.RecordBatch) -> pa.RecordBatch:
        columns: list[pa.Array] = []
        for place, field in zip(places, out, strict=True):
            if place < 0:
                columns.append(pa.nulls(batch.num_rows, field.type))
                continue
            column = batch.column(place)
            if column.type != field.type:
                cast = _cast(pa.chunked_array([column]), field.type)
                column = cast.chunk(0) if cast.num_chunks == 1 else cast.combine_chunks()
            columns.append(column)
        return pa.RecordBatch.from_arrays(columns, schema=out)

    return fit


def unhex(texts: pa.Array, kind: pa.DataType) -> pa.Array:
    """Hexadecimal texts as bytes, for a whole array at once.

    Raises:
        ValueError: a text is not hexadecimal.
    """
    texts = pc.cast(texts, pa.large_string())
    offsets = np.frombuffer(texts.buffers()[1], np.int64, len(texts) + texts.offset + 1)
    offsets = offsets[texts.offset :]
    if bool((np.diff(offsets) & 1).any()):
        raise ValueError("a dynamic value has half a byte")
    data = texts.buffers()[2]
    raw = b"" if data is None else binascii.unhexlify(data[int(offsets[0]) : int(offsets[-1])])
    moved = pa.py_buffer(((offsets - offsets[0]) // 2).tobytes())
    whole = pa.Array.from_buffers(
        pa.large_binary(), len(texts), [None, moved, pa.py_buffer(raw)]
    )  # fmt: skip
    if texts.null_count:
        whole = pc.if_else(pc.is_valid(texts), whole, pa.scalar(None, pa.large_binary()))
    return whole.cast(kind)


def _inferred(kind: pa.DataType) -> bool:
    return (
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_nested(kind)
    )


def _cast(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    if column.type == kind:
        return column
    if pa.types.is_string(column.type):
        return _from_text(column, kind)
    if pa.types.is_timestamp(kind) and pa.types.is_timestamp(column.type):
        if kind.tz is not None and column.type.tz is None:
            column = pc.assume_timezone(column, "UTC")
        return pc.cast(column, kind, safe=False)  # nanoseconds below the unit are cut
    # Floats without a fraction are inferred as integers.
    return pc.cast(column, kind, safe=not pa.types.is_floating(kind))


def _from_text(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    if _is_bytes(kind):
        return pa.chunked_array([unhex(chunk, kind) for chunk in column.chunks], kind)
    if pa.types.is_nested(kind):
        return pa.chunked_array([_parsed(chunk, kind) for chunk in column.chunks], kind)
    if pa.types.is_timestamp(kind):
        return _cast(pc.cast(pc.utf8_rtrim(column, "Z"), _NANOS), kind)
    if pa.types.is_date(kind):
        column = pc.utf8_slice_codeunits(column, 0, 10)
    return pc.cast(column, kind)


def _parsed(texts: pa.Array, kind: pa.DataType) -> pa.Array:
    """Nested values that lie as JSON text, one by one."""
    return pa.array([text and orjson.loads(text) for text in texts.to_pylist()], kind)


def _is_bytes(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
