"""NDJSON into Arrow columns, as strict as kyma: one value that does not fit refuses the batch.

Lines are taken in blocks that fit the processor's cache; within a block each column is built in
one step, so no cell is looked at by Python code twice.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, cast

import orjson
import pyarrow as pa

from agentcy_ray.devkyma.arrow import pc
from agentcy_ray.devkyma.errors import EngineError, bad_body
from agentcy_ray.devkyma.types import Column, Columns

BLOCK_ROWS = 2000
NAME = re.compile(r"^[a-z_][a-z0-9_]{0,62}$")
RFC3339 = r"^\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}:\d{2}(\.\d{1,9})?([Zz]|[+-]\d{2}:\d{2})$"
AT_SOURCES = ("timestamp", "time_unix_nano", "observed_time_unix_nano")
"""Keys that fill a missing ``at``, the first that is there."""

Row = dict[str, Any]
Cells = dict[str, Sequence[Any]]


_NEVER_ADDED = frozenset({"at", "label", "body", "props"})
"""A typed table that lacks one of these drops it."""


class Rows:
    """The rows of one ingest body, and the columns that they bring along.

    Raises:
        EngineError: 400 for a line that is no JSON object or does not fit a column.
    """

    def __init__(self, body: bytes, columns: Columns, *, evolve: bool, new_columns: int) -> None:
        self._columns = list(columns)
        self._known = {*_NEVER_ADDED, *(c.name.lower() for c in columns)}
        self._room = new_columns if evolve else 0
        self._shapes: set[tuple[str, ...]] = set()
        self._blocks: list[dict[str, pa.Array]] = []
        self._sizes: list[int] = []
        self.count = 0
        for rows in _blocks(body):
            self._blocks.append(self._block(rows))
            self._sizes.append(len(rows))
            self.count += len(rows)
        self.added: Columns = tuple(self._columns[len(columns) :])

    def table(self, columns: Columns) -> pa.Table:
        """The rows in the shape of the table as it is now."""
        fields = [pa.field(c.name, c.arrow, nullable=c.nullable) for c in columns]
        chunks = [
            pa.chunked_array(
                [
                    block[field.name] if field.name in block else pa.nulls(size, field.type)
                    for block, size in zip(self._blocks, self._sizes, strict=True)
                ],
                field.type,
            )
            for field in fields
        ]
        return pa.table(chunks, schema=pa.schema(fields))

    def _block(self, rows: list[Row]) -> dict[str, pa.Array]:
        try:
            shapes = dict.fromkeys(map(tuple, rows))
        except TypeError:  # a number or null among the lines
            raise bad_body(f"line {self._bad_line(rows)} is not a JSON object") from None
        if any(type(row) is not dict for row in rows):
            raise bad_body(f"line {self._bad_line(rows)} is not a JSON object")
        for shape in shapes:
            if shape not in self._shapes:
                self._shapes.add(shape)
                self._learn(shape)
        columns = self._columns
        if len(shapes) == 1:
            columnwise = zip(*map(dict.values, rows), strict=True)
            values = dict(zip(next(iter(shapes)), columnwise, strict=True))
            cells: Cells = {c.name: values[c.name] for c in columns if c.name in values}
        else:
            keys = {key for shape in shapes for key in shape}
            cells = {c.name: [row.get(c.name) for row in rows] for c in columns if c.name in keys}
        _fill_at(cells, rows, columns)
        built: dict[str, pa.Array] = {}
        for column in columns:
            values = cells.get(column.name)
            if values is not None:
                built[column.name] = _build(column, values, self.count)
            elif not column.nullable:
                raise bad_body(f"line {self.count + 1}: column {column.name!r} is required")
        return built

    def _learn(self, shape: tuple[str, ...]) -> None:
        for key in shape:
            lowered = key.lower()
            if lowered in self._known or self._room <= 0 or NAME.match(lowered) is None:
                continue
            self._known.add(lowered)
            self._columns.append(Column(key, "string"))
            self._room -= 1

    def _bad_line(self, rows: Sequence[object]) -> int:
        bad = next(i for i, row in enumerate(rows) if type(row) is not dict)
        return self.count + bad + 1


def _blocks(body: bytes) -> Iterator[list[Row]]:
    lines = [line for line in body.split(b"\n") if line and not line.isspace()]
    for start in range(0, len(lines), BLOCK_ROWS):
        block = lines[start : start + BLOCK_ROWS]
        try:
            yield list(map(orjson.loads, block))
        except orjson.JSONDecodeError:
            raise bad_body(_first_broken(block, start)) from None


def _first_broken(block: list[bytes], start: int) -> str:
    for number, line in enumerate(block, start + 1):
        try:
            orjson.loads(line)
        except orjson.JSONDecodeError as error:
            return f"line {number} is not JSON: {error.msg}"
    raise AssertionError("a line of the block does not parse")


def _fill_at(cells: Cells, rows: list[Row], columns: list[Column]) -> None:
    """Fill ``at`` from the other keys that may carry the time."""
    if not any(c.name == "at" and c.type == "timestamp" for c in columns):
        return
    at = cells.get("at")
    if at is not None and None not in at:
        return
    filled = [
        value if value is not None else _other_time(row)
        for value, row in zip(at or [None] * len(rows), rows, strict=True)
    ]
    if at is not None or any(value is not None for value in filled):
        cells["at"] = filled


def _other_time(row: Row) -> object:
    for key in AT_SOURCES:
        value = row.get(key)
        if value is None:
            continue
        if key != "timestamp" or type(value) not in (int, float):
            return value
        for least, factor in ((1e16, 1), (1e14, 1_000), (1e11, 1_000_000)):
            if value >= least:
                return int(value * factor)
        return int(value * 1_000_000_000)
    return None


def _build(column: Column, values: Sequence[Any], before: int) -> pa.Array:
    try:
        match column.type:
            case "dynamic":
                return pa.array([_dynamic(v) for v in values], pa.binary())
            case "timestamp":
                return _timestamps(values)
            case "int" | "long" | "real":
                return _numbers(column, values)
            case "string" | "bool":
                return pa.array(values, column.arrow)
            case _:
                return _vectors(column, values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, ValueError, TypeError, OverflowError) as error:
        raise bad_body(_where(column, values, before, error)) from None


def _where(column: Column, values: Sequence[Any], before: int, error: Exception) -> str:
    """Name the first line whose value does not fit by itself."""
    if len(values) > 1:
        for number, value in enumerate(values):
            try:
                _build(column, [value], before + number)
            except EngineError as found:
                return found.message
    kind = type(values[0]).__name__ if len(values) == 1 else "value"
    shown = {"str": "text", "NoneType": "null", "dict": "an object", "list": "an array"}
    return (
        f"line {before + 1}: {shown.get(kind, kind)} does not fit column"
        f" {column.name!r} of type {column.type}: {error}"
    )


def _dynamic(value: object) -> bytes | None:
    if value is None:
        return None
    return value.encode() if type(value) is str else orjson.dumps(value)


def _timestamps(values: Sequence[Any]) -> pa.Array:
    kinds = set(map(type, values)) - {type(None)}
    if not kinds <= {str, int}:
        raise ValueError("a timestamp is RFC 3339 text or integer nanoseconds")
    if kinds == {int}:
        return pa.array(values, pa.timestamp("ns"))
    if int in kinds:
        texts = [v if type(v) is str else None for v in values]
        numbers = [v if type(v) is int else None for v in values]
        return pc.coalesce(_timestamps(texts), pa.array(numbers, pa.timestamp("ns")))
    texts = pa.array(values, pa.string())
    if not pc.all(pc.match_substring_regex(texts, RFC3339), min_count=0).as_py():
        raise ValueError("a timestamp is RFC 3339 text with a zone")
    utc = pc.cast(texts, pa.timestamp("ns", "UTC"))
    return utc.cast(pa.timestamp("ns"))


def _numbers(column: Column, values: Sequence[Any]) -> pa.Array:
    kinds = set(map(type, values)) - {type(None)}
    if not kinds <= {int, float, str}:
        raise ValueError("a number or numeric text is wanted")
    if str in kinds:
        kind = float if column.type == "real" else int
        values = [kind(v) if type(v) is str else v for v in values]
    if column.type == "real":
        values = [None if v is None else float(v) for v in values]
    return pa.array(values, column.arrow)


def _vectors(column: Column, values: Sequence[Any]) -> pa.Array:
    width = cast("pa.FixedSizeListType", column.arrow).list_size
    for value in values:
        if type(value) is not list or len(value) != width:
            raise ValueError(f"an array of exactly {width} numbers is required in every row")
        if not all(type(item) in (int, float) for item in value):
            raise ValueError("a vector holds numbers only")
    flat = pa.array([item for value in values for item in value], pa.float64())
    return pa.FixedSizeListArray.from_arrays(flat.cast(pa.float32()), type=column.arrow)
