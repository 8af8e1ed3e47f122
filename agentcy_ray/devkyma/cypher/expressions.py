"""``WHERE`` and ``RETURN`` of kyma's Cypher over columns called ``variable.column``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from agentcy_ray.devkyma.cypher.tokens import cypher_error
from agentcy_ray.devkyma.reader import Reader
from agentcy_ray.devkyma.sqltext import named, quoted

COMPARISONS = frozenset({"=", "<>", "<", ">", "<=", ">="})
AGGREGATES = {"sum": "sum", "avg": "avg", "min": "min", "max": "max", "collect": "array_agg"}

Check = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Item:
    """A column of the result."""

    sql: str
    name: str
    aggregate: bool = False


def condition(reader: Reader, check: Check) -> str:
    """Read a ``WHERE``; ``check`` refuses unknown variables.

    Raises:
        EngineError: 400 for anything that kyma does not read.
    """
    left = _all_of(reader, check)
    while reader.accept("OR"):
        left = f"({left} OR {_all_of(reader, check)})"
    return left


def _all_of(reader: Reader, check: Check) -> str:
    left = _negated(reader, check)
    while reader.accept("AND"):
        left = f"({left} AND {_negated(reader, check)})"
    return left


def _negated(reader: Reader, check: Check) -> str:
    if reader.accept("NOT"):
        return f"(NOT {_negated(reader, check)})"
    if reader.accept("("):
        inner = condition(reader, check)
        reader.expect(")")
        return f"({inner})"
    return _compared(reader, check)


def _compared(reader: Reader, check: Check) -> str:
    left = operand(reader, check)
    if reader.token.kind == "sign" and reader.token.value in COMPARISONS:
        sign = reader.take().value
        return f"({left} {sign} {operand(reader, check)})"
    if reader.accept("IN"):
        reader.expect("[")
        values = [_literal(reader)]
        while reader.accept(","):
            values.append(_literal(reader))
        reader.expect("]")
        return f"({left} IN ({', '.join(values)}))"
    if reader.accept("IS"):
        negated = "NOT " if reader.accept("NOT") else ""
        reader.expect("NULL")
        return f"({left} IS {negated}NULL)"
    for words, shape in (
        (("STARTS", "WITH"), "{}%"),
        (("ENDS", "WITH"), "%{}"),
        (("CONTAINS",), "%{}%"),
    ):
        if reader.accept(*words):
            return f"({left} LIKE {quoted(shape.format(reader.text()))})"
    raise reader.unexpected("a comparison")


def operand(reader: Reader, check: Check) -> str:
    """Read ``v.prop`` or a literal."""
    return prop(reader, check)[0] if reader.token.kind == "word" else _literal(reader)


def prop(reader: Reader, check: Check) -> tuple[str, str]:
    """Read ``v.prop``; its SQL and its default name."""
    variable = reader.word("a variable")
    check(variable)
    reader.expect(".")
    column = _column(reader)
    return named(f"{variable}.{column}"), f"{variable}_{column}"


def items(reader: Reader, check: Check, columns: Callable[[str], list[Item]]) -> list[Item]:
    """Read what ``RETURN`` lists; ``columns`` tells what a bare variable stands for."""
    found = _item(reader, check, columns)
    while reader.accept(","):
        found += _item(reader, check, columns)
    return found


def _item(reader: Reader, check: Check, columns: Callable[[str], list[Item]]) -> list[Item]:
    following = reader.after(1)
    if reader.token.kind == "word" and following.kind == "sign" and following.value == "(":
        return [_aggregate(reader, check)]
    if reader.token.kind == "word" and following.value != ".":
        variable = reader.word()
        check(variable)
        return columns(variable)
    sql, name = prop(reader, check)
    computed = False
    while reader.token.kind == "sign" and reader.token.value in "+-*/%":
        computed = True
        sql = f"{sql} {reader.take().value} {operand(reader, check)}"
    if reader.accept("AS"):
        return [Item(sql, reader.word())]
    if computed:
        raise cypher_error("arithmetic needs a name: AS x")
    return [Item(sql, name)]


def _aggregate(reader: Reader, check: Check) -> Item:
    function = reader.word()
    reader.expect("(")
    if function == "count" and reader.accept("*"):
        sql = "count(*)"
    elif function == "count" and reader.after(1).value != ".":
        check(reader.word())
        sql = "count(*)"
    elif function == "count":
        sql = f"count({prop(reader, check)[0]})"
    elif function in AGGREGATES:
        sql = f"{AGGREGATES[function]}({prop(reader, check)[0]})"
    else:
        raise cypher_error(f"unsupported function: {function}")
    reader.expect(")")
    return Item(sql, reader.word() if reader.accept("AS") else function, aggregate=True)


def _literal(reader: Reader) -> str:
    if reader.token.kind == "number":
        return reader.take().value
    if reader.token.kind == "text":
        return quoted(reader.take().value)
    raise reader.unexpected("a string or a number")


def _column(reader: Reader) -> str:
    if reader.token.kind not in {"word", "keyword"}:
        raise reader.unexpected("a property")
    return reader.take().value.lower()
