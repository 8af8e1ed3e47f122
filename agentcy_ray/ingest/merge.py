"""Sorted streams of Arrow tables: aligning, merging, cutting.

Everything that a package holds is sorted by its key (a hash as text). So comparing two states, or
folding a chain of deltas, is a merge: no state is ever held whole. A *stream* is an iterator of
tables, each sorted by the key and lying wholly before the next. ``aligned`` cuts several streams
into windows of one key range; whatever is joined is joined within a window. Memory is one row group
of each stream.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from agentcy_ray.ingest.arrow import pc

Stream = Iterator[pa.Table]

GONE = "_gone"
"""Column that marks a row as a tombstone; only its key counts."""
_RANK = "_rank"


def aligned(streams: Sequence[Stream], key: str) -> Iterator[list[pa.Table | None]]:
    """Windows over several streams: each holds all rows of every stream in one key range."""
    heads = [_next(stream) for stream in streams]
    while any(head is not None for head in heads):
        cut = min(last_key(head, key) for head in heads if head is not None)
        window: list[pa.Table | None] = []
        for at, head in enumerate(heads):
            rows = 0 if head is None else rows_until(head, key, cut)
            if head is None or rows == 0:
                window.append(None)
                continue
            window.append(head.slice(0, rows))
            heads[at] = head.slice(rows) if rows < head.num_rows else _next(streams[at])
        yield window


def newest(layers: Sequence[Stream], key: str) -> Stream:
    """One stream out of several, later ones winning; rows marked gone stay in, marked."""
    if len(layers) == 1:
        yield from layers[0]
        return
    for window in aligned(layers, key):
        present = [(rank, table) for rank, table in enumerate(window) if table is not None]
        if len(present) == 1:
            yield present[0][1]
            continue
        ranked = [
            table.append_column(_RANK, pa.repeat(pa.scalar(rank, pa.int32()), table.num_rows))
            for rank, table in present
        ]
        table = pa.concat_tables(ranked, promote_options="default").combine_chunks()
        yield last_of_each(table, key, _RANK).drop_columns(_RANK)


def last_of_each(table: pa.Table, key: str, rank: str) -> pa.Table:
    """Sort by key and keep, of rows with one key, that with the highest rank."""
    order = pc.sort_indices(table, sort_keys=[(key, "ascending"), (rank, "descending")])
    table = table.take(order)
    return table.filter(first_of_run(table[key]))


def first_of_run(keys: pa.ChunkedArray) -> pa.Array:
    """Mask of the rows of a sorted column whose key differs from the one before."""
    if len(keys) == 0:
        return pa.array([], pa.bool_())
    column = flat(keys)
    differs = pc.not_equal(column.slice(1), column.slice(0, len(column) - 1))
    return pa.concat_arrays([pa.array([True]), differs])


def flat(column: pa.Array | pa.ChunkedArray) -> Any:
    """A column as one array."""
    if not isinstance(column, pa.ChunkedArray):
        return column
    if column.num_chunks == 1:
        return column.chunk(0)
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


def live(stream: Stream) -> Stream:
    """The rows of a stream that are not marked gone, without the mark."""
    for table in stream:
        if GONE not in table.column_names:
            yield table
            continue
        kept = table.filter(pc.invert(pc.fill_null(table[GONE], False))).drop_columns(GONE)
        if kept.num_rows:
            yield kept


def rebatch(stream: Stream, rows: int, max_bytes: int) -> Stream:
    """Tables of about ``rows`` rows, fewer where they would pass ``max_bytes``."""
    held: list[pa.Table] = []
    count = size = 0
    for table in stream:
        for piece in _pieces(table, rows, max_bytes):
            if held and (count + piece.num_rows > rows or size + piece.nbytes > max_bytes):
                yield pa.concat_tables(held, promote_options="default")
                held, count, size = [], 0, 0
            held.append(piece)
            count += piece.num_rows
            size += piece.nbytes
    if held:
        yield pa.concat_tables(held, promote_options="default")


def _pieces(table: pa.Table, rows: int, max_bytes: int) -> Iterator[pa.Table]:
    """``table`` cut so that an average piece keeps both bounds."""
    if table.num_rows == 0:
        return
    parts = max(1, -(-table.nbytes // max_bytes), -(-table.num_rows // rows))
    step = max(1, -(-table.num_rows // parts))
    for start in range(0, table.num_rows, step):
        yield table.slice(start, step)


def last_key(table: pa.Table, key: str) -> str:
    """The highest key of a sorted table that is not empty."""
    return table[key][table.num_rows - 1].as_py()


def rows_until(table: pa.Table, key: str, cut: str) -> int:
    """How many rows of a sorted table have a key up to and with ``cut``."""
    column = table[key]
    low, high = 0, table.num_rows
    while low < high:
        middle = (low + high) // 2
        if column[middle].as_py() <= cut:
            low = middle + 1
        else:
            high = middle
    return low


def _next(stream: Stream) -> pa.Table | None:
    for table in stream:
        if table.num_rows:
            return table
    return None
