"""Literals of KQL as Python values. Moments and timespans are whole nanoseconds."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

from agentcy_ray.context.languages.kql.tree import Constant
from agentcy_ray.context.languages.values import nanoseconds_of

MAX_INTEGER = 2**63 - 1
SECOND = 1_000_000_000
DAY = 86_400 * SECOND
_UNITS = {
    "d": DAY, "day": DAY, "days": DAY,
    "h": 3600 * SECOND, "hour": 3600 * SECOND, "hours": 3600 * SECOND,
    "m": 60 * SECOND, "min": 60 * SECOND, "minute": 60 * SECOND, "minutes": 60 * SECOND,
    "s": SECOND, "second": SECOND, "seconds": SECOND,
    "ms": 1_000_000, "millisecond": 1_000_000, "milliseconds": 1_000_000,
    "microsecond": 1000, "microseconds": 1000, "tick": 100, "ticks": 100,
}  # fmt: skip
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "0": "\0"}
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|.)", re.DOTALL)
_MOMENT = re.compile(
    r"(\d{4})-(\d{1,2})-(\d{1,2})"
    r"(?:[T ](\d{1,2}):(\d{2})(?::(\d{2})(?:\.(\d{1,9}))?)?)?\s*(Z|[+-]\d{2}:?\d{2})?",
    re.IGNORECASE,
)
_SPAN = re.compile(r"(-)?(?:(\d+)\.)?(\d{1,2}):(\d{2})(?::(\d{2})(?:\.(\d{1,9}))?)?")


def text(token: str) -> str:
    """The text of a string token, quoted in any of KQL's ways."""
    found = token[1:] if token[0] in "hH" else str(token)
    if found.startswith("```"):
        return found[3:-3]
    if found.startswith("@"):
        quote = found[1]
        return found[2:-1].replace(quote * 2, quote)
    return _ESCAPE.sub(_unescaped, found[1:-1])


def _unescaped(found: re.Match[str]) -> str:
    mark = found[1]
    if len(mark) > 1:
        return chr(int(mark[1:], 16))
    return _ESCAPES.get(mark, mark)


def number(token: str) -> int | float | None:
    """A whole or broken number; None when a whole one has more than 64 bits."""
    shown = str(token)
    if shown[:2].lower() == "0x":
        whole = int(shown, 16)
    elif shown.isdecimal():
        whole = int(shown)
    else:
        broken = float(shown)
        return None if broken == float("inf") else broken
    return whole if whole <= MAX_INTEGER else None


def span(token: str) -> int:
    """``1.5h`` in nanoseconds."""
    found = re.fullmatch(r"([\d.]+)([a-z]+)", str(token))
    assert found, token
    return round(float(found[1]) * _UNITS[found[2]])


def clock_span(written: str) -> int | None:
    """``[-][d.]hh:mm[:ss[.fffffff]]`` in nanoseconds, None when it is not that."""
    if unit := re.fullmatch(r"(\d+(?:\.\d+)?)([a-z]+)", written):
        return span(written) if unit[2] in _UNITS else None
    found = _SPAN.fullmatch(written)
    if not found:
        return None
    sign, days, hours, minutes, seconds, fraction = found.groups()
    whole = int(days or 0) * 86_400 + int(hours) * 3600 + int(minutes) * 60 + int(seconds or 0)
    nanos = whole * SECOND + int((fraction or "").ljust(9, "0"))
    return -nanos if sign else nanos


def moment(written: str) -> int | None:
    """A date, or a date and a time, in nanoseconds since 1970; None when it is not one."""
    found = _MOMENT.fullmatch(written)
    if not found:
        return None
    year, month, day, hour, minute, second, fraction, zone = found.groups()
    try:
        at = datetime(
            int(year), int(month), int(day), int(hour or 0), int(minute or 0), int(second or 0),
            tzinfo=UTC,
        )  # fmt: skip
    except ValueError:
        return None
    if zone and zone.upper() != "Z":
        away = timedelta(hours=int(zone[1:3]), minutes=int(zone[-2:]))
        at = at - away if zone[0] == "+" else at + away
    return in_range(nanoseconds_of(at) + int((fraction or "").ljust(9, "0")))


def in_range(nanos: int) -> int | None:
    """The moment when 64 bits of nanoseconds hold it."""
    return nanos if -MAX_INTEGER <= nanos <= MAX_INTEGER else None


def json_value(found: Any) -> Any:
    """What a literal inside ``dynamic(…)`` stands for."""
    return found.value if isinstance(found, Constant) else found
