"""Times as RFC 3339 text in UTC, for whole arrays at once.

Arrow's own cast takes a microsecond a value. Here the text of each day is made once, and the digits
of the time within it by integer arithmetic over all values.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from agentcy_ray.context.kyma.arrow import pc

_DIGITS = {"s": 0, "ms": 3, "us": 6, "ns": 9}
_TEXT = pa.large_string()
_DAY = 86_400
_FIRST, _LAST = -719_162, 2_932_896
"""Days since 1970 of the years 1 to 9999, whose text is ten characters long."""


def instants(times: pa.Array) -> pa.Array:
    """Timestamps (of any unit and zone; without one they are UTC) and dates as large_string.

    Six fraction digits, nine for nanoseconds, and ``Z``: ``2026-06-01T10:00:00.125000Z``. Of one
    unit they sort as text. Nulls stay null.
    """
    if not pa.types.is_timestamp(times.type):
        times = times.cast(pa.timestamp("us"))
    unit = times.type.unit
    if unit in {"s", "ms"}:
        times, unit = times.cast(pa.timestamp("us", times.type.tz)), "us"
    digits = _DIGITS[unit]
    counts = pc.fill_null(times.cast(pa.int64()), 0).to_numpy()
    seconds, fraction = np.divmod(counts, 10**digits)
    days, second = np.divmod(seconds, _DAY)
    distinct, which = np.unique(days, return_inverse=True)
    if len(distinct) and (distinct[0] < _FIRST or distinct[-1] > _LAST):
        return _by_cast(times)
    width = 21 + digits
    out = np.empty((len(counts), width), np.uint8)
    texts = distinct.astype("datetime64[D]").astype("S10")
    out[:, :10] = texts.view(np.uint8).reshape(-1, 10)[which]
    out[:, 10], out[:, 13], out[:, 16], out[:, 19] = b"T::."
    out[:, width - 1] = ord("Z")
    _put(out, 11, 2, second // 3600)
    _put(out, 14, 2, second // 60 % 60)
    _put(out, 17, 2, second % 60)
    _put(out, 20, digits, fraction)
    offsets = np.arange(0, (len(counts) + 1) * width, width, dtype=np.int64)
    whole = pa.Array.from_buffers(
        _TEXT, len(counts), [None, pa.py_buffer(offsets.tobytes()), pa.py_buffer(out.tobytes())]
    )
    if times.null_count:
        whole = pc.if_else(pc.is_valid(times), whole, pa.scalar(None, _TEXT))
    return whole


def _put(out: np.ndarray, place: int, digits: int, values: np.ndarray) -> None:
    """Write ``values`` as decimal digits into columns of ``out``."""
    values = values.astype(np.int64 if digits > 9 else np.int32)
    for column in range(place + digits - 1, place - 1, -1):
        values, digit = np.divmod(values, 10)
        out[:, column] = digit + ord("0")


def _by_cast(times: pa.Array) -> pa.Array:
    """For years that no four digits hold; rare, so it may be slow."""
    naive = times.cast(pa.timestamp(times.type.unit)).cast(_TEXT)
    return pc.binary_join_element_wise(
        pc.replace_substring(naive, " ", "T"), pa.scalar("Z", _TEXT), pa.scalar("", _TEXT)
    )
