"""Arrow batches into the NDJSON rows of a query's answer."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Any, cast

import orjson
import pyarrow as pa

from agentcy_ray.devkyma.arrow import pc

OPTIONS = orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE | orjson.OPT_SERIALIZE_NUMPY


def encode_rows(batches: Iterable[pa.RecordBatch]) -> tuple[bytes, int]:
    """One JSON object per line, keys sorted, nulls left out; and the number of rows."""
    lines: list[bytes] = []
    for batch in batches:
        names = batch.schema.names
        columns = [plain(column) for column in batch.columns]
        for row in zip(*columns, strict=True) if columns else [()] * batch.num_rows:
            shown = {k: v for k, v in zip(names, row, strict=True) if v is not None}
            lines.append(orjson.dumps(shown, default=_other, option=OPTIONS))
    return b"".join(lines), len(lines)


def plain(column: pa.Array) -> list[Any]:
    """A column as values that JSON can hold."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return plain(cast("pa.DictionaryArray", column).dictionary_decode())
    if pa.types.is_timestamp(kind):
        return _timestamps(column)
    if _is_bytes(kind):
        return [None if v is None else v.hex() for v in column.to_pylist()]
    if pa.types.is_nested(kind):
        return [_nested(v) for v in cast(Any, column).to_pylist()]
    if pa.types.is_time(kind) or pa.types.is_date(kind):
        return column.cast(pa.string()).to_pylist()
    return column.to_pylist()


def _is_bytes(kind: pa.DataType) -> bool:
    return (
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_fixed_size_binary(kind)
        or pa.types.is_binary_view(kind)
    )


def _timestamps(column: pa.Array) -> list[Any]:
    """ISO text; the fraction has 3, 6 or 9 digits and is left out when it is zero."""
    zone = cast("pa.TimestampType", column.type).tz
    text = column.cast(pa.timestamp("ns")).cast(pa.string())
    text = pc.replace_substring(text, " ", "T", max_replacements=1)
    text = pc.replace_substring_regex(text, r"\.000000000$", "")
    text = pc.replace_substring_regex(text, r"(\.\d{3})000000$", r"\1")
    text = pc.replace_substring_regex(text, r"(\.\d{6})000$", r"\1")
    values = text.to_pylist()
    return values if zone is None else [None if v is None else f"{v}Z" for v in values]


def _nested(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _nested(v) for k, v in cast("dict[str, Any]", value).items() if v is not None}
    if isinstance(value, list):
        return [_nested(v) for v in cast("list[Any]", value)]
    if isinstance(value, tuple):  # an entry of a map
        return [_nested(v) for v in cast("tuple[Any, ...]", value)]
    return value.hex() if isinstance(value, bytes) else value


def _other(value: object) -> object:
    if isinstance(value, timedelta):
        return f"PT{value.total_seconds():g}S"
    return str(value)
