"""Scalar functions: which there are, how many arguments they take, and their SQL."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

import orjson
from sqlglot import exp

from agentcy_ray.context.languages.facts import function
from agentcy_ray.context.languages.kql import comparisons, sequences, texts, times, tree
from agentcy_ray.context.languages.refusals import nearest
from agentcy_ray.context.languages.values import (
    KINDS,
    NUMERIC,
    Kind,
    Value,
    case,
    cast,
    common,
    constant,
    convert,
    tag_is,
    with_sql,
)

if TYPE_CHECKING:
    from agentcy_ray.context.languages.kql.expressions import Lowering


@dataclass(frozen=True, slots=True)
class Called:
    """One call: where it stands, and its arguments."""

    lowering: Lowering
    node: tree.Call
    arguments: list[Value]

    def fail(self, reason: str, instead: str = "") -> NoReturn:
        """Refuse the query at the call."""
        self.lowering.fail(self.node, reason, instead)

    def text(self, position: int) -> Value:
        """An argument as text."""
        return comparisons.text(self.arguments[position], self.fail)

    def literal(self, position: int, what: str) -> Value:
        """An argument that must be a literal."""
        value = self.arguments[position]
        if not value.is_constant:
            self.fail(f"{what} is a literal, not computed from rows", "write it as a literal")
        return value

    def number(self, position: int) -> Value:
        """An argument as a number."""
        value = self.arguments[position]
        if value.kind == "dynamic":
            return convert(value, "real")
        if value.kind not in NUMERIC and value.kind != "null":
            self.fail(f"a number is expected, not a {value.kind}", "write todouble(x)")
        return value


Build = Callable[[Called], Value]


@dataclass(frozen=True, slots=True)
class Function:
    """A function: argument counts (``most`` None = any number) and what it becomes."""

    build: Build
    least: int = 1
    most: int | None = 1


def lower(lowering: Lowering, node: tree.Call) -> Value:
    """A call as a value.

    Raises:
        QueryRejectedError: no such function, wrong arguments.
    """
    found = SCALAR.get(node.name)
    if found is None:
        advice = _INSTEAD.get(node.name.lower()) or nearest(node.name, [*SCALAR, *_elsewhere()])
        lowering.refuse(node.at, node.name, "no such function",
                        advice or "see GET /context/completion?language=kql")  # fmt: skip
    count = len(node.arguments)
    if count < found.least or (found.most is not None and count > found.most):
        wanted = str(found.least) if found.least == found.most else (
            f"{found.least} or more" if found.most is None else f"{found.least} to {found.most}"
        )  # fmt: skip
        lowering.fail(node, f"{node.name} takes {wanted} arguments, not {count}",
                      f"write {node.name} with {wanted}")  # fmt: skip
    return found.build(Called(lowering, node, [lowering.lower(each) for each in node.arguments]))


def _elsewhere() -> frozenset[str]:
    from agentcy_ray.context.languages.kql import aggregates

    return aggregates.NAMES


# -- conversions and choice


def _to(kind: Kind) -> Build:
    def build(called: Called) -> Value:
        value = called.arguments[0]
        if value.is_constant and isinstance(value.constant, str) and kind == "datetime":
            from agentcy_ray.context.languages.kql.literals import moment

            return constant(kind, moment(value.constant))
        return convert(value, kind)

    return build


def _to_string(called: Called) -> Value:
    """A text is never absent in Kusto: what has no value is the empty one."""
    value = convert(called.arguments[0], "string")
    if value.is_constant:
        return constant("string", value.constant or "")
    return Value(function("coalesce", value.copy, ""), "string", nullable=False)


def _literal_of(kind: Kind) -> Build:
    """``long(5)``, ``string(null)``: the type names as functions over literals."""

    def build(called: Called) -> Value:
        return convert(called.literal(0, "the argument"), kind)

    return build


def _span(called: Called) -> Value:
    from agentcy_ray.context.languages.kql.literals import clock_span

    value = called.arguments[0]
    if value.kind == "timespan":
        return value
    if value.is_constant and isinstance(value.constant, str):
        return constant("timespan", clock_span(value.constant))
    return called.fail(
        "only a literal text becomes a timespan", "write 1h or totimespan('01:00:00')"
    )


def _dynamic(called: Called) -> Value:
    value = called.arguments[0]
    if value.kind == "dynamic":
        return value
    if value.is_constant and isinstance(value.constant, str):
        try:
            return constant("dynamic", orjson.loads(value.constant))
        except orjson.JSONDecodeError:
            return called.fail("the literal is not JSON", 'write dynamic({"a": 1})')
    return called.fail("only props and literals are read as JSON", "write props.<path>")


def _iff(called: Called) -> Value:
    condition = called.lowering.condition(called.node.arguments[0])
    return _chosen(called.arguments[1:], [condition])


def _case(called: Called) -> Value:
    if len(called.arguments) % 2 == 0:
        called.fail("case takes pairs and a last value", "write case(a == 1, 'one', 'other')")
    nodes = called.node.arguments
    conditions = [called.lowering.condition(each) for each in nodes[:-1:2]]
    return _chosen([*called.arguments[1:-1:2], called.arguments[-1]], conditions)


def _chosen(results: list[Value], conditions: list[exp.Expr]) -> Value:
    kind = common(each.kind for each in results)
    found = [convert(each, kind).copy for each in results]
    branches = list(zip(conditions, found[:-1], strict=True))
    nullable = any(each.nullable for each in results)
    return Value(case(*branches, default=found[-1]), kind, nullable)


def _coalesce(called: Called) -> Value:
    kind = common(each.kind for each in called.arguments)
    found = [convert(each, kind) for each in called.arguments]
    certain = [not each.nullable for each in found]
    parts = [each.copy for each in found]
    if kind == "string":  # an empty text is an absent one
        certain = [each.is_constant and bool(each.constant) for each in found]
        parts = [part if known else function("nullif", part, "")
                 for part, known in zip(parts, certain, strict=True)]  # fmt: skip
    return Value(function("coalesce", *parts), kind, nullable=not any(certain))


def _is_null(negated: bool) -> Build:
    def build(called: Called) -> Value:
        found: exp.Expr = exp.Is(this=called.arguments[0].copy, expression=exp.Null())
        return Value(exp.Not(this=found) if negated else exp.Paren(this=found), "bool", False)

    return build


def _is_empty(negated: bool) -> Build:
    def build(called: Called) -> Value:
        value = convert(called.arguments[0], "string")
        filled = function("coalesce", value.copy, "")
        kind = exp.NEQ if negated else exp.EQ
        return Value(
            exp.Paren(this=kind(this=filled, expression=exp.Literal.string(""))), "bool", False
        )

    return build


def _not(called: Called) -> Value:
    condition = called.lowering.condition(called.node.arguments[0], filtering=False)
    return Value(comparisons.negated(condition), "bool", False)


def _type_of(called: Called) -> Value:
    value = called.arguments[0]
    if value.kind != "dynamic":
        return constant("string", value.kind)
    names = {"s": "string", "n": "double", "b": "bool", "l": "array", "m": "dictionary",
             "t": "datetime"}  # fmt: skip
    branches = [(tag_is(value.sql, mark), exp.Literal.string(name)) for mark, name in names.items()]
    return Value(case(*branches, default=exp.Literal.string("null")), "string", False)


# -- numbers


def _math(name: str) -> Build:
    def build(called: Called) -> Value:
        value = convert(called.number(0), "real")
        return Value(function(name, value.copy), "real", value.nullable)

    return build


def _sqrt(called: Called) -> Value:
    """Null of a negative number, as in Kusto; the engine fails on one."""
    value = convert(called.number(0), "real")
    fit = exp.GTE(this=value.copy, expression=exp.Literal.number(0))
    guarded = exp.Case(ifs=[exp.If(this=fit, true=value.copy)])
    return Value(function("sqrt", guarded), "real", True)


def _same(name: str) -> Build:
    """Functions that keep the type of a number or timespan."""

    def build(called: Called) -> Value:
        value = called.arguments[0]
        value = value if value.kind == "timespan" else called.number(0)
        return with_sql(value, function(name, value.copy))

    return build


def _round(called: Called) -> Value:
    value = convert(called.number(0), "real")
    digits = [cast(called.number(1).copy, "long")] if len(called.arguments) > 1 else []
    return Value(function("round", value.copy, *digits), "real", value.nullable)


def _ceiling(called: Called) -> Value:
    value = called.number(0)
    if value.kind == "long":
        return value
    return Value(cast(function("ceil", value.copy), "long"), "long", value.nullable)


def _power(called: Called) -> Value:
    base, exponent = (convert(called.number(each), "real") for each in (0, 1))
    return Value(function("power", base.copy, exponent.copy), "real")


def _extreme(name: str) -> Build:
    def build(called: Called) -> Value:
        kind = common(each.kind for each in called.arguments)
        if kind == "dynamic":
            called.fail("values of several types are not ordered", "convert them to one type")
        found = [convert(each, kind).copy for each in called.arguments]
        return Value(function(name, *found), kind)

    return build


def _bin(called: Called) -> Value:
    value = called.arguments[0]
    if value.kind == "dynamic":
        value = convert(value, "real")
    step = called.literal(1, "the width of bin")
    if not isinstance(step.constant, int | float) or step.constant <= 0:
        called.fail("the width of bin is more than zero", "write bin(at, 1h) or bin(x, 10)")
    if value.kind == "datetime" and step.kind == "timespan":
        return times.binned(value, int(step.constant), times.KUSTO_EPOCH)
    if (value.kind == "timespan") != (step.kind == "timespan") or value.kind == "datetime":
        called.fail(f"a {value.kind} has no bins of a {step.kind}", "write bin(at, 1h)")
    if value.kind not in (*NUMERIC, "timespan"):
        called.fail(f"a {value.kind} has no bins", "write bin(todouble(x), 10)")
    if value.kind in ("long", "timespan") and isinstance(step.constant, int):
        width = exp.Literal.number(step.constant)
        rest: exp.Expr = exp.Paren(this=exp.Mod(this=value.copy, expression=width))
        rest = exp.Mod(this=exp.Paren(this=exp.Add(this=rest, expression=width.copy())),
                       expression=width.copy())  # fmt: skip
        floored = exp.Sub(this=value.copy, expression=exp.Paren(this=rest))
        return Value(exp.Paren(this=floored), value.kind, value.nullable)
    number, width = convert(value, "real"), convert(step, "real").sql
    ratio = function("floor", exp.Div(this=number.copy, expression=width))
    return Value(exp.Paren(this=exp.Mul(this=ratio, expression=width.copy())), "real",
                 value.nullable)  # fmt: skip


def _bin_at(called: Called) -> Value:
    value = called.arguments[0]
    step, at = called.literal(1, "the width"), called.literal(2, "the fixed point")
    if (value.kind, step.kind, at.kind) != ("datetime", "timespan", "datetime"):
        called.fail("bin_at takes a datetime, a timespan and a datetime",
                    "write bin_at(at, 1d, datetime(2026-01-01))")  # fmt: skip
    if step.constant <= 0:
        called.fail("the width is more than zero")
    return times.binned(value, step.constant, at.constant)


_INSTEAD = {
    "database": "only context_nodes, context_edges and context_events can be read",
    "cluster": "only context_nodes, context_edges and context_events can be read",
    "table": "write the table's name",
    "external_table": "only context_nodes, context_edges and context_events can be read",
    "sum": "write summarize sum(…)", "hash": "use dcount or distinct",
    "like": "use has or contains", "len": "did you mean strlen?", "upper": "did you mean toupper?",
    "lower": "did you mean tolower?", "concat": "did you mean strcat?",
    "ifnull": "did you mean coalesce?", "if": "did you mean iff?", "date": "write datetime(…)",
    "parse_url": "use extract(regex, group, text)", "parse_path": "use extract(regex, group, text)",
    "bag_keys": "ask GET /context/schema for property names",
    "cosine_distance": "use POST /rag/search for vectors",
}  # fmt: skip

_CONVERSIONS: dict[str, Kind] = {
    "tolong": "long", "toint": "long", "todouble": "real", "toreal": "real",
    "todecimal": "real", "tobool": "bool", "toboolean": "bool", "todatetime": "datetime",
}  # fmt: skip

SCALAR: dict[str, Function] = {
    **{name: Function(_to(kind)) for name, kind in _CONVERSIONS.items()},
    **{name: Function(_literal_of(kind)) for name, kind in KINDS.items()
       if name not in ("timespan", "time", "dynamic", "datetime", "date")},
    "tostring": Function(_to_string),
    "totimespan": Function(_span), "timespan": Function(_span), "time": Function(_span),
    "parse_json": Function(_dynamic), "todynamic": Function(_dynamic),
    "toobject": Function(_dynamic),
    "iff": Function(_iff, 3, 3), "iif": Function(_iff, 3, 3), "case": Function(_case, 3, None),
    "coalesce": Function(_coalesce, 2, None),
    "isnull": Function(_is_null(False)), "isnotnull": Function(_is_null(True)),
    "isempty": Function(_is_empty(False)), "isnotempty": Function(_is_empty(True)),
    "notempty": Function(_is_empty(True)), "notnull": Function(_is_null(True)),
    "not": Function(_not), "gettype": Function(_type_of),
    **{name: Function(_math(sql)) for name, sql in (
        ("exp", "exp"), ("log", "ln"), ("log10", "log10"), ("log2", "log2"),
        ("sin", "sin"), ("cos", "cos"), ("tan", "tan"), ("asin", "asin"), ("acos", "acos"),
        ("atan", "atan"), ("radians", "radians"), ("degrees", "degrees"),
    )},
    "sqrt": Function(_sqrt), "abs": Function(_same("abs")), "round": Function(_round, 1, 2),
    "sign": Function(lambda called: convert(_math("signum")(called), "long")),
    "ceiling": Function(_ceiling), "pow": Function(_power, 2, 2),
    "pi": Function(lambda called: constant("real", math.pi), 0, 0),
    "max_of": Function(_extreme("greatest"), 2, None),
    "min_of": Function(_extreme("least"), 2, None),
    "bin": Function(_bin, 2, 2), "floor": Function(_bin, 2, 2), "bin_at": Function(_bin_at, 3, 3),
    **sequences.functions(Function),
    **texts.functions(Function), **times.functions(Function),
}  # fmt: skip
"""Functions over one row's values, by name."""

KEEPS_NAME = frozenset({
    "bin", "floor", "bin_at", "tostring", "tolong", "toint", "todouble", "toreal", "todecimal",
    "tobool", "toboolean", "todatetime", "totimespan", "todynamic", "parse_json", "startofday",
    "startofweek", "startofmonth", "startofyear", "startofhour", "endofday", "endofweek",
    "endofmonth", "endofyear",
})  # fmt: skip
"""Functions whose unnamed result is called like their first argument."""
