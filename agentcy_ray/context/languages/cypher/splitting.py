"""Aggregates apart from what is computed of them.

The embedded server mistakes an aggregate below ``NOT``, ``AND``, ``IN``, ``IS NULL``, an index and
others for a function of one row. So ``RETURN k, max(x) IS NULL`` is written as
``WITH k, max(x) AS m RETURN k, m IS NULL``, which means the same everywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from agentcy_ray.context.languages.cypher import tree
from agentcy_ray.context.languages.cypher.functions import AGGREGATES
from agentcy_ray.context.languages.cypher.plan_grouping import (
    Aggregated,
    aggregates,
    over_groups,
    with_variables,
)


def apart(clause: tree.Projection, mint: Callable[[], str]) -> list[tree.Projection]:
    """The clause, or the two that it is written as: grouping, then computing.

    Args:
        clause: without a star.
        mint: gives names that the query does not have.
    """
    asked = [*(column.expression for column in clause.columns), *(each for each, _ in clause.order)]
    if not any(aggregates(each) and not _bare(each) for each in asked):
        return [clause]
    known: dict[tree.Expression, tree.Variable] = {}
    grouped: list[tree.Column] = []
    for column in clause.columns:
        each = column.expression
        if aggregates(each) or each in known:
            continue
        # A variable keeps its name, since patterns of subqueries may speak of it.
        name = each.name if isinstance(each, tree.Variable) else mint()
        known[each] = tree.Variable(name)
        grouped.append(tree.Column(each, name, name))
    calls: dict[tree.Call, Aggregated] = {}

    def stand_in(_: str) -> str:
        return mint()

    def over(expression: tree.Expression) -> tree.Expression:
        return with_variables(over_groups(expression, known, calls, stand_in))

    columns = tuple(replace(each, expression=over(each.expression)) for each in clause.columns)
    order = tuple((over(each), descending) for each, descending in clause.order)
    grouped += [tree.Column(call, found.name, found.name) for call, found in calls.items()]
    first = tree.Projection(final=False, distinct=False, star=False, columns=tuple(grouped))
    return [first, replace(clause, columns=columns, order=order)]


def _bare(expression: tree.Expression) -> bool:
    return isinstance(expression, tree.Call) and expression.name in AGGREGATES
