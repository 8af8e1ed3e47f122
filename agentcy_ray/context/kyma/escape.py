"""JSON escapes for whole string arrays, without a loop over their values.

The values of an array lie one behind the other. Each byte that needs an escape is replaced in that
one run of bytes, and offsets move by what was put in before them.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

_SHORT = {0x08: b"\\b", 0x09: b"\\t", 0x0A: b"\\n", 0x0C: b"\\f", 0x0D: b"\\r"}
_QUOTE, _BACKSLASH, _CONTROLS = 0x22, 0x5C, 0x20


def escaped(texts: pa.Array) -> pa.Array:
    """``texts`` (large_string) as they stand between JSON's quotes; nulls stay null."""
    data, offsets = _run(texts)
    special = (data < _CONTROLS) | (data == _QUOTE) | (data == _BACKSLASH)
    if not special.any():
        return texts
    found = np.flatnonzero(special)
    kinds = data[found]
    moved, run = offsets.copy(), data.tobytes()
    # The backslash first: what is put in for the others holds it.
    for byte in sorted(np.unique(kinds).tolist(), key=lambda b: b != _BACKSLASH):
        instead = _escape_of(byte)
        run = run.replace(bytes((byte,)), instead)
        moved += (len(instead) - 1) * np.searchsorted(found[kinds == byte], offsets)
    return _rebuilt(texts, moved, run)


def on_one_line(texts: pa.Array) -> pa.Array:
    """``texts`` (large_string, JSON) with line ends as blanks: inside JSON they mean nothing."""
    data, offsets = _run(texts)
    if not ((data == 0x0A) | (data == 0x0D)).any():
        return texts
    return _rebuilt(texts, offsets, data.tobytes().replace(b"\n", b" ").replace(b"\r", b" "))


def _run(texts: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """The bytes of all values, and where each begins in them (n + 1 offsets from 0)."""
    buffers = texts.buffers()
    if len(texts) == 0:
        return np.empty(0, np.uint8), np.zeros(1, np.int64)
    offsets = np.frombuffer(buffers[1], np.int64, texts.offset + len(texts) + 1)[texts.offset :]
    if buffers[2] is None:
        return np.empty(0, np.uint8), offsets - offsets[0]
    data = np.frombuffer(buffers[2], np.uint8)[int(offsets[0]) : int(offsets[-1])]
    return data, offsets - offsets[0]


def _rebuilt(texts: pa.Array, offsets: np.ndarray, run: bytes) -> pa.Array:
    valid = None
    if texts.null_count:
        bits = np.packbits(texts.is_valid().to_numpy(zero_copy_only=False), bitorder="little")
        valid = pa.py_buffer(bits.tobytes())
    buffers = [valid, pa.py_buffer(offsets.tobytes()), pa.py_buffer(run)]
    return pa.Array.from_buffers(pa.large_string(), len(texts), buffers)


def _escape_of(byte: int) -> bytes:
    if byte in (_QUOTE, _BACKSLASH):
        return bytes((_BACKSLASH, byte))
    return _SHORT.get(byte) or b"\\u%04x" % byte
