"""Rows of ``CHUNKS`` with their vectors as the bytes of ``COPY … WITH (FORMAT binary)``.

Column by column: each is turned into the lengths and bytes that Postgres reads, and one kernel of
Arrow interleaves them to rows. No cell becomes a Python object, but for the few that Postgres
cannot hold as they are.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, TypeAlias
from uuid import UUID

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute

from agentcy_ray.core.errors import InvalidError
from agentcy_ray.retrieval.embedder import Vectors, matrix_of
from agentcy_ray.retrieval.space import Space

pc: Any = pyarrow.compute
"""Arrow's kernels; they are made at import, so a type checker cannot see them."""

META = (
    "node_id", "realm", "labels", "source_id", "connector", "external_id", "name", "url",
    "properties", "seen_at",
)  # fmt: skip
COLUMNS = ("chunk_key", "org_id", *META, "text")
"""Columns of the rows, in their order; ``embedding`` follows when there are vectors."""

_HEADER = b"PGCOPY\n\xff\r\n\x00" + bytes(8)  # no flags, no extension
_TRAILER = b"\xff\xff"
_PIECE = 256 * 1024
_NULL = -1
_TEXT_OID = 25
_EPOCH = 946_684_800_000_000
"""2000-01-01 in microseconds of Unix time: where Postgres counts from."""

_Blob: TypeAlias = pa.LargeBinaryArray
_Parts: TypeAlias = list[Any]


def encode_rows(space: Space, chunks: pa.RecordBatch, vectors: Vectors | None) -> pa.Buffer:
    """The rows in the order of their keys, without head and tail of the format.

    The order makes two writers that meet wait for one another in line and not in a circle, and the
    tree of keys takes them faster. CPU-bound, and mostly outside of the interpreter lock.

    Args:
        space: whose organisation and storage type.
        chunks: rows of ``CHUNKS``.
        vectors: one a row, of the space's length; None leaves the column out.

    Raises:
        InvalidError: the vectors do not fit the chunks or the space, or are not finite.
    """
    rows = chunks.num_rows
    if vectors is not None:
        check_vectors(space, rows, vectors)
    if rows == 0:
        return pa.py_buffer(b"")
    fields = len(COLUMNS) + (vectors is not None)
    parts: _Parts = [_constant(np.array([fields], ">i2"), rows)]
    for name in COLUMNS:
        parts += _org(space, rows) if name == "org_id" else _column(name, chunks.column(name))
    if vectors is not None:
        parts += _vectors(space, vectors)
    joined: _Blob = pc.binary_join_element_wise(
        *parts, pa.scalar(b"", pa.large_binary()), null_handling="replace", null_replacement=b""
    )
    ordered: _Blob = joined.take(pc.sort_indices(chunks.column("chunk_key")))
    return ordered.buffers()[2].slice(0, _ends(ordered)[-1])


async def pieces(rows: pa.Buffer) -> AsyncGenerator[Any]:
    """What COPY is fed with: head, rows, tail; views of the buffer, not copies."""
    yield _HEADER
    view = memoryview(rows)
    for start in range(0, len(view), _PIECE):
        yield view[start : start + _PIECE]
    yield _TRAILER


def check_vectors(space: Space, rows: int, vectors: Vectors) -> None:
    """Refuse vectors that Postgres would refuse, in words that say where to look.

    Raises:
        InvalidError: they do not fit the chunks or the space, or are not finite.
    """
    if len(vectors) != rows or vectors.type.list_size != space.dim:
        raise InvalidError(
            f"{rows} chunks of a space of {space.dim} dimensions came with {len(vectors)} vectors "
            f"of {vectors.type.list_size}; embed them with the space's own embedder"
        )
    if not np.isfinite(matrix_of(vectors)).all():
        raise InvalidError(
            "a vector holds a number that is not finite; the model or its precision is at fault"
        )


def _column(name: str, column: pa.Array) -> _Parts:
    match name:
        case "labels":
            return _texts(column)
        case "source_id":
            return _uuids(column)
        case "properties":
            return _jsonb(column)
        case "seen_at":
            return _times(column)
        case _:
            return _text(column)


def _text(column: pa.Array) -> _Parts:
    column = _clean(column)
    return [_lengths(column), column]


def _clean(column: pa.Array) -> _Blob:
    """Texts without the character U+0000, which no text of Postgres holds."""
    blobs: _Blob = column.cast(pa.large_binary())
    ends = _ends(blobs)
    if ends[0] == ends[-1]:
        return blobs
    # The least byte of them all: a search in each text takes ten times as long.
    if np.frombuffer(blobs.buffers()[2], np.uint8)[ends[0] : ends[-1]].min() == 0:
        return pc.replace_substring(column, "\x00", "").cast(pa.large_binary())
    return blobs


