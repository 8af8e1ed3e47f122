"""Answers as Arrow: what the columns of a query are called there, and rows made into batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import orjson
import pyarrow as pa

from agentcy_ray.context.engine import Column, QueryResult

KIND = b"agentcy.type"
"""Metadata of a field: the ``type`` that the JSON answer gives the column. Text of a field whose
kind is ``node``, ``edge``, ``path``, ``list``, ``map`` or ``any`` is JSON."""
BATCH_ROWS = 8_192

_PLAIN: dict[str, pa.DataType] = {
    "bool": pa.bool_(),
    "int64": pa.int64(),
    "double": pa.float64(),
    "string": pa.string(),
}


def arrow_field(column: Column, arrow: pa.DataType | None = None) -> pa.Field:
    """The field of a result column; ``arrow`` is its type where the engine gives one."""
    return pa.field(
        column.name, arrow or _PLAIN.get(column.type, pa.string()),
        metadata={KIND: column.type.encode()},
    )  # fmt: skip


def json_texts(values: Iterable[Any]) -> pa.Array:
    """Values as JSON text; None stays null."""
    texts = [None if value is None else orjson.dumps(value).decode() for value in values]
    return pa.array(texts, pa.string())


def as_batches(result: QueryResult) -> list[pa.RecordBatch]:
    """The rows as batches of one schema; one empty batch for no rows."""
    schema = pa.schema([arrow_field(column) for column in result.columns])
    return [_batch(schema, result.columns, rows) for rows in _parts(result.rows)]


def _batch(
    schema: pa.Schema, columns: Sequence[Column], rows: Sequence[tuple[Any, ...]]
) -> pa.RecordBatch:
    arrays: list[pa.Array] = []
    for position, column in enumerate(columns):
        values = [row[position] for row in rows]
        plain = _PLAIN.get(column.type)
        arrays.append(json_texts(values) if plain is None else pa.array(values, plain))
    if not columns:
        return pa.RecordBatch.from_pylist([], schema=schema)
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _parts(rows: Sequence[tuple[Any, ...]]) -> Iterator[Sequence[tuple[Any, ...]]]:
    yield rows[:BATCH_ROWS]
    for start in range(BATCH_ROWS, len(rows), BATCH_ROWS):
        yield rows[start : start + BATCH_ROWS]
