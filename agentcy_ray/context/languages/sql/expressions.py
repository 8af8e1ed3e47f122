"""Expressions of SQL: checked, typed, and written anew for the engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn, cast

from sqlglot import exp

from agentcy_ray.context.languages import facts, values
from agentcy_ray.context.languages.facts import function
from agentcy_ray.context.languages.refusals import nearest
from agentcy_ray.context.languages.sql import forms
from agentcy_ray.context.languages.sql.calls import called
from agentcy_ray.context.languages.sql.reading import reject
from agentcy_ray.context.languages.sql.scopes import Column, Sight, name_of
from agentcy_ray.context.languages.values import NUMERIC, Kind, Value, common, constant, convert

_COMPARISONS = (exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE, exp.NullSafeEQ, exp.NullSafeNEQ)
_ARITHMETIC = (exp.Add, exp.Sub, exp.Mul, exp.Div, exp.Mod)
_NOW = ("current_timestamp", "localtimestamp")
Lower = Callable[[exp.Query, Sight], tuple[exp.Query, tuple[Column, ...]]]


@dataclass(frozen=True, slots=True)
class Lowering:
    """Lowers the expressions of one SELECT."""

    source: str
    sight: Sight
    params: Mapping[str, Any]
    now: int
    query: Lower
    """Lowers a sub-query."""
    outputs: Mapping[str, Value] = field(default_factory=dict)
    """Items of the select list, for names in HAVING and ORDER BY that no relation has."""

    def fail(self, node: exp.Expr, reason: str, instead: str = "") -> NoReturn:
        """Refuse the query at a node."""
        reject(self.source, node, reason, instead)

    def lower(self, node: exp.Expr) -> Value:
        """An expression with its type.

        Raises:
            QueryRejectedError: an unknown column or function, or a part that is not supported here.
        """
        match node:
            case exp.Column():
                return self._column(node)
            case exp.Literal():
                return self._literal(node)
            case exp.Boolean():
                return constant("bool", node.this)
            case exp.Null():
                return Value(exp.Null(), "null")
            case exp.Paren():
                found = self.lower(node.this)
                return found if found.is_constant else replace(found, sql=exp.Paren(this=found.sql))
            case exp.And() | exp.Or():
                sides = [self.condition(each) for each in (node.left, node.right)]
                return Value(type(node)(this=sides[0], expression=sides[1]), "bool")
            case exp.Not():
                return Value(exp.Not(this=self.condition(node.this)), "bool")
            case exp.Neg():
                found = self._number(node.this)
                if found.is_constant:
                    return constant(found.kind, -found.constant)
                return replace(found, sql=exp.Neg(this=found.sql))
            case _ if isinstance(node, _COMPARISONS):
                return self._compare(cast("exp.Binary", node))
            case _ if isinstance(node, _ARITHMETIC):
                return self._arithmetic(cast("exp.Binary", node))
            case exp.JSONExtract() | exp.JSONExtractScalar():
                return self._json(node)
            case exp.Anonymous():
                return called(self, node)
            case _:
                return self._other(node)

    def condition(self, node: exp.Expr) -> exp.Expr:
        """A predicate."""
        found = self.lower(node)
        if found.kind not in ("bool", "dynamic", "null"):
            self.fail(node, f"a condition is expected, not a {found.kind}", "compare it with =")
        return convert(found, "bool").sql if found.kind == "dynamic" else found.sql

    def text(self, node: exp.Expr) -> Value:
        """An expression as text."""
        found = self.lower(node)
        return convert(found, "string") if found.kind == "dynamic" else found

    # -- leaves

    def _column(self, node: exp.Column) -> Value:
        if isinstance(node.this, exp.Star):
            self.fail(node, "* stands for columns only in the select list and in count(*)")
        name, relation = name_of(node.this), name_of(node.args.get("table")) or None
        if node.args.get("db"):
            self.fail(node, "columns have no schema here", "write table.column")
        found = self.sight.resolve(name, relation)
        if found is not None:
            return found
        if relation is None and name in self.outputs:
            item = self.outputs[name]
            return replace(item, sql=exp.Paren(this=item.copy))
        if relation is None and name in _NOW:
            return constant("datetime", self.now)
        if relation is None and name == "current_date":
            return Value(values.cast(constant("datetime", self.now).sql, "date"), "date")
        known = self.sight.names(relation)
        listed = ", ".join(dict.fromkeys(known))
        advice = nearest(name, known) or (
            f"known are {listed}" if known else "write from context_nodes, or a text as 'text'"
        )
        return self.fail(node, "no such column", advice)

    def _literal(self, node: exp.Literal) -> Value:
        if node.is_string:
            if "\0" in node.this:
                self.fail(node, "a text holds no zero character")
            return constant("string", node.this)
        text = node.this
        if text.isdecimal():
            if int(text) > 2**63 - 1:
                self.fail(node, "the number does not fit into 64 bits")
            return constant("long", int(text))
        if (number := float(text)) == float("inf"):
            self.fail(node, "the number does not fit into 64 bits")
        return constant("real", number)

    def parameter(self, node: exp.Expr) -> Value:
        """``:name`` or ``$name`` as a literal of the given value."""
        inner = node.this
        name = inner if isinstance(inner, str) else getattr(inner, "name", "")
        if not name or name not in self.params:
            self.fail(node, f"the parameter {name} has no value", nearest(str(name), self.params)
                      or "give it in params")  # fmt: skip
        match value := self.params[name]:
            case None:
                return Value(exp.Null(), "null")
            case bool():
                return constant("bool", value)
            case int() if abs(value) < 2**63:
                return constant("long", value)
            case float():
                return constant("real", value)
            case str() if "\0" not in value:
                return constant("string", value)
            case list() | tuple():
                items = [constant_of(each) for each in cast("list[Any]", value)]
                if items and None not in items:
                    found = [each for each in items if each is not None]
                    array = function("make_array", *(each.sql for each in found))
                    return Value(array, "list", item=common(each.kind for each in found))
            case _:
                pass
        return self.fail(node, f"the value of {name} is no text, number, boolean or list of them")

    # -- operators

    def aligned(self, left: Value, right: Value) -> tuple[Value, Value]:
        """A dynamic value as the type that it is compared with; the engine does the rest."""
        for one, other in ((left, right), (right, left)):
            if one.kind != "dynamic":
                continue
            kind: Kind = "real" if other.kind in NUMERIC else other.kind
            if kind in ("dynamic", "null", "list", "interval"):
                kind = "string"
            changed = self._strict(one) if kind == "real" else convert(one, kind)
            pair = (changed, other) if one is left else (other, changed)
            return self.aligned(*pair) if other.kind == "dynamic" else pair
        return left, right

    def _strict(self, value: Value) -> Value:
        """Only what is a number in JSON."""
        return Value(facts.as_number(value.sql), "real")

    def _compare(self, node: exp.Binary) -> Value:
        left, right = self.aligned(self.lower(node.left), self.lower(node.right))
        if "list" in (left.kind, right.kind) and left.kind != right.kind:
            self.fail(node, "a list is not compared with a value", "write array_has(list, x)")
        found = type(node)(this=left.sql, expression=right.sql)
        # Engines read what follows IS DISTINCT FROM as far as it goes.
        safe = isinstance(node, exp.NullSafeEQ | exp.NullSafeNEQ)
        return Value(exp.Paren(this=found) if safe else found, "bool")

    def _number(self, node: exp.Expr) -> Value:
        found = self.lower(node)
        return convert(found, "real") if found.kind == "dynamic" else found

    def _arithmetic(self, node: exp.Binary) -> Value:
        left, right = self._number(node.left), self._number(node.right)
        kinds = {left.kind, right.kind}
        if kinds <= {"long", "real", "null"}:
            kind: Kind = "real" if "real" in kinds else "long"
        elif kinds in ({"datetime"}, {"date"}):
            kind = "interval"
        elif kinds in ({"datetime", "interval"}, {"date", "interval"}):
            kind = "datetime"
        elif kinds <= {"interval", "long", "real"}:
            kind = "interval"
        else:
            self.fail(node, f"not defined between a {left.kind} and a {right.kind}",
                      "cast one side, for example cast(x as double)")  # fmt: skip
        right_sql = right.sql
        if isinstance(node, exp.Div | exp.Mod) and not (right.is_constant and right.constant):
            right_sql = function("nullif", right_sql, exp.Literal.number(0))
        return Value(type(node)(this=left.sql, expression=right_sql), kind)

    def _json(self, node: exp.JSONExtract | exp.JSONExtractScalar) -> Value:
        keys: list[str | int] = []
        route = node.expression
        if not isinstance(route, exp.JSONPath):
            self.fail(node, "the key is a literal", "write props ->> 'key'")
        for part in route.expressions:
            match part:
                case exp.JSONPathRoot():
                    continue
                case exp.JSONPathKey(this=str() as key):
                    keys.append(key)
                case exp.JSONPathSubscript(this=int() as index):
                    keys.append(index)
                case _:
                    self.fail(node, "not a key", "write props -> 'a' ->> 'b'")
        found = self.path(node, self.lower(node.this), keys)
        return convert(found, "string") if isinstance(node, exp.JSONExtractScalar) else found

    def path(self, node: exp.Expr, subject: Value, keys: list[str | int]) -> Value:
        """What lies at a path of properties."""
        found = subject
        for key in keys:
            if found.kind != "dynamic":
                self.fail(node, f"a {found.kind} has no properties", "read props -> 'key'")
            if isinstance(key, int):
                place = exp.Literal.number(key + 1)
                item = function("array_element", values.items_of(found.sql), place)
                found = Value(values.item(item), "dynamic")
                continue
            if found.facts is None:
                self.fail(node, "this value cannot be read into",
                          "read the whole path from props: props -> 'a' ->> 'b'")  # fmt: skip
            part = facts.path(key)
            whole = f"{found.path}.{part}" if found.path else part
            sql = facts.tagged(found.facts.copy(), whole)
            found = Value(sql, "dynamic", True, found.facts.copy(), whole)
        return found

    # -- the rest

    def _other(self, node: exp.Expr) -> Value:
        match node:
            case exp.Placeholder() | exp.Parameter():
                return self.parameter(node)
            case exp.DPipe() | exp.Concat():
                parts = [self.text(each) for each in _parts(node)]
                return Value(facts.joined(each.sql for each in parts), "string")
            case exp.Is():
                return self._is(node)
            case exp.In():
                return self._in(node)
            case exp.Between():
                return self._between(node)
            case exp.Like() | exp.ILike() | exp.RegexpLike() | exp.RegexpILike():
                return self._like(node)
            case exp.Case():
                return forms.case_(self, node)
            case exp.Cast():
                return forms.cast_(self, node)
            case exp.Extract():
                return forms.extract_(self, node)
            case exp.Substring() | exp.Trim() | exp.StrPosition():
                return forms.special_(self, node)
            case exp.Interval():
                return forms.interval_(self, node)
            case exp.Bracket() | exp.Array():
                return forms.list_(self, node)
            case exp.Filter() | exp.WithinGroup() | exp.Window():
                return called(self, node)
            case exp.Exists():
                rows, _ = self.query(cast("exp.Query", node.this), self.sight)
                return Value(exp.Exists(this=rows), "bool")
            case exp.Subquery():
                rows, columns = self.query(cast("exp.Query", node.this), self.sight)
                if len(columns) != 1:
                    self.fail(node, f"a value is expected, not {len(columns)} columns")
                return Value(exp.Subquery(this=rows), columns[0].kind, item=columns[0].item)
            case _:
                return self.fail(node, f"{type(node).__name__} is not supported here")

    def _is(self, node: exp.Is) -> Value:
        found = self.lower(node.this)
        if not isinstance(node.expression, exp.Null | exp.Boolean):
            self.fail(node, "is takes null, true or false", "compare with =")
        wanted = node.expression.copy()
        if isinstance(wanted, exp.Boolean):
            found = convert(found, "bool") if found.kind == "dynamic" else found
        return _negated(node, exp.Is(this=found.sql, expression=wanted))

    def _in(self, node: exp.In) -> Value:
        subject = self.lower(node.this)
        if (query := node.args.get("query")) is not None:
            inner = query.this if isinstance(query, exp.Subquery) else query
            rows, columns = self.query(cast("exp.Query", inner), self.sight)
            if len(columns) != 1:
                self.fail(node, f"one column is expected, not {len(columns)}")
            if subject.kind == "dynamic":
                subject = convert(subject, "string")
            return Value(exp.In(this=subject.sql, query=exp.Subquery(this=rows)), "bool")
        if node.args.get("unnest") or node.args.get("field") is not None:
            return self._in_list(node, subject)
        items = [self.lower(each) for each in node.expressions]
        if len(items) == 1 and items[0].kind == "list":
            return Value(function("array_has", items[0].sql, subject.sql), "bool")
        pairs = [self.aligned(subject, each) for each in items]
        left = pairs[0][0] if pairs else subject
        return Value(exp.In(this=left.sql, expressions=[each.sql for _, each in pairs]), "bool")

    def _in_list(self, node: exp.In, subject: Value) -> Value:
        field = node.args.get("field")
        found = self.lower(field) if isinstance(field, exp.Expr) else None
        if found is None or found.kind != "list":
            self.fail(node, "a list or a sub-query is expected", "write x in ('a', 'b')")
        return Value(function("array_has", found.sql, subject.sql), "bool")

    def _between(self, node: exp.Between) -> Value:
        subject = self.lower(node.this)
        low = self.lower(cast("exp.Expr", node.args["low"]))
        high = self.lower(cast("exp.Expr", node.args["high"]))
        left, first = self.aligned(subject, low)
        _, last = self.aligned(subject, high)
        return Value(exp.Between(this=left.sql, low=first.sql, high=last.sql), "bool")

    def _like(self, node: exp.Binary) -> Value:
        left, right = self.text(node.left), self.text(node.right)
        if isinstance(node, exp.RegexpLike | exp.RegexpILike):
            flags = [exp.Literal.string("i")] if isinstance(node, exp.RegexpILike) else []
            return _negated(node, function("regexp_like", left.sql, right.sql, *flags))
        return _negated(node, type(node)(this=left.sql, expression=right.sql))


def _negated(node: exp.Expr, condition: exp.Expr) -> Value:
    """``IS NOT`` and ``NOT LIKE`` are marks of the node, not a NOT around it."""
    return Value(exp.Not(this=condition) if node.args.get("negate") else condition, "bool")


def _parts(node: exp.Expr) -> list[exp.Expr]:
    if isinstance(node, exp.Concat):
        return list(node.expressions)
    assert isinstance(node, exp.DPipe)
    left = node.left
    return [*(_parts(left) if isinstance(left, exp.DPipe) else [left]), node.right]


def constant_of(value: Any) -> Value | None:
    """A scalar of JSON as a literal, None for everything else."""
    match value:
        case bool():
            return constant("bool", value)
        case int() if abs(value) < 2**63:
            return constant("long", value)
        case float():
            return constant("real", value)
        case str() if "\0" not in value:
            return constant("string", value)
        case _:
            return None
