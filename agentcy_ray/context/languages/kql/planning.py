"""From the caller's text to one SQL statement that sees nothing outside of the scope."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sqlglot import exp

from agentcy_ray.context.engine import Scope
from agentcy_ray.context.languages import charts
from agentcy_ray.context.languages.frames import Frame, Plan, selected
from agentcy_ray.context.languages.kql import tree
from agentcy_ray.context.languages.kql.literals import clock_span, moment
from agentcy_ray.context.languages.kql.pipelines import Pipelines
from agentcy_ray.context.languages.kql.reading import read
from agentcy_ray.context.languages.planned import OutputColumn, Planned, sql_name, to_sql
from agentcy_ray.context.languages.refusals import nearest, refuse
from agentcy_ray.context.languages.values import (
    KINDS,
    OUTPUT,
    Kind,
    Value,
    constant,
    nanoseconds_of,
    span_text,
)
from agentcy_ray.core.errors import QueryRejectedError


def plan(
    text: str,
    params: Mapping[str, Any],
    scope: Scope,
    *,
    row_limit: int,
    include_archived: bool = False,
    now: datetime | None = None,
) -> Planned:
    """Plan a KQL query over ``context_nodes``, ``context_edges`` and ``context_events``.

    Args:
        text: one query, with its ``let`` and ``declare`` statements; at most 64 KiB.
        params: values of ``declare query_parameters``; they become literals.
        scope: which realms it sees.
        row_limit: the answer holds at most one row more, so that a cut shows.
        include_archived: also entities that the last sync no longer found.
        now: what ``now()`` is for the whole query; the clock when left out.

    Raises:
        QueryRejectedError: outside the supported language; with token, position and advice.
    """
    statements = read(text)
    clock = nanoseconds_of(now or datetime.now(UTC))
    planned = Plan(text, scope, include_archived=include_archived, now=clock)
    pipes = Pipelines(planned, {each.name: each for each in statements.lets})
    try:
        pipes.declare(_parameters(text, pipes, statements.parameters, params))
        query = statements.query
        if not query.operators and isinstance(query.source, tree.Expression) and (
            pipes.lowering(None).query_of(query.source) is None
        ):  # fmt: skip
            _refuse_value(text, query.source)
        frame = pipes.query(query)
        columns = tuple(OutputColumn(each.name, OUTPUT[each.kind]) for each in frame.fields)
        sql = to_sql(planned.finish(_answer(frame, row_limit)))
    except RecursionError:
        refuse(text, 0, text[:20], "the query is nested too deeply", "split it by let")
    render = None if pipes.render is None else (pipes.render.chart, dict(pipes.render.properties))
    chart = charts.hint(columns, frame.keys, render=render)
    return Planned(sql, columns, chart, tuple(planned.warnings))


def _answer(frame: Frame, row_limit: int) -> exp.Select:
    """The last frame's columns as ``c0``, ``c1`` …, ordered and cut."""
    columns: list[tuple[str, Value]] = []
    for position, each in enumerate(frame.fields):
        value = frame.value(each)
        sql = span_text(value.copy) if each.kind == "timespan" else value.copy
        columns.append((sql_name(position), Value(sql, each.kind)))
    rows = exp.select(*selected(columns)).from_(frame.relation)
    if frame.order:
        rows = rows.order_by(*frame.ordered)
    return rows.limit(row_limit + 1 if frame.limit is None else min(row_limit + 1, frame.limit))


def _refuse_value(text: str, node: tree.Expression) -> None:
    shown = text[node.at : node.end]
    if isinstance(node, tree.Name | tree.Call | tree.Member):
        return  # a table of another name: the source says so
    refuse(text, node.at, shown, "a value is not a query", f"write print {shown}")


def _parameters(
    text: str, pipes: Pipelines, declared: tuple[tree.ParameterDeclaration, ...],
    given: Mapping[str, Any],
) -> dict[str, Value]:  # fmt: skip
    """The declared parameters with their values as literals of their types."""
    names = [each.name for each in declared]
    for name in given:
        if name not in names:
            advice = nearest(name, names) or f"write declare query_parameters({name}:string);"
            refuse(text, 0, name, "the query declares no such parameter", advice)
    found: dict[str, Value] = {}
    for each in declared:
        if each.kind not in KINDS:
            refuse(
                text, each.at, each.kind, "not a type", nearest(each.kind, KINDS) or "use string"
            )
        kind = KINDS[each.kind]
        if each.name in given:
            found[each.name] = constant(kind, _typed(text, each, kind, given[each.name]))
        elif each.default is not None:
            found[each.name] = pipes.lowering(None).known(each.default, "a default")
        else:
            refuse(text, each.at, each.name, "the parameter has no value",
                   "give it in params, or a default")  # fmt: skip
    return found


def _typed(text: str, declared: tree.ParameterDeclaration, kind: Kind, value: Any) -> Any:
    """A JSON value as the Python value of a literal."""
    found: Any = None
    match kind, value:
        case "string", str() if "\0" not in value:
            found = value
        case "bool", bool():
            found = value
        case "long", int() if not isinstance(value, bool) and abs(value) < 2**63:
            found = value
        case "real", int() | float() if not isinstance(value, bool):
            found = float(value)
        case "datetime", str():
            found = moment(value)
        case "timespan", str():
            found = clock_span(value)
        case "dynamic", _:
            found = value
        case _:
            pass
    if found is None:
        message = f"the value of {declared.name} is not a {declared.kind}"
        raise QueryRejectedError(
            f"{message}; give a {declared.kind} in params", parameter=declared.name
        )
    return found
