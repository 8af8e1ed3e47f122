"""Arrow into the NDJSON that kyma takes: by column, without a loop over cells.

Each column becomes an array of the texts that stand behind its key; one kernel joins constants and
columns into lines. The lines of an array lie one behind the other, so its buffer is the body.

Two exceptions walk their values in Python, since Arrow has no kernel for them: bytes (base64), and
nested values (structs, maps, lists of lists). Lists of numbers do not.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from agentcy_ray.context.kyma.arrow import pc
from agentcy_ray.context.kyma.escape import escaped, on_one_line
from agentcy_ray.context.kyma.instants import instants
from agentcy_ray.core.errors import InvalidError

DEFAULT_COLUMNS = {"at": "timestamp", "label": "string", "body": "string", "props": "dynamic"}
"""The shape in which kyma makes a table; every column that ingest adds later is a string."""
NEW_COLUMNS = 32
"""Columns that one request may add; kyma drops further ones without a word."""

_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")
_TEXT = pa.large_string()
_OPTIONS = orjson.OPT_UTC_Z | orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY


@dataclass(frozen=True)
class Slice:
    """Lines of a batch: its rows from ``start`` on. ``ends[i]`` = where line i ends in ``body``."""

    body: bytes
    start: int
    ends: np.ndarray

    @property
    def rows(self) -> int:
        """How many lines."""
        return len(self.ends)

    def halves(self) -> tuple[Slice, Slice]:
        """The same lines in two slices; there must be two."""
        middle = self.rows // 2
        cut = int(self.ends[middle - 1])
        first = Slice(self.body[:cut], self.start, self.ends[:middle])
        return first, Slice(self.body[cut:], self.start + middle, self.ends[middle:] - cut)


def slices(batch: pa.RecordBatch, types: Mapping[str, str], slice_bytes: int) -> Iterator[Slice]:
    """A batch as slices of at most ``slice_bytes``; a longer line is a slice of its own.

    The same batch gives the same slices. A stretch of about one slice is encoded at a time.

    Args:
        batch: column names are keys; a null is left out.
        types: kyma's types of the columns that the table has; others become ``string``. Text for a
            ``dynamic`` column is JSON and sent as it stands.
        slice_bytes: the most bytes of a slice.

    Raises:
        InvalidError: a column's name or type cannot be sent.
    """
    check_names(batch.schema.names)
    if not batch.num_rows:
        return
    frame = sum(len(name) + 6 for name in batch.schema.names) + 2
    per_row = frame + batch.nbytes / batch.num_rows * 1.05
    step = max(1, int(slice_bytes / per_row))
    for start in range(0, batch.num_rows, step):
        stretch = lines(batch.slice(start, step), types)
        ends = _ends(stretch)
        body = stretch.buffers()[2]
        taken, from_ = 0, 0
        while taken < len(ends):
            until = int(np.searchsorted(ends, from_ + slice_bytes, side="right"))
            until = max(until, taken + 1)
            part = body[from_ : int(ends[until - 1])].to_pybytes()
            yield Slice(part, start + taken, ends[taken:until] - from_)
            taken, from_ = until, int(ends[until - 1])


def lines(batch: pa.RecordBatch, types: Mapping[str, str]) -> pa.Array:
    """A batch as large_string lines, each with its line end; see ``slices``.

    Raises:
        InvalidError: a column's type cannot be sent.
    """
    always: list[tuple[str, pa.Array, bool]] = []
    pieces: list[pa.Array] = []
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        kind = types.get(name) or DEFAULT_COLUMNS.get(name, "string")
        value, quoted = _value(name, column, kind)
        if value.null_count == len(value):
            continue
        if value.null_count:
            quote = '"' if quoted else ""
            piece = _join(f',"{name}":{quote}', value, quote)
            pieces.append(pc.fill_null(piece, ""))
        else:
            always.append((name, value, quoted))
    parts: list[Any] = []
    for name, value, quoted in always:
        quote = '"' if quoted else ""
        parts += [f',"{name}":{quote}', value, quote]
    # Every part begins with a comma; the line's first one becomes its brace.
    if parts:
        return _join("{" + parts[0][1:], *parts[1:], *pieces, "}\n")
    if pieces:
        return _join(pc.binary_replace_slice(_join(*pieces), 0, 1, "{"), "}\n")
    return pa.array(["{}\n"] * batch.num_rows, _TEXT)


def check_names(names: list[str]) -> None:
    """Refuse names that kyma would change or drop.

    Raises:
        InvalidError: the names, with what to do.
    """
    bad = sorted(name for name in names if not _NAME.fullmatch(name))
    if bad or len(set(names)) < len(names):
        raise InvalidError(
            f"kyma takes lower_snake_case column names of at most 63 characters, each once; rename"
            f" {', '.join(map(repr, bad)) or 'the repeated ones'}",
            columns=bad,
        )


def _join(*parts: Any) -> pa.Array:
    """Texts and arrays, row by row; adjacent texts as one. Null where a part is null."""
    merged: list[Any] = []
    for part in parts:
        if isinstance(part, str) and merged and isinstance(merged[-1], str):
            merged[-1] += part
        else:
            merged.append(part)
    ready = [pa.scalar(part, _TEXT) if isinstance(part, str) else part for part in merged]
    return pc.binary_join_element_wise(*ready, pa.scalar("", _TEXT))


def _value(name: str, column: pa.Array, kind: str) -> tuple[pa.Array, bool]:
    """A column's texts (large_string), and whether they stand between quotes."""
    type_ = column.type
    if pa.types.is_dictionary(type_):
        return _value(name, column.dictionary_decode(), kind)
    if pa.types.is_null(type_):
        return pa.nulls(len(column), _TEXT), False
    if _is_text(type_):
        text = column.cast(_TEXT)
        return (on_one_line(text), False) if kind == "dynamic" else (escaped(text), True)
    if pa.types.is_boolean(type_) or pa.types.is_integer(type_) or pa.types.is_decimal(type_):
        return column.cast(_TEXT), kind == "string"
    if pa.types.is_floating(type_):
        return _floats(column), kind == "string"
    if pa.types.is_timestamp(type_) or pa.types.is_date(type_):
        if kind == "long":
            return column.cast(pa.timestamp("ns")).cast(pa.int64()).cast(_TEXT), False
        return instants(column), True
    if pa.types.is_time(type_) or pa.types.is_duration(type_):
        whole = pa.types.is_duration(type_) or kind == "long"
        return (column.cast(pa.int64()) if whole else column).cast(_TEXT), kind != "long"
    if _is_bytes(type_):
        return _base64(column), True
    if pa.types.is_nested(type_):
        text = _json(column)
        return (escaped(text), True) if kind == "string" else (text, False)
    raise InvalidError(f"column {name!r} is {type_}, which has no form in kyma; convert it first")