def _texts(column: pa.ListArray) -> _Parts:
    """``text[]``: dimensions, flags, element type, [length, lower bound], elements."""
    starts = column.offsets.to_numpy()
    starts = starts - starts[0]
    counts = np.diff(starts)
    values = _clean(column.flatten())
    elements: _Blob = pc.binary_join_element_wise(
        _lengths(values),
        values,
        pa.scalar(b"", pa.large_binary()),
        null_handling="replace",
        null_replacement=b"",
    )
    ends = np.ascontiguousarray(_ends(elements)[starts])
    body = pa.LargeBinaryArray.from_buffers(
        pa.large_binary(), len(column), [None, pa.py_buffer(ends), elements.buffers()[2]]
    )
    filled = counts > 0
    head = np.zeros((len(column), 4), ">i4")
    head[:, 0] = 12 + 8 * filled + np.diff(ends)
    head[:, 1] = filled
    head[:, 2] = values.null_count > 0
    head[:, 3] = _TEXT_OID
    size = np.ones((len(column), 2), ">i4")
    size[:, 0] = counts
    bounds = pc.if_else(pa.array(filled), _fixed(size), pa.scalar(b"", pa.large_binary()))
    return [_fixed(head), bounds, body]


def _uuids(column: pa.Array) -> _Parts:
    """Hexadecimal texts; few different ones, so each is read once."""
    coded = column.dictionary_encode()
    known = b"".join(UUID(hex=text).bytes for text in coded.dictionary.to_pylist())
    table = np.frombuffer(known, np.uint8).reshape(-1, 16)
    rows = np.empty((len(column), 20), np.uint8)
    rows[:, :4] = (0, 0, 0, 16)
    rows[:, 4:] = table[coded.indices.to_numpy()]
    return [_fixed(rows)]


def _org(space: Space, rows: int) -> _Parts:
    return [_constant(np.frombuffer(bytes((0, 0, 0, 16)) + space.org_id.bytes, np.uint8), rows)]


def _jsonb(column: pa.Array) -> _Parts:
    """A byte for the version, then the text."""
    doubtful = pc.match_substring(column, "\\u0000")
    if pc.any(doubtful).as_py():
        mended = [_storable(text) for text in column.filter(doubtful).to_pylist()]
        column = pc.replace_with_mask(column, doubtful, pa.array(mended, column.type))
    column = column.cast(pa.large_binary())
    head = np.empty(len(column), [("length", ">i4"), ("version", "u1")])
    head["length"] = _sizes(column) + 1
    head["version"] = 1
    return [_fixed(head), column]


def _storable(text: str) -> str:
    return orjson.dumps(_without_nul(orjson.loads(text))).decode()


def _without_nul(value: Any) -> Any:
    """``value`` without the one character that neither text nor jsonb of Postgres can hold."""
    match value:
        case str():
            return value.replace("\x00", "")
        case list():
            return [_without_nul(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
        case dict():
            return {_without_nul(k): _without_nul(v) for k, v in value.items()}  # pyright: ignore[reportUnknownVariableType]
        case _:
            return value


def _times(column: pa.Array) -> _Parts:
    valid = column.is_valid()
    at = column.cast(pa.int64()).fill_null(0).to_numpy() - _EPOCH
    rows = np.empty(len(column), [("length", ">i4"), ("at", ">i8")])
    rows["length"] = 8
    rows["at"] = at
    nothing = pa.scalar(np.array([_NULL], ">i4").tobytes(), pa.large_binary())
    return [pc.if_else(valid, _fixed(rows), nothing)]


def _vectors(space: Space, vectors: Vectors) -> _Parts:
    """Number of dimensions, two spare bytes, then the numbers, big-endian."""
    kind = ">f2" if space.storage == "halfvec" else ">f4"
    rows = np.zeros(
        len(vectors),
        [("length", ">i4"), ("dim", ">i2"), ("spare", ">i2"), ("values", kind, (space.dim,))],
    )
    rows["length"] = 4 + space.dim * np.dtype(kind).itemsize
    rows["dim"] = space.dim
    if space.storage == "halfvec":  # Arrow rounds as numpy does, in two thirds of its time
        halves = vectors.flatten().cast(pa.float16()).to_numpy()
        rows["values"] = halves.reshape(len(vectors), space.dim)
    else:
        rows["values"] = matrix_of(vectors)
    return [_fixed(rows)]


def _lengths(column: _Blob) -> _Blob:
    """Four bytes a row; -1 says that there is no value."""
    sizes = _sizes(column)
    if column.null_count:
        sizes = np.where(column.is_valid().to_numpy(zero_copy_only=False), sizes, _NULL)
    return _fixed(sizes.astype(">i4"))


def _sizes(column: _Blob) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.diff(_ends(column))


def _ends(column: _Blob) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Where the blobs begin and, last, where the last one ends."""
    ends = np.frombuffer(column.buffers()[1], np.int64)
    return ends[column.offset : column.offset + len(column) + 1]


def _fixed(rows: np.ndarray[Any, Any]) -> _Blob:
    """The rows of an array as blobs of one length; shares its memory."""
    rows = np.ascontiguousarray(rows)
    width = rows.nbytes // max(1, len(rows))
    ends = np.arange(len(rows) + 1, dtype=np.int64) * width
    return pa.LargeBinaryArray.from_buffers(
        pa.large_binary(), len(rows), [None, pa.py_buffer(ends), pa.py_buffer(rows)]
    )


def _constant(value: np.ndarray[Any, Any], rows: int) -> Any:
    return pa.scalar(value.tobytes(), pa.large_binary())
