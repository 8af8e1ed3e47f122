"""Rows into bounded Arrow batches: what every connector yields through.

A ``BatchBuilder`` collects rows of one ``SOURCE_*`` schema and hands out a batch when the next row
would pass the bound, so no connector holds more than one batch of each kind.

Text is made storable here, once: a lone surrogate cannot be UTF-8 and a NUL cannot be Postgres
text, so both become U+FFFD.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import PurePath
from typing import Any, cast

import orjson
import pyarrow as pa

from agentcy_ray.connectors.base import BATCH_BYTES, BATCH_ROWS, Batch, BatchKind
from agentcy_ray.core.batches import SOURCE_SCHEMAS

_OPTIONS = orjson.OPT_NON_STR_KEYS | orjson.OPT_PASSTHROUGH_DATETIME
_INT64 = range(-(2**63), 2**64)
_CELL_OVERHEAD = 8  # an offset, a share of the validity bitmap, a number or time itself


def clean_text(text: str) -> str:
    """``text`` without lone surrogates and NUL characters, each replaced by U+FFFD."""
    if "\x00" in text:
        text = text.replace("\x00", "\ufffd")
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def json_object(value: Mapping[str, Any]) -> str:
    """Canonical JSON of a mapping: sorted keys, no blanks, equal for equal content.

    Times are RFC 3339 in UTC with ``Z`` (a naive time is taken as UTC), UUIDs and paths are text,
    decimals are numbers, bytes are hexadecimal, NaN and infinities are null, integers beyond 64
    bits are text.

    Raises:
        TypeError: a value of another type, for example a secret.
    """
    return json_bytes(value, orjson.OPT_SORT_KEYS).decode()


def json_bytes(value: Any, options: int = 0) -> bytes:
    """JSON of any value, made plain and storable as ``json_object`` says; keys keep their order.

    Raises:
        TypeError: a value of a type without a JSON form, or nesting beyond 250 levels.
    """
    options |= _OPTIONS
    try:
        text = orjson.dumps(value, _plain, options)
    except TypeError:
        # Lone surrogates and very long integers are refused outright; mending costs a copy.
        text = orjson.dumps(_mended(value), _plain, options)
    if b"\\u0000" in text:
        text = orjson.dumps(_mended(value), _plain, options)
    return text


def _plain(value: Any) -> Any:
    """What orjson does not know, as something that it does."""
    if isinstance(value, datetime):
        moment = value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
        return moment.isoformat().replace("+00:00", "Z")
    if isinstance(value, Decimal):
        if value.as_tuple().exponent != 0:  # written with a point or an exponent
            return float(value)
        return int(value) if int(value) in _INT64 else str(int(value))
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).hex()
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, set | frozenset):
        return sorted(cast("Iterable[Any]", value), key=str)
    raise TypeError(f"a property of type {type(value).__name__} has no JSON form")


def _mended(value: Any) -> Any:
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, int) and value not in _INT64:
        return str(value)
    if isinstance(value, Mapping):
        pairs = cast("Mapping[Any, Any]", value).items()
        return {clean_text(k) if isinstance(k, str) else k: _mended(v) for k, v in pairs}
    if isinstance(value, list | tuple):
        return [_mended(item) for item in cast("Iterable[Any]", value)]
    return value


class BatchBuilder:
    """Collects rows of one kind; ``add`` answers with a full batch whenever one is ready.

    A batch holds at most ``rows_limit`` rows and about ``bytes_limit`` bytes of text; only a single
    row that is itself larger passes the latter.
    """

    def __init__(
        self, kind: BatchKind, rows_limit: int = BATCH_ROWS, bytes_limit: int = BATCH_BYTES
    ) -> None:
        self.kind: BatchKind = kind
        self._schema = SOURCE_SCHEMAS[kind]
        self._fields = [(field.name, not field.nullable) for field in self._schema]
        self._rows_limit = rows_limit
        self._bytes_limit = bytes_limit
        self._rows: list[list[Any]] = []
        self._bytes = 0

    def __len__(self) -> int:
        """Rows that wait for the next batch."""
        return len(self._rows)

    def add(self, **row: Any) -> Batch | None:
        """Take one row; columns that may be null can be left out.

        ``properties`` is a mapping (made canonical here) or JSON text that is canonical already.

        Returns:
            The batch that this row filled or did not fit into, else None.

        Raises:
            TypeError: a column is unknown or a required one is missing.
        """
        cells: list[Any] = []
        size = 0
        for name, required in self._fields:
            value = row.pop(name, None)
            if value is None and required:
                raise TypeError(f"a row of {self.kind} needs {name!r}")
            if isinstance(value, Mapping):
                value = json_object(cast("Mapping[str, Any]", value))
            if isinstance(value, str):
                value, width = _storable(value)
                size += width
            elif isinstance(value, list | tuple):
                pairs = [_storable(text) for text in cast("list[str]", value)]
                value = [text for text, _ in pairs]
                size += sum(width for _, width in pairs)
            size += _CELL_OVERHEAD
            cells.append(value)
        if row:
            raise TypeError(f"a row of {self.kind} has no column {', '.join(map(repr, row))}")
        full = self.flush() if self._bytes + size > self._bytes_limit else None
        self._rows.append(cells)
        self._bytes += size
        if full is None and (
            len(self._rows) >= self._rows_limit or self._bytes >= self._bytes_limit
        ):
            full = self.flush()
        return full

    def flush(self) -> Batch | None:
        """The rows that wait, or None when there are none."""
        if not self._rows:
            return None
        arrays = [
            pa.array(column, type=field.type)
            for column, field in zip(zip(*self._rows, strict=True), self._schema, strict=True)
        ]
        rows = pa.RecordBatch.from_arrays(arrays, schema=self._schema)
        self._rows, self._bytes = [], 0
        return Batch(self.kind, rows)


def _storable(text: str) -> tuple[str, int]:
    """``text`` cleaned, and its size as UTF-8 with its share of offsets."""
    if text.isascii() and "\x00" not in text:
        return text, len(text) + _CELL_OVERHEAD
    text = clean_text(text)
    return text, len(text.encode()) + _CELL_OVERHEAD
