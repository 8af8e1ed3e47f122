"""Rewriting expressions for a grouped frame: aggregates and groups become its variables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, cast

from agentcy_ray.context.languages.cypher import sql, tree
from agentcy_ray.context.languages.cypher.functions import AGGREGATES
from agentcy_ray.context.languages.cypher.refusal import refuse
from agentcy_ray.context.languages.cypher.values import Value

Order = tuple[tuple[tree.Expression, bool], ...]


@dataclass(frozen=True, slots=True)
class Aggregated(tree.Expression):
    """Stands for an aggregate whose result is a variable of the grouped frame."""

    name: str


def or_none(value: Value, name: str) -> Value:
    """An aggregate's value where it had no rows."""
    match name:
        case "count":
            return replace(value, sql=sql.function("coalesce", value.sql, sql.number(0)))
        case "sum":
            none = {"integer": sql.number(0), "float": sql.number(0.0)}.get(
                value.kind, sql.lit("n0")
            )
            return replace(value, sql=sql.function("coalesce", value.sql, none))
        case "collect":
            return replace(value, sql=sql.function("coalesce", value.sql, sql.empty_array()))
        case "stDev" | "stDevP":
            return replace(value, sql=sql.function("coalesce", value.sql, sql.number(0.0)))
        case _:
            return value


def aggregates(expression: Any) -> bool:
    """Whether an aggregate stands in an expression, subqueries aside."""
    match expression:
        case tree.Call(name=name) if name in AGGREGATES:
            return True
        case tree.Subquery():
            return False
        case tuple():
            return any(aggregates(each) for each in cast("tuple[Any, ...]", expression))
        case _:
            if is_dataclass(expression) and not isinstance(expression, type):
                return any(aggregates(getattr(expression, f.name)) for f in fields(expression))
            return False


def over_groups(
    value: Any,
    known: dict[tree.Expression, tree.Variable],
    calls: dict[tree.Call, Aggregated],
    mint: Any,
) -> Any:
    """The same expression over a grouped frame: groups by their names, aggregates by stand-ins."""
    if isinstance(value, tree.Expression):
        if value in known:
            return known[value]
        if isinstance(value, tree.Call) and value.name in AGGREGATES:
            if value not in calls:
                calls[value] = Aggregated(mint("_aggregate"))
            return calls[value]
    if isinstance(value, tuple):
        return tuple(over_groups(e, known, calls, mint) for e in cast("tuple[Any, ...]", value))
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{
            f.name: over_groups(getattr(value, f.name), known, calls, mint) for f in fields(value)
        })  # fmt: skip
    return value


def with_variables(value: Any) -> Any:
    """Stand-ins as the variables that the grouped frame calls them by."""
    if isinstance(value, Aggregated):
        return tree.Variable(value.name)
    if isinstance(value, tuple):
        return tuple(with_variables(each) for each in cast("tuple[Any, ...]", value))
    if is_dataclass(value) and not isinstance(value, type):
        return replace(
            value, **{f.name: with_variables(getattr(value, f.name)) for f in fields(value)}
        )
    return value


def with_aliases(order: Order, columns: Iterable[tree.Column]) -> Order:
    """Sort keys in which an expression that is also a column stands by the column's name."""
    known = {column.expression: tree.Variable(column.name) for column in columns
             if not isinstance(column.expression, tree.Variable)}  # fmt: skip
    return tuple((_renamed(expression, known), descending) for expression, descending in order)


def _renamed(value: Any, known: dict[tree.Expression, tree.Variable]) -> Any:
    if isinstance(value, tree.Expression) and value in known:
        return known[value]
    if isinstance(value, tuple):
        return tuple(_renamed(each, known) for each in cast("tuple[Any, ...]", value))
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: _renamed(getattr(value, f.name), known)
                                 for f in fields(value)})  # fmt: skip
    return value


def row_count(expression: tree.Expression, params: Mapping[str, Any], word: str) -> int:
    """The number after ``SKIP`` or ``LIMIT``, which must be known before the query runs."""
    found: Any = None
    match expression:
        case tree.Constant(value=value):
            found = value
        case tree.Parameter(name=name):
            found = params[name]
        case _:
            pass
    if isinstance(found, bool) or not isinstance(found, int) or found < 0:
        refuse(word, f"{word} takes a whole number or a parameter that is one",
               f"write {word} 10", at=expression.at)  # fmt: skip
    return found
