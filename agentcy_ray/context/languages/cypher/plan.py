"""From the caller's Cypher to one SQL text for an engine of append-only tables.

The tree is the one that the Basic engine's text is rendered from, so both engines agree on what is
a query. Its meaning is planned here step by step, each clause a common table expression. What has
no plan is refused with the place in the text; nothing is answered approximately.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sqlglot import Expr, exp

from agentcy_ray.context.engine import Scope
from agentcy_ray.context.languages.cypher import sql, tree, values
from agentcy_ray.context.languages.cypher.clauses import QueryParser
from agentcy_ray.context.languages.cypher.frames import Frame, Plan
from agentcy_ray.context.languages.cypher.plan_grouping import row_count
from agentcy_ray.context.languages.cypher.plan_queries import QueryPlanner
from agentcy_ray.context.languages.cypher.refusal import UnplannableError
from agentcy_ray.context.languages.planned import OutputColumn, Planned, sql_name, to_sql
from agentcy_ray.context.languages.refusals import refuse


def plan(
    text: str,
    params: Mapping[str, Any],
    scope: Scope,
    *,
    row_limit: int,
    include_archived: bool = False,
) -> Planned:
    """Plan a read-only Cypher query as SQL.

    Args:
        text: the query, at most 64 KiB.
        params: values of its ``$parameters``; they become literals.
        scope: which realms; the organisation is the database that the SQL is sent to.
        row_limit: a query without ``LIMIT`` gets one of ``row_limit + 1`` rows.
        include_archived: also show entities that the last sync no longer found.

    Raises:
        QueryRejectedError: the text is outside the read-only language, a parameter has no value,
            or a part of it has no plan.
    """
    parser = QueryParser(text)
    query = parser.whole()
    for token in parser.tokens:
        if token.kind == "parameter" and str(token.value) not in params:
            parser.refuse(f"the parameter ${token.value} has no value", "give it in params",
                          token=token)  # fmt: skip
    steps = Plan(scope, include_archived=include_archived)
    try:
        body, skip, limit = _outermost(query, params)
        found = QueryPlanner(steps, params).query(body, steps.start())
        select, columns = _final(found, _names(query, found))
        return _written(steps, select, columns, skip, row_limit + 1 if limit is None else limit)
    except RecursionError:
        refuse(text, 0, text[:20], "the query is nested too deeply", "split it by WITH")
    except UnplannableError as error:
        at, token = _place(parser, error)
        refuse(text, at, token, error.reason, error.instead)


def _written(
    steps: Plan, select: exp.Select, columns: tuple[OutputColumn, ...], skip: int, limit: int
) -> Planned:
    """The steps and the last SELECT as one text, cut."""
    select = select.limit(limit, copy=False)
    if skip:
        select = select.offset(skip, copy=False)
    select.set("with_", exp.With(expressions=steps.steps, recursive=steps.recurs))
    return Planned(to_sql(select), columns)


def _names(query: tree.Query, found: Frame) -> list[tuple[str, str]]:
    """Names of the result's columns, within and as the caller sees them."""
    last = query.parts[0][-1]
    assert isinstance(last, tree.Projection)
    shown = {column.name: column.text if column.alias is None else column.alias
             for column in last.columns}  # fmt: skip
    return [(name, shown.get(name, name)) for name in found.bindings]


def _outermost(query: tree.Query, params: Mapping[str, Any]) -> tuple[tree.Query, int, int | None]:
    """The query without the ``SKIP`` and ``LIMIT`` of its last clause, which end the SQL."""
    *before, last = query.parts[0]
    if len(query.parts) > 1 or not isinstance(last, tree.Projection):
        return query, 0, None
    skip = 0 if last.skip is None else row_count(last.skip, params, "SKIP")
    limit = None if last.limit is None else row_count(last.limit, params, "LIMIT")
    bare = replace(last, skip=None, limit=None)
    return replace(query, parts=((*before, bare),)), skip, limit


def _final(
    found: Frame, names: list[tuple[str, str]]
) -> tuple[exp.Select, tuple[OutputColumn, ...]]:
    selected: list[Expr] = []
    columns: list[OutputColumn] = []
    for position, (name, shown) in enumerate(names):
        value = found.bindings[name]
        columns.append(OutputColumn(shown, value.kind))
        selected.append(sql.alias(_output(value), sql_name(position)))
    select = exp.select(*selected, copy=False).from_(found.name, copy=False)
    if found.order:
        select = select.order_by(*found.order, copy=False)
    return select, tuple(columns)


def _output(value: values.Value) -> Expr:
    """A value as the engine sends it."""
    if value.kind in values.SCALARS:
        return value.sql
    if value.fields is not None:
        return values.to_any(values.slim(value))
    return values.to_any(value)


def _place(parser: QueryParser, error: UnplannableError) -> tuple[int, str]:
    """Where the text shows what was refused: at its expression or last before it, else first."""
    shown = error.token
    if not shown:
        found = next((each for each in parser.tokens if each.start == error.at), None)
        return (0, "query") if found is None else (found.start, found.text)
    places = [
        token.start
        for token in parser.tokens
        if token.text == shown or token.word == shown.upper() or token.value == shown
    ]
    before = [place for place in places if place <= error.at]
    return before[-1] if before else next(iter(places), 0), shown
