"""Expressions of KQL to typed SQL expressions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import NoReturn, cast

from sqlglot import exp

from agentcy_ray.context.languages import facts
from agentcy_ray.context.languages.facts import function
from agentcy_ray.context.languages.frames import TABLES, Frame, Plan
from agentcy_ray.context.languages.kql import arithmetic, comparisons, tree
from agentcy_ray.context.languages.refusals import nearest, refuse
from agentcy_ray.context.languages.values import (
    KINDS,
    Kind,
    Value,
    constant,
    convert,
    item,
    items_of,
)

MAX_DEPTH = 60
"""Nesting of an expression; engines recurse over it, and so do we."""

MAX_USES = 500
"""Of what ``let`` names, counted where the names stand for other names too."""


@dataclass(frozen=True, slots=True)
class Declared:
    """What ``let`` and ``declare`` bind; parameters are constants by now."""

    lets: Mapping[str, tree.Let]
    parameters: Mapping[str, Value]
    plan_query: Callable[[tree.Query], Frame]
    """Plans a sub-query; set by the planner, which knows the stages."""
    source: str
    """The text of the whole query."""
    uses: list[str] = field(default_factory=list[str])
    """Names that were looked up; each use is planned anew, so few lines could ask for millions."""

    def let(self, node: tree.Name) -> tree.Let | None:
        """The ``let`` that a name stands for; only those written before it are known."""
        found = self.lets.get(node.name)
        if found is None or found.value.end > node.at:
            return None
        self.uses.append(node.name)
        if len(self.uses) > MAX_USES:
            refuse(self.source, node.at, node.name, f"let is used more than {MAX_USES} times",
                   "compute it in a stage by extend")  # fmt: skip
        return found


@dataclass(slots=True)
class Lowering:
    """Lowers the expressions of one stage."""

    plan: Plan
    declared: Declared
    columns: Mapping[str, Value]
    sides: Mapping[str, Mapping[str, Value]] = field(default_factory=dict)
    """Names with columns of their own: ``$left``, ``$right``, the variables of a graph pattern."""
    order: list[exp.Ordered] | None = None
    """The sort keys of the input, for functions over neighbouring rows; None = not sorted."""
    aggregates: bool = False
    """Whether aggregate functions may be called; ``columns`` are then those outside of them."""
    inputs: Mapping[str, Value] = field(default_factory=dict)
    """The columns that aggregates read."""
    depth: int = 0

    # -- entry points

    def lower(self, node: tree.Expression) -> Value:
        """An expression with its type.

        Raises:
            QueryRejectedError: an unknown name, a wrong type, or something not supported.
        """
        self.depth += 1
        if self.depth > MAX_DEPTH:
            self.fail(node, f"nested deeper than {MAX_DEPTH} levels", "split it by extend or let")
        try:
            return self._lower(node)
        finally:
            self.depth -= 1

    def condition(self, node: tree.Expression, *, filtering: bool = True) -> exp.Expr:
        """A predicate. ``filtering``: rows where it is unknown are left out anyhow."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            self.fail(node, f"nested deeper than {MAX_DEPTH} levels", "split it by extend or let")
        try:
            return self._condition(node, filtering=filtering)
        finally:
            self.depth -= 1

    def fail(self, node: tree.Expression, reason: str, instead: str = "") -> NoReturn:
        """Refuse the query at a node."""
        self.refuse(node.at, self.plan.source[node.at : node.end], reason, instead)

    def refuse(self, at: int, token: str, reason: str, instead: str = "") -> NoReturn:
        """Refuse the query at an offset."""
        refuse(self.plan.source, at, token, reason, instead)

    def failing(self, node: tree.Expression) -> comparisons.Fail:
        """``fail`` bound to a node."""

        def fail(reason: str, instead: str = "") -> NoReturn:
            self.fail(node, reason, instead)

        return fail

    def known(self, node: tree.Expression, what: str) -> Value:
        """An expression that must be known while planning."""
        value = self.lower(node)
        if not value.is_constant:
            self.fail(node, f"{what} is a literal, not computed from rows", "write it as a literal")
        return value

    # -- the kinds of nodes

    def _lower(self, node: tree.Expression) -> Value:
        match node:
            case tree.Constant():
                return constant(cast("Kind", node.kind), node.value)
            case tree.Name():
                return self._name(node)
            case tree.Member():
                return self._member(node)
            case tree.Index():
                return self._index(node)
            case tree.Negate():
                return arithmetic.negate(self.lower(node.operand), self.failing(node))
            case tree.Binary() if node.operator in arithmetic.OPERATORS:
                left, right = self.lower(node.left), self.lower(node.right)
                return arithmetic.combine(node.operator, left, right, self.failing(node))
            case tree.Call():
                return self._call(node)
            case tree.Nested():
                return self.fail(
                    node, "a query stands where a value is expected", "write toscalar(…)"
                )
            case tree.Star():
                return self.fail(node, "* stands for columns only in count, distinct and arg_max")
            case _:
                return Value(self.condition(node, filtering=False), "bool")

    def _condition(self, node: tree.Expression, *, filtering: bool) -> exp.Expr:
        match node:
            case tree.Binary(operator="and" | "or"):
                left = self.condition(node.left, filtering=filtering)
                right = self.condition(node.right, filtering=filtering)
                kind = exp.And if node.operator == "and" else exp.Or
                both = exp.Paren(this=kind(this=left, expression=right))
                # An absent truth value counts as false here, as in Kusto.
                return both if filtering else function("coalesce", both, exp.false())
            case tree.Binary() if node.operator not in arithmetic.OPERATORS:
                left, right = self.lower(node.left), self.lower(node.right)
                return comparisons.compare(
                    node.operator, left, right, self.failing(node), filtering=filtering
                )
            case tree.Between():
                return self._between(node)
            case tree.Membership():
                return self._membership(node, filtering=filtering)
            case tree.Call(name="not", arguments=(inner,)):
                return comparisons.negated(self.condition(inner, filtering=False))
            case _:
                value = self.lower(node)
                if value.kind not in ("bool", "dynamic", "null"):
                    self.fail(node, f"a condition is expected, not a {value.kind}",
                              "compare it, for example with ==")  # fmt: skip
                return convert(value, "bool").copy

    def _between(self, node: tree.Between) -> exp.Expr:
        subject, low = self.lower(node.subject), self.lower(node.low)
        high, fail = self.lower(node.high), self.failing(node)
        if low.kind == "datetime" and high.kind == "timespan":
            high = arithmetic.combine("+", low, high, fail)
        within = exp.Paren(
            this=exp.And(
                this=comparisons.compare(">=", subject, low, fail),
                expression=comparisons.compare("<=", subject, high, fail),
            )
        )
        return comparisons.negated(within) if node.negated else within

    def _membership(self, node: tree.Membership, *, filtering: bool) -> exp.Expr:
        subject, fail = self.lower(node.subject), self.failing(node)
        if len(node.items) == 1 and (query := self.query_of(node.items[0])) is not None:
            return self._member_of_query(node, subject, query)
        items: list[Value] = []
        for each in node.items:
            value = self.lower(each)
            if value.is_constant and isinstance(value.constant, list):
                items += [_of_json(one) for one in value.constant]
            elif value.kind == "dynamic" and not value.is_constant and len(node.items) == 1:
                return self._member_of_list(node, subject, value)
            else:
                items.append(value)
        return comparisons.member(node.operator, subject, items, fail, filtering=filtering)

    def _member_of_query(
        self, node: tree.Membership, subject: Value, query: tree.Query
    ) -> exp.Expr:
        word = node.operator.removeprefix("!")
        if word not in ("in", "in~"):
            self.fail(node, f"{word} takes literal texts", "write them out")
        frame = self.declared.plan_query(query)
        first = frame.value(frame.fields[0])
        fail = self.failing(node)
        if word == "in~":
            subject, first = (_lowered(comparisons.text(each, fail)) for each in (subject, first))
        left, right = comparisons.aligned(subject, first, fail, ordering=False)
        rows = exp.select(right.copy).from_(frame.relation)
        rows = rows.where(exp.Not(this=exp.Is(this=right.copy, expression=exp.Null())))
        if not node.operator.startswith("!"):
            return exp.In(this=left.copy, query=rows.subquery())
        found = exp.Not(this=exp.In(this=left.copy, query=rows.subquery()))
        if not left.nullable:
            return found
        missing = exp.Is(this=left.copy, expression=exp.Null())
        return exp.Paren(this=exp.Or(this=found, expression=missing))

    def _member_of_list(self, node: tree.Membership, subject: Value, found: Value) -> exp.Expr:
        held = function("array_has", items_of(found.sql), convert(subject, "dynamic").copy)
        inside = function("coalesce", held, exp.false())
        return exp.Not(this=inside) if node.operator.startswith("!") else inside

    # -- names and paths

    def query_of(self, node: tree.Expression) -> tree.Query | None:
        """The query that an expression stands for: one in parentheses, a ``let`` or a table."""
        match node:
            case tree.Nested():
                return node.query
            case tree.Name() if node.name in self.columns or node.name in self.declared.parameters:
                return None
            case tree.Name() if (found := self.declared.let(node)) is not None:
                lone = found.value
                if lone.operators or not isinstance(lone.source, tree.Expression):
                    return lone
                return self.query_of(lone.source)
            case tree.Name() if node.name in TABLES:
                return tree.Query(node.at, node.end, node, ())
            case tree.Call(name="materialize", arguments=(inner,)):
                return self.query_of(inner)
            case _:
                return None

    def _name(self, node: tree.Name) -> Value:
        if (found := self.columns.get(node.name)) is not None:
            return found
        if (parameter := self.declared.parameters.get(node.name)) is not None:
            return parameter
        if (let := self.declared.let(node)) is not None:
            if self.query_of(node) is not None:
                self.fail(node, "a table stands where a value is expected", "write toscalar(…)")
            return replace(self, columns={}, sides={}).lower(_lone(let.value))
        if node.name in self.sides:
            self.fail(node, "a column is expected", f"write {node.name}.<column>")
        if node.name in self.inputs:
            self.fail(
                node, "a column stands outside of an aggregate", "write min(x), or move it to by"
            )
        known = [*self.columns, *self.declared.parameters, *self.declared.lets]
        listed = ", ".join(list(self.columns)[:16])
        advice = nearest(node.name, known) or f"columns are {listed}"
        return self.fail(node, "no such column", advice)

    def _member(self, node: tree.Member) -> Value:
        subject = node.subject
        if isinstance(subject, tree.Name) and subject.name in self.sides:
            found = self.sides[subject.name].get(node.key)
            if found is None:
                known = self.sides[subject.name]
                advice = nearest(node.key, known) or f"columns are {', '.join(known)}"
                self.fail(node, "no such column", advice)
            return found
        return self._path(node, self.lower(subject), node.key)

    def _index(self, node: tree.Index) -> Value:
        subject, index = self.lower(node.subject), self.lower(node.index)
        if index.is_constant and isinstance(index.constant, str):
            return self._path(node, subject, index.constant)
        if subject.kind != "dynamic" or index.kind != "long":
            self.fail(node, "only dynamic values have items", "use substring(x, start, length)")
        if subject.is_constant and index.is_constant and isinstance(subject.constant, list):
            found = subject.constant
            return _of_json(found[index.constant] if index.constant < len(found) else None)
        if index.is_constant:
            at = index.constant + 1 if index.constant >= 0 else index.constant
            place: exp.Expr = constant("long", at).sql
        else:
            place = exp.Paren(this=exp.Add(this=index.copy, expression=exp.Literal.number(1)))
        items = items_of(subject.sql)
        return Value(item(function("array_element", items, place)), "dynamic")

    def _path(self, node: tree.Expression, subject: Value, key: str) -> Value:
        if subject.is_constant and isinstance(subject.constant, dict):
            return _of_json(subject.constant.get(key))
        if subject.kind != "dynamic":
            self.fail(node, f"a {subject.kind} has no properties", "read props.<name>")
        if subject.facts is None:
            self.fail(node, "this value cannot be read into",
                      "read the whole path from props, such as props.a.b")  # fmt: skip
        part = facts.path(key)
        whole = f"{subject.path}.{part}" if subject.path else part
        return Value(
            facts.tagged(subject.facts.copy(), whole), "dynamic",
            facts=subject.facts.copy(), path=whole,
        )  # fmt: skip

    # -- calls

    def _call(self, node: tree.Call) -> Value:
        from agentcy_ray.context.languages.kql import aggregates, functions

        if node.name == "toscalar":
            return self._scalar_query(node)
        if node.name == "typeof":
            return self._type_name(node)
        if node.name in aggregates.NAMES and not (
            node.name in functions.SCALAR and not self.aggregates
        ):
            if not self.aggregates:
                self.fail(node, f"{node.name} counts over rows", f"write summarize {node.name}(…)")
            return aggregates.lower(self, node)
        return functions.lower(self, node)

    def _type_name(self, node: tree.Call) -> Value:
        """``typeof(long)``: the name of a type, for functions that take one."""
        match node.arguments:
            case (tree.Name(name=name),) if name in KINDS:
                return constant("string", name)
            case _:
                return self.fail(node, "typeof takes the name of a type", "write typeof(long)")

    def _scalar_query(self, node: tree.Call) -> Value:
        query = self.query_of(node.arguments[0]) if len(node.arguments) == 1 else None
        if query is None:
            self.fail(node, "toscalar takes a query", "write toscalar(context_nodes | count)")
        frame = self.declared.plan_query(query)
        first = frame.value(frame.fields[0])
        rows = exp.select(first.copy).from_(frame.relation)
        if frame.order:
            rows = rows.order_by(*frame.ordered)
        return Value(rows.limit(1).subquery(), first.kind)


def _lone(query: tree.Query) -> tree.Expression:
    assert isinstance(query.source, tree.Expression)
    return query.source


def _lowered(value: Value) -> Value:
    return Value(function("lower", value.copy), "string", value.nullable)


def _of_json(found: object) -> Value:
    match found:
        case None:
            return constant("null", None)
        case bool():
            return constant("bool", found)
        case int():
            return constant("long", found)
        case float():
            return constant("real", found)
        case str():
            return constant("string", found)
        case _:
            return constant("dynamic", found)
