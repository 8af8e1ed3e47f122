"""From the caller's SQL to one statement that sees nothing outside of the scope."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sqlglot import exp

from agentcy_ray.context.engine import Scope
from agentcy_ray.context.languages import charts, facts
from agentcy_ray.context.languages.facts import function, joined, text_of
from agentcy_ray.context.languages.frames import Plan
from agentcy_ray.context.languages.planned import OutputColumn, Planned, sql_name, to_sql
from agentcy_ray.context.languages.refusals import refuse
from agentcy_ray.context.languages.sql.bodies import Body, bounded
from agentcy_ray.context.languages.sql.reading import read
from agentcy_ray.context.languages.sql.selects import Queries
from agentcy_ray.context.languages.values import OUTPUT, Value, case, cast, nanoseconds_of


def plan(
    text: str,
    params: Mapping[str, Any],
    scope: Scope,
    *,
    row_limit: int,
    include_archived: bool = False,
    now: datetime | None = None,
) -> Planned:
    """Plan a SQL query over ``context_nodes``, ``context_edges`` and ``context_events``.

    Args:
        text: one SELECT, at most 64 KiB.
        params: values of ``:name`` and ``$name``; they become literals.
        scope: which realms it sees.
        row_limit: the answer holds at most one row more, so that a cut shows.
        include_archived: also entities that the last sync no longer found.
        now: what ``now()`` is for the whole query; the clock when left out.

    Raises:
        QueryRejectedError: outside the supported language; with token, position and advice.
    """
    query = read(text)
    clock = nanoseconds_of(now or datetime.now(UTC))
    planned = Plan(text, scope, include_archived=include_archived, now=clock)
    try:
        body = _body(Queries(planned, params), query)
        whole, columns = _answer(body, row_limit)
        sql = to_sql(planned.finish(whole))
    except RecursionError:
        refuse(text, 0, text[:20], "the query is nested too deeply", "split it by with")
    return Planned(sql, columns, charts.hint(columns, body.keys), tuple(planned.warnings))


def _body(queries: Queries, query: exp.Expr) -> Body:
    """The outermost SELECT; around a set operation or parentheses one is put."""
    ctes = queries.with_(query, {}, None)
    if isinstance(query, exp.Select):
        return queries.select(query, ctes, None)
    inner = query.copy()
    for key in ("with_", "order", "limit", "offset"):
        inner.set(key, None)
    rows, columns = queries.derived(inner, ctes, None)
    return queries.around(query, rows, columns)


def _answer(body: Body, row_limit: int) -> tuple[exp.Select, tuple[OutputColumn, ...]]:
    """The body with its columns as ``c0``, ``c1`` …, cut."""
    items: list[exp.Expr] = []
    names: list[str] = []
    columns: list[OutputColumn] = []
    for position, (name, value) in enumerate(body.columns):
        names.append(sql_name(position))
        items.append(exp.alias_(_shown(value), sql_name(position), quoted=True))
        columns.append(OutputColumn(name, OUTPUT[value.kind]))
    most = row_limit + 1
    body.limit = most if body.limit is None else min(body.limit, most)
    return bounded(body, items, names), tuple(columns)


def _shown(value: Value) -> exp.Expr:
    """A value as the answer carries it: lists as tagged text, what has no type of ours as text."""
    if value.kind in ("interval", "date"):
        return cast(value.copy, "string")
    if value.kind != "list":
        return value.copy
    mark = {"string": "s", "long": "n", "real": "n", "bool": "b", "datetime": "s", "date": "s"}
    tag = mark.get(value.item, "")
    absent = f"{tag}{facts.MARK}"
    text = function("array_to_string", value.copy, text_of(facts.ITEM + tag), text_of(facts.MARK))
    whole = joined([text_of(facts.ITEM + tag), text])
    marked = function("replace", whole, text_of(facts.ITEM + absent), text_of(facts.ITEM + "z"))
    tagged = joined([exp.Literal.string("l"), function("substr", marked, 2)])
    empty = exp.EQ(this=function("cardinality", value.copy), expression=exp.Literal.number(0))
    nothing = exp.Is(this=value.copy, expression=exp.Null())
    return case((nothing, exp.Null()), (empty, exp.Literal.string("l")), default=tagged)
