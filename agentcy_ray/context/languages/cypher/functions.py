"""The functions that a read-only query may call. What is not listed is refused.

Function libraries of a server (``apoc.*``, ``gds.*``, user-defined ones) may read past the scope or
have effects, so the list is closed: https://neo4j.com/docs/cypher-manual/5/functions/
"""

from __future__ import annotations

from difflib import get_close_matches

AGGREGATES = frozenset({
    "count", "sum", "avg", "min", "max", "collect",
    "stDev", "stDevP", "percentileCont", "percentileDisc",
})  # fmt: skip

_SCALAR = """
    coalesce head last size length char_length character_length type id elementId
    properties startNode endNode timestamp nullIf randomUUID valueType
    toBoolean toBooleanOrNull toFloat toFloatOrNull toInteger toIntegerOrNull
    toString toStringOrNull isEmpty
"""
_LISTS = """
    keys labels nodes relationships range reverse tail
    toBooleanList toFloatList toIntegerList toStringList
"""
_NUMBERS = """
    abs ceil floor isNaN rand round sign e exp log log10 sqrt
    acos asin atan atan2 cos cot degrees haversin pi radians sin tan
"""
_STRINGS = """
    left lTrim replace right rTrim split substring toLower toUpper trim lower upper btrim
"""
_TIME = """
    date datetime localdatetime localtime time duration
    date.truncate datetime.truncate localdatetime.truncate localtime.truncate time.truncate
    datetime.fromEpoch datetime.fromEpochMillis
    duration.between duration.inDays duration.inMonths duration.inSeconds
"""
_SPACE = "point point.distance point.withinBBox"

_ALL = {
    name.lower(): name
    for name in (
        *AGGREGATES,
        *" ".join((_SCALAR, _LISTS, _NUMBERS, _STRINGS, _TIME, _SPACE)).split(),
    )
}


def known_function(name: str) -> str | None:
    """The canonical spelling of an allowed function, else None. Case does not matter."""
    return _ALL.get(name.lower())


def function_names() -> frozenset[str]:
    """The allowed functions, spelled canonically."""
    return frozenset(_ALL.values())


def near_functions(name: str) -> list[str]:
    """Allowed functions with a similar name."""
    return [_ALL[found] for found in get_close_matches(name.lower(), _ALL, n=3)]