def _floats(column: pa.Array) -> pa.Array:
    """Numbers as JSON writes them; NaN and the infinities, which it cannot, as null."""
    finite = pc.is_finite(column)
    if not pc.all(finite, skip_nulls=True, min_count=0).as_py():
        column = pc.if_else(finite, column, pa.scalar(None, column.type))
    if pa.types.is_float16(column.type):
        column = column.cast(pa.float32())
    return column.cast(_TEXT)


def _base64(column: pa.Array) -> pa.Array:
    texts = [None if v is None else base64.b64encode(v).decode() for v in column.to_pylist()]
    return pa.array(texts, _TEXT)


def _json(column: pa.Array) -> pa.Array:
    type_ = column.type
    listed = pa.types.is_list(type_) or pa.types.is_large_list(type_)
    if (listed or pa.types.is_fixed_size_list(type_)) and _is_number(type_.value_type):
        return _number_lists(column)
    texts = [
        None if value is None else orjson.dumps(value, _plain, _OPTIONS).decode()
        for value in column.to_pylist(maps_as_pydicts="lossy")
    ]
    return pa.array(texts, _TEXT)


def _number_lists(column: pa.Array) -> pa.Array:
    lists = column.cast(pa.large_list(column.type.value_type))
    flat = lists.values
    texts = _floats(flat) if pa.types.is_floating(flat.type) else flat.cast(_TEXT)
    rows = pa.LargeListArray.from_arrays(lists.offsets, pc.fill_null(texts, "null"))
    joined = pc.binary_join(rows, pa.scalar(",", _TEXT))
    if lists.null_count:
        joined = pc.if_else(pc.is_valid(lists), joined, pa.scalar(None, _TEXT))
    return _join("[", joined, "]")


def _plain(value: Any) -> Any:
    """What orjson does not know inside nested values."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return str(value)


def _ends(texts: pa.Array) -> np.ndarray:
    offsets = np.frombuffer(texts.buffers()[1], np.int64, len(texts) + 1 + texts.offset)
    return offsets[texts.offset + 1 :] - int(offsets[texts.offset])


def _is_text(type_: pa.DataType) -> bool:
    return (
        pa.types.is_string(type_)
        or pa.types.is_large_string(type_)
        or pa.types.is_string_view(type_)
    )


def _is_bytes(type_: pa.DataType) -> bool:
    return (
        pa.types.is_binary(type_)
        or pa.types.is_large_binary(type_)
        or pa.types.is_fixed_size_binary(type_)
        or pa.types.is_binary_view(type_)
    )


def _is_number(type_: pa.DataType) -> bool:
    return pa.types.is_integer(type_) or pa.types.is_floating(type_)
