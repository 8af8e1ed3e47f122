"""Functions over moments and timespans, all in UTC."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sqlglot import exp

from agentcy_ray.context.languages.facts import function
from agentcy_ray.context.languages.kql import literals
from agentcy_ray.context.languages.kql.literals import DAY, SECOND
from agentcy_ray.context.languages.values import (
    NANOSECONDS,
    Value,
    cast,
    constant,
    convert,
    nanos,
)

if TYPE_CHECKING:
    from agentcy_ray.context.languages.kql.functions import Called

KUSTO_EPOCH = -719_162 * DAY
"""0001-01-01, from which Kusto counts bins, in nanoseconds before 1970. Beyond 64 bits."""
TICK = 100
_SUNDAY = 3 * DAY  # 1970-01-04
_FIXED = {
    "second": SECOND, "minute": 60 * SECOND, "hour": 3600 * SECOND, "day": DAY, "week": 7 * DAY,
    "millisecond": 1_000_000, "microsecond": 1000, "nanosecond": 1,
}  # fmt: skip
_MONTHS = {"month": 1, "quarter": 3, "year": 12}
_PARTS = {
    "year": "year", "month": "month", "day": "day", "hour": "hour", "minute": "minute",
    "second": "second", "quarter": "quarter", "dayofyear": "doy", "week_of_year": "week",
    "weekofyear": "week",
}  # fmt: skip
_FORMAT = re.compile(r"y{2,4}|M{1,4}|d{1,2}|H{1,2}|h{1,2}|m{1,2}|s{1,2}|f+|F+|tt|.")
_CHRONO = {
    "yyyy": "%Y", "yy": "%y", "MM": "%m", "M": "%-m", "dd": "%d", "d": "%-d", "HH": "%H",
    "H": "%-H", "hh": "%I", "h": "%-I", "mm": "%M", "m": "%-M", "ss": "%S", "s": "%-S",
    "tt": "%p", "fff": "%3f", "ffffff": "%6f",
}  # fmt: skip


def binned(value: Value, width: int, origin: int) -> Value:
    """A moment rounded down to a multiple of a width counted from an origin."""
    if value.is_constant and value.constant is not None:
        found = (value.constant - origin) // width * width + origin
        return constant("datetime", literals.in_range(found))
    start = constant("datetime", origin % width)
    interval = exp.Interval(this=exp.Literal.string(f"{width} nanoseconds"))
    return Value(function("date_bin", interval, value.copy, start.sql), "datetime", value.nullable)


def _moment(called: Called, position: int = 0) -> Value:
    value = called.arguments[position]
    if value.kind in ("dynamic", "string"):
        return convert(value, "datetime")
    if value.kind not in ("datetime", "null"):
        called.fail(f"a datetime is expected, not a {value.kind}", "write todatetime(x)")
    return value


def _now(called: Called) -> Value:
    from agentcy_ray.context.languages.kql.arithmetic import combine

    moment = constant("datetime", called.lowering.plan.now)
    return combine("+", moment, _span(called, 0), called.fail) if called.arguments else moment


def _ago(called: Called) -> Value:
    from agentcy_ray.context.languages.kql.arithmetic import combine

    moment = constant("datetime", called.lowering.plan.now)
    return combine("-", moment, _span(called, 0), called.fail)


def _span(called: Called, position: int) -> Value:
    value = called.arguments[position]
    if value.kind != "timespan":
        called.fail(f"a timespan is expected, not a {value.kind}", "write 1d, 2h, 30m or 10s")
    return value


def _start(unit: str) -> Callable[[Called], Value]:
    def build(called: Called) -> Value:
        value = _shifted(called, unit)
        return _floor(value, unit)

    return build


def _end(unit: str) -> Callable[[Called], Value]:
    def build(called: Called) -> Value:
        first = _floor(_shifted(called, unit), unit)
        after = _later(first, unit, constant("long", 1))
        whole = exp.Sub(this=nanos(after), expression=exp.Literal.number(TICK))
        return Value(function("arrow_cast", whole, NANOSECONDS), "datetime", first.nullable)

    return build


def _shifted(called: Called, unit: str) -> Value:
    value = _moment(called)
    return _later(value, unit, called.number(1)) if len(called.arguments) > 1 else value


def _floor(value: Value, unit: str) -> Value:
    if unit == "week":  # Kusto's week begins on Sunday
        return binned(value, 7 * DAY, _SUNDAY)
    if unit in _FIXED:
        return binned(value, _FIXED[unit], 0)
    return Value(function("date_trunc", unit, value.copy), "datetime", value.nullable)


def _later(value: Value, unit: str, amount: Value) -> Value:
    if unit in _FIXED:
        size = exp.Mul(this=amount.copy, expression=exp.Literal.number(_FIXED[unit]))
        moved = exp.Add(this=nanos(value), expression=exp.Paren(this=size))
        return Value(function("arrow_cast", moved, NANOSECONDS), "datetime", value.nullable)
    months = exp.Mul(
        this=exp.Interval(this=exp.Literal.string(f"{_MONTHS[unit]} months")),
        expression=amount.copy,
    )
    if amount.is_constant:
        count = f"{_MONTHS[unit] * amount.constant} months"
        months = exp.Interval(this=exp.Literal.string(count))
    return Value(
        exp.Paren(this=exp.Add(this=value.copy, expression=months)), "datetime", value.nullable
    )


def _unit(called: Called, position: int) -> str:
    unit = str(called.literal(position, "the unit").constant).lower()
    if unit not in _FIXED and unit not in _MONTHS:
        called.fail(f"{unit} is not a unit of time", f"use {', '.join((*_MONTHS, *_FIXED))}")
    return unit


def _add(called: Called) -> Value:
    unit, amount = _unit(called, 0), called.number(1)
    if unit in _MONTHS and not amount.is_constant:
        called.fail("the number of months is a literal", "write datetime_add('month', 1, x)")
    return _later(_moment(called, 2), unit, amount)


def _difference(called: Called) -> Value:
    """Whole borders of the unit between two moments, as Kusto counts them."""
    unit = _unit(called, 0)
    later, earlier = _moment(called, 1), _moment(called, 2)
    if unit in _FIXED:
        one, other = (nanos(_floor(each, unit)) for each in (later, earlier))
        gap: exp.Expr = exp.Div(
            this=exp.Paren(this=exp.Sub(this=one, expression=other)),
            expression=exp.Literal.number(_FIXED[unit]),
        )
    else:
        one, other = (_periods(each, unit) for each in (later, earlier))
        gap = exp.Sub(this=one, expression=other)
    return Value(exp.Paren(this=gap), "long")


def _periods(value: Value, unit: str) -> exp.Expr:
    """Months, quarters or years since year 0."""
    year = cast(function("date_part", "year", value.copy), "long")
    if unit == "year":
        return year
    part = cast(function("date_part", unit, value.copy), "long")
    size = exp.Literal.number(12 // _MONTHS[unit])
    years = exp.Mul(this=year, expression=size)
    return exp.Paren(this=exp.Add(this=years, expression=part))


def _part(name: str) -> Callable[[Called], Value]:
    def build(called: Called) -> Value:
        value = _moment(called)
        return Value(cast(function("date_part", name, value.copy), "long"), "long", value.nullable)

    return build


def _named_part(called: Called) -> Value:
    name = str(called.literal(0, "the part").constant).lower()
    if name not in _PARTS:
        called.fail(f"{name} is not a part of a datetime", f"use {', '.join(_PARTS)}")
    value = _moment(called, 1)
    return Value(cast(function("date_part", _PARTS[name], value.copy), "long"), "long")


def _day_of_week(called: Called) -> Value:
    value = _moment(called)
    days = cast(function("date_part", "dow", value.copy), "long")
    return Value(
        exp.Paren(this=exp.Mul(this=days, expression=exp.Literal.number(DAY))), "timespan",
        value.nullable,
    )  # fmt: skip


def _format(called: Called) -> Value:
    value, pattern = _moment(called), str(called.literal(1, "the format").constant)
    parts: list[str] = []
    for each in _FORMAT.findall(pattern):
        if each in _CHRONO:
            parts.append(_CHRONO[each])
        elif each in " /-:,._[]TZ":
            parts.append(each)
        else:
            called.fail(f"{each} is not a part of a format",
                        f"use {' '.join(_CHRONO)} and the signs / - : , . _ [ ]")  # fmt: skip
    return Value(function("to_char", value.copy, "".join(parts)), "string", value.nullable)


def _make(called: Called) -> Value:
    numbers = [called.number(each) for each in range(len(called.arguments))]
    if not all(each.is_constant for each in numbers):
        called.fail("make_datetime takes literals", "use todatetime(strcat(…))")
    year, month, day, hour, minute = (
        int(numbers[each].constant) if each < len(numbers) else default
        for each, default in enumerate((1970, 1, 1, 0, 0))
    )
    second = float(numbers[5].constant) if len(numbers) > 5 else 0.0
    written = f"{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:09.6f}"
    return constant("datetime", literals.moment(written))


def _unix(size: int) -> Callable[[Called], Value]:
    def build(called: Called) -> Value:
        value = called.number(0)
        whole = cast(
            exp.Paren(this=exp.Mul(this=value.copy, expression=exp.Literal.number(size))), "long"
        )
        return Value(function("arrow_cast", whole, NANOSECONDS), "datetime", value.nullable)

    return build


def functions(make: Callable[..., Any]) -> dict[str, Any]:
    """The functions of this file; ``make(build, least, most)`` makes an entry."""
    units = ("second", "minute", "hour", "day", "week", "month", "year")
    return {
        "now": make(_now, 0, 1), "ago": make(_ago),
        **{f"startof{unit}": make(_start(unit), 1, 2) for unit in units},
        **{f"endof{unit}": make(_end(unit), 1, 2) for unit in units},
        "datetime_add": make(_add, 3, 3), "datetime_diff": make(_difference, 3, 3),
        "datetime_part": make(_named_part, 2, 2), "dayofweek": make(_day_of_week),
        "dayofmonth": make(_part("day")), "dayofyear": make(_part("doy")),
        "hourofday": make(_part("hour")), "getyear": make(_part("year")),
        "getmonth": make(_part("month")), "monthofyear": make(_part("month")),
        "week_of_year": make(_part("week")), "weekofyear": make(_part("week")),
        "format_datetime": make(_format, 2, 2),
        "make_datetime": make(_make, 3, 6),
        "unixtime_seconds_todatetime": make(_unix(SECOND)),
        "unixtime_milliseconds_todatetime": make(_unix(1_000_000)),
        "unixtime_microseconds_todatetime": make(_unix(1000)),
    }  # fmt: skip
