"""Expressions of kyma's KQL, printed as SQL while they are read."""

from __future__ import annotations

import re

from agentcy_ray.devkyma.kql.tokens import kql_error
from agentcy_ray.devkyma.reader import Reader
from agentcy_ray.devkyma.sqltext import named, quoted

UNITS = {"s": "second", "m": "minute", "h": "hour", "d": "day"}
EPOCH = "TIMESTAMP '1970-01-01T00:00:00'"
COMPARISONS = {"==": "=", "!=": "<>", "<": "<", "<=": "<=", ">": ">", ">=": ">="}
LIKES = {"contains": "%{}%", "has": "%{}%", "startswith": "{}%", "endswith": "%{}"}
PLAIN = {"tolower": ("lower", 1), "toupper": ("upper", 1), "strlen": ("char_length", 1)}
STARTS = {"startofhour": "hour", "startofday": "day", "startofmonth": "month"}
AGGREGATES = {"sum": "sum", "avg": "avg", "min": "min", "max": "max", "make_list": "array_agg"}


def expression(reader: Reader) -> str:
    """Read a boolean or scalar expression.

    Raises:
        EngineError: 400 for anything that kyma's KQL does not have.
    """
    left = _all_of(reader)
    while reader.accept("or"):
        left = f"({left} OR {_all_of(reader)})"
    return left


def aggregate(reader: Reader) -> str:
    """Read one aggregate of ``summarize``.

    Raises:
        EngineError: 400 when it is none of kyma's.
    """
    name = reader.word("an aggregate")
    reader.expect("(")
    if name == "count":
        inner = "*" if reader.sees(")") else expression(reader)
        reader.expect(")")
        return f"count({inner})"
    first = expression(reader)
    if name == "dcountif":
        reader.expect(",")
        first = f"CASE WHEN {expression(reader)} THEN {first} END"
    reader.expect(")")
    if name in {"dcount", "dcountif"}:
        return f"count(DISTINCT {first})"
    if name not in AGGREGATES:
        raise kql_error(f"unsupported function: {name}/1")
    return f"{AGGREGATES[name]}({first})"


def default_name(sql: str) -> str:
    """How an aggregate without a name is called."""
    return re.sub(r"[^a-z0-9]", "_", sql.lower().replace('"', "")).strip("_")


def _all_of(reader: Reader) -> str:
    left = _negated(reader)
    while reader.accept("and"):
        left = f"({left} AND {_negated(reader)})"
    return left


def _negated(reader: Reader) -> str:
    return f"(NOT {_negated(reader)})" if reader.accept("not") else _compared(reader)


def _compared(reader: Reader) -> str:
    left = _sum(reader)
    token = reader.token
    if token.kind == "sign" and token.value in COMPARISONS:
        reader.take()
        return f"({left} {COMPARISONS[token.value]} {_sum(reader)})"
    if token.kind != "word":
        return left
    if token.value in LIKES:
        reader.take()
        # A bare word is taken as text, and wildcards in the text stay wildcards.
        needle = reader.take().value if reader.token.kind == "word" else reader.text()
        return f"({left} LIKE {quoted(LIKES[token.value].format(needle))})"
    if token.value == "between":
        reader.take()
        reader.expect("(")
        low = _sum(reader)
        reader.expect("..")
        high = _sum(reader)
        reader.expect(")")
        return f"({left} BETWEEN {low} AND {high})"
    if token.value.lower() == "in":
        reader.take()
        reader.expect("(")
        values = [_sum(reader)]
        while reader.accept(","):
            values.append(_sum(reader))
        reader.expect(")")
        return f"({left} IN ({', '.join(values)}))"
    return left


def _sum(reader: Reader) -> str:
    left = _product(reader)
    while reader.token.kind == "sign" and reader.token.value in "+-":
        sign = reader.take().value
        left = f"({left} {sign} {_product(reader)})"
    return left


def _product(reader: Reader) -> str:
    left = _unary(reader)
    while reader.token.kind == "sign" and reader.token.value in "*/%":
        sign = reader.take().value
        left = f"({left} {sign} {_unary(reader)})"
    return left


def _unary(reader: Reader) -> str:
    return f"(-{_unary(reader)})" if reader.accept("-") else _primary(reader)


def _primary(reader: Reader) -> str:
    token = reader.token
    if reader.accept("("):
        inner = expression(reader)
        reader.expect(")")
        return f"({inner})"
    if token.kind == "number":
        return reader.take().value
    if token.kind == "text":
        return quoted(reader.take().value)
    if token.kind == "duration":
        return interval(reader)
    if token.kind != "word":
        raise reader.unexpected("an expression")
    if token.value in {"true", "false", "null"}:
        return reader.take().value.upper()
    following = reader.after(1)
    if following.value == "(" and following.kind == "sign":
        return _call(reader)
    return named(reader.word())


def interval(reader: Reader) -> str:
    """Read a duration such as ``5m``."""
    if reader.token.kind != "duration":
        raise reader.unexpected("a duration such as 5m")
    text = reader.take().value
    return f"INTERVAL '{text[:-1]} {UNITS[text[-1]]}'"


def _call(reader: Reader) -> str:
    name = reader.take().value
    reader.expect("(")
    match name:
        case "ago":
            sql = f"(now() - {interval(reader)})"
        case "datetime":
            sql = f"TIMESTAMP {quoted(reader.text())}"
        case "bin":
            column = _sum(reader)
            reader.expect(",")
            sql = f"date_bin({interval(reader)}, {column}, {EPOCH})"
        case _:
            arguments: list[str] = []
            if not reader.sees(")"):
                arguments.append(expression(reader))
                while reader.accept(","):
                    arguments.append(expression(reader))
            sql = _scalar(name, arguments)
    reader.expect(")")
    return sql


def _scalar(name: str, arguments: list[str]) -> str:
    count = len(arguments)
    if name == "now" and count == 0:
        return "now()"
    if name in STARTS and count == 1:
        return f"date_trunc('{STARTS[name]}', {arguments[0]})"
    if name == "strcat" and count >= 1:
        return f"concat({', '.join(arguments)})"
    if name in PLAIN and count == PLAIN[name][1]:
        return f"{PLAIN[name][0]}({arguments[0]})"
    if name in {"isnull", "isnotnull"} and count == 1:
        return f"({arguments[0]} IS {'NOT ' if name == 'isnotnull' else ''}NULL)"
    if name == "iff" and count == 3:
        condition, yes, no = arguments
        return f"CASE WHEN {condition} THEN {yes} ELSE {no} END"
    raise kql_error(f"unsupported function: {name}/{count}")
