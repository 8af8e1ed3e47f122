"""A lowered SELECT, and how it is put together from its parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlglot import exp

from agentcy_ray.context.languages.current import column
from agentcy_ray.context.languages.frames import cut, some_row
from agentcy_ray.context.languages.values import Value

Named = tuple[str, Value]


@dataclass(slots=True)
class Body:
    """A lowered SELECT, before it is given the names of its columns."""

    rows: exp.Select
    columns: list[Named]
    grouped: bool
    keys: tuple[str, ...]
    order: list[tuple[exp.Expr | int, exp.Ordered]]
    limit: int | None
    offset: int | None


def bounded(
    body: Body, items: list[exp.Expr], names: Sequence[str], *, outermost: bool = True
) -> exp.Select:
    """The SELECT with its items, order and limits; an order by an item uses its name.

    Order keys that are no item become columns first, and DISTINCT a grouping: engines before
    DataFusion 45 fail at some merges by an expression and at some limits of groups.
    """
    rows, order = body.rows, list(body.order)
    shown = [column(each.alias_or_name) for each in items]
    distinct = rows.args.get("distinct") is not None
    if rows.args.get("group") is not None and rows.args.get("having") is None:
        rows.set("having", exp.Having(this=some_row()))
    rows.set("distinct", None)
    keys: list[exp.Expr] = []
    for at, (key, ordered) in enumerate(order):
        if not isinstance(key, int):
            keys.append(exp.alias_(key, f"_order:{at}", quoted=True))
            order[at] = (column(f"_order:{at}"), ordered)
    rows = rows.select(*items, *keys, append=False, copy=False)
    if distinct:
        places = [exp.Literal.number(at + 1) for at in range(len(items) + len(keys))]
        inner = exp.Subquery(this=rows, alias=alias("_all"))
        rows = exp.select(*shown, *(column(each.alias_or_name) for each in keys)).from_(inner)
        rows = rows.group_by(*places).having(some_row())
    sorting: list[exp.Ordered] = []
    for key, ordered in order:
        item = ordered.copy()
        item.set("this", column(names[key]) if isinstance(key, int) else key)
        sorting.append(item)
    if not outermost and body.limit is not None:
        names = [each.name for each in shown]
        rows = exp.select("*").from_(exp.Subquery(this=rows, alias=alias("_inner")))
        return cut(rows, names, sorting, body.limit, body.offset or 0)
    if keys:
        rows = exp.select(*shown).from_(exp.Subquery(this=rows, alias=alias("_ordered")))
    rows = rows.order_by(*sorting, copy=False) if sorting else rows
    if body.limit is not None:
        rows = rows.limit(body.limit, copy=False)
    return rows.offset(body.offset, copy=False) if body.offset else rows


def alias(name: str) -> exp.TableAlias:
    """``AS name``."""
    return exp.TableAlias(this=exp.to_identifier(name, quoted=True))
