"""Aggregates in SQL. Nulls do not count; no row at all gives 0, an empty list or null."""

from __future__ import annotations

from collections.abc import Callable

from sqlglot import Expr, exp

from agentcy_ray.context.languages.cypher import operators, sql, tree, values
from agentcy_ray.context.languages.cypher.refusal import UnplannableError, refuse
from agentcy_ray.context.languages.cypher.values import Value

Column = Callable[[Expr], Expr]
"""Computes an expression as a column of the rows: the engine tells ``count(x)`` of two casts of x
apart by columns only."""


def aggregate(
    call: tree.Call, given: list[Value], *, order: list[exp.Ordered], column: Column
) -> Value:
    """One aggregate over planned arguments.

    Args:
        call: of one of ``functions.AGGREGATES``; ``count`` without arguments is ``count(*)``.
        given: its arguments.
        order: in which order ``collect`` sees the rows.
        column: makes an expression a column before it is aggregated.

    Raises:
        UnplannableError: it does not take such arguments.
    """
    try:
        return _aggregate(call.name, given, call.distinct, order, column)
    except UnplannableError as error:
        error.within(call.at)
        raise


def _aggregate(
    name: str, given: list[Value], distinct: bool, order: list[exp.Ordered], column: Column
) -> Value:
    wanted = 2 if name.startswith("percentile") else 1
    if name == "count" and not given:
        return values.integer(sql.function("count", sql.number(1)))
    if len(given) != wanted:
        refuse(name, f"{name} takes {wanted} argument{'s' * (wanted > 1)}, not {len(given)}",
               f"write {name}(x{', 0.5' * (wanted > 1)})")  # fmt: skip
    value = given[0]
    match name:
        case "count":
            probe = _probe(value)
            if distinct and value.kind == "any":
                probe = values.alike(probe)
            return values.integer(_called("count", probe, distinct))
        case "sum":
            return _sum(value, distinct, column)
        case "avg":
            return _average(values.as_number(value), distinct)
        case "min" | "max":
            return _extreme(name, value)
        case "collect":
            return _collect(value, distinct, order)
        case "stDev" | "stDevP":
            function = "stddev" if name == "stDev" else "stddev_pop"
            spread = sql.function(function, values.as_number(value))
            return Value("float", sql.function("coalesce", spread, sql.number(0.0)))
        case _:
            return _percentile(name, value, given[1], column)


def _called(name: str, argument: Expr, distinct: bool) -> Expr:
    inner = exp.Distinct(expressions=[argument]) if distinct else argument
    return sql.function(name, inner)


def _probe(value: Value) -> Expr:
    """What is null when the value is, and differs when it does."""
    if value.fields is not None:
        return value.fields["id"]
    return value.sql if value.kind in values.SCALARS else values.to_any(value)


def _sum(value: Value, distinct: bool, column: Column) -> Value:
    if value.kind in values.NUMERIC:
        total = _called("sum", value.sql, distinct)
        if value.kind == "integer":
            return values.integer(sql.function("coalesce", total, sql.number(0)))
        return Value("float", sql.function("coalesce", total, sql.number(0.0)))
    whole, number = column(values.as_integer(value)), column(values.as_number(value))
    all_whole = sql.compare("=", sql.function("count", whole), sql.function("count", number))
    exact = sql.function("coalesce", _called("sum", whole, distinct), sql.number(0))
    broken = _called("sum", number, distinct)
    shown = sql.case((all_whole, sql.cast(exact, "text")), default=sql.cast(broken, "text"))
    return Value("any", sql.joined([sql.lit("n"), shown]))


def _average(number: Expr, distinct: bool) -> Value:
    if not distinct:
        return Value("float", sql.function("avg", number))
    count = sql.function("nullif", _called("count", number, True), sql.number(0))
    return Value("float", sql.binary("/", _called("sum", number, True), sql.cast(count, "double")))


def _extreme(name: str, value: Value) -> Value:
    if value.kind in values.SCALARS:
        if value.kind == "boolean":
            return values.boolean(
                sql.function("bool_and" if name == "min" else "bool_or", value.sql)
            )
        return Value(value.kind, sql.function(name, value.sql))
    if value.kind != "any":
        refuse(name, f"{name} of a {value.kind} cannot be planned",
               f"take {name} of a number or a text")  # fmt: skip
    keys = [exp.Ordered(this=key, desc=name == "max", nulls_first=False)
            for key in operators.sort_keys(value)]  # fmt: skip
    ordered = exp.Order(this=values.to_any(value), expressions=keys)
    return Value("any", sql.function("first_value", ordered))


def _collect(value: Value, distinct: bool, order: list[exp.Ordered]) -> Value:
    item = values.escaped(value)
    keys = order or [exp.Ordered(this=item, nulls_first=False)]
    gathered = sql.function("array_agg", exp.Order(this=item, expressions=keys))
    kept = sql.function("array_remove_all", gathered, "z")
    if distinct:
        kept = sql.function("array_distinct", kept)
    return values.array_of(sql.function("coalesce", kept, sql.empty_array()), value.kind)


def _percentile(name: str, value: Value, share: Value, column: Column) -> Value:
    number = column(values.as_number(value))
    keys = [exp.Ordered(this=number, nulls_first=False)]
    ranked = sql.function("array_agg", exp.Order(this=number, expressions=keys))
    count = sql.cast(sql.function("count", number), "double")
    part = share.constant
    if isinstance(part, bool) or not isinstance(part, (int, float)) or not 0 <= part <= 1:
        refuse(name, "the percentile is no number from 0 to 1", f"write {name}(x, 0.9)")

    def at(position: Expr) -> Expr:
        return sql.function("array_element", ranked, sql.cast(position, "bigint"))

    if name == "percentileDisc":
        place = sql.function("ceil", sql.binary("*", sql.number(float(part)), count))
        tagged = sql.function("array_agg", exp.Order(this=values.to_any(value), expressions=keys))
        at_least = sql.cast(sql.function("greatest", place, sql.number(1.0)), "bigint")
        return values.of_tagged(sql.function("array_element", tagged, at_least), value.kind)
    place = sql.binary("*", sql.number(float(part)), sql.binary("-", count, sql.number(1.0)))
    low, high = sql.function("floor", place), sql.function("ceil", place)
    first = at(sql.binary("+", low, sql.number(1.0)))
    second = at(sql.binary("+", high, sql.number(1.0)))
    step = sql.binary("*", sql.binary("-", second, first), sql.binary("-", place, low))
    return Value("float", sql.binary("+", first, step))
