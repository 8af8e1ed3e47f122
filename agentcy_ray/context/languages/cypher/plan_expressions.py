"""Expressions over a frame.

What SQL cannot compute in one row (a comprehension over a list of unknown length, a subquery) is
computed by a frame of its own and joined back, so planning an expression may advance the frame.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

from sqlglot import Expr, exp

from agentcy_ray.context.languages.cypher import operators, sql, tree, values
from agentcy_ray.context.languages.cypher.frames import LONG, Frame, Plan
from agentcy_ray.context.languages.cypher.functions import AGGREGATES
from agentcy_ray.context.languages.cypher.plan_functions import FUNCTIONS, Arguments
from agentcy_ray.context.languages.cypher.plan_lists import ListPlanner
from agentcy_ray.context.languages.cypher.plan_maps import merged, properties_of
from agentcy_ray.context.languages.cypher.plan_properties import has_labels, property_of
from agentcy_ray.context.languages.cypher.refusal import UnplannableError, refuse
from agentcy_ray.context.languages.cypher.values import Value
from agentcy_ray.context.languages.planned import parts


class ExpressionPlanner(ListPlanner):
    """Plans expressions; subqueries are planned by the layers above."""

    def __init__(self, plan: Plan, params: Mapping[str, Any]) -> None:
        super().__init__(plan, params)
        self._cases = 0
        """How many CASE an expression stands in."""

    @abstractmethod
    def subquery(self, subquery: tree.Subquery, frame: Frame) -> Value:
        """``EXISTS|COUNT|COLLECT { … }``."""

    @abstractmethod
    def end_of(self, edge: Value, end: str, frame: Frame) -> Value:
        """``startNode`` (``src``) or ``endNode`` (``dst``) of an edge."""

    def condition(self, expression: tree.Expression, frame: Frame) -> Expr:
        """An expression as a condition.

        Raises:
            UnplannableError: it cannot be true or false, whatever the rows.
        """
        value = self.expression(expression, frame)
        if value.kind not in ("boolean", "any"):
            refuse("", f"a condition is expected here, not a {value.kind}",
                   "compare it, such as n.size > 0", at=expression.at)  # fmt: skip
        return values.as_boolean(value)

    def expression(self, expression: tree.Expression, frame: Frame) -> Value:
        """Any expression.

        Raises:
            UnplannableError: it has no form in SQL.
        """
        try:
            return self._planned(expression, frame)
        except UnplannableError as error:
            error.within(expression.at)
            raise

    def _planned(self, expression: tree.Expression, frame: Frame) -> Value:
        match expression:
            case tree.Constant(value=value):
                return values.constant(value)
            case tree.Parameter(name=name):
                return values.constant(self.params[name])
            case tree.Variable(name=name):
                return self._variable(name, frame)
            case tree.Property(subject=subject, key=key):
                return property_of(self.once(subject, frame), key, self.plan.scope)
            case tree.Item(subject=subject, index=index):
                return self.item(self.once(subject, frame), self.expression(index, frame))
            case tree.Slice():
                return self.slice(expression, frame)
            case tree.ListOf(items=items):
                return values.list_of([self.expression(each, frame) for each in items])
            case tree.MapOf(entries=entries):
                return values.map_of({key: self.expression(e, frame) for key, e in entries})
            case tree.Unary(operator=operator, operand=operand):
                return self._unary(operator, operand, frame)
            case tree.Binary():
                return self._binary(expression, frame)
            case tree.NullCheck(operand=operand, negated=negated):
                value = self.expression(operand, frame)
                probe = value.fields["id"] if value.fields is not None else value.sql
                return values.boolean(sql.is_null(probe, negated=negated))
            case tree.HasLabels(operand=operand, labels=labels):
                return values.boolean(has_labels(self.expression(operand, frame), labels))
            case tree.Call():
                return self._call(expression, frame)
            case tree.Subquery():
                return self.subquery(expression, frame)
            case _:
                return self._compound(expression, frame)

    def _compound(self, expression: tree.Expression, frame: Frame) -> Value:
        match expression:
            case tree.Case():
                return self._case(expression, frame)
            case tree.ListComprehension():
                return self.comprehension(expression, frame)
            case tree.Quantifier():
                return self.quantifier(expression, frame)
            case tree.Reduce():
                return self.reduce(expression, frame)
            case tree.MapProjection():
                return self._projected_map(expression, frame)
            case _:
                return refuse("", f"{type(expression).__name__} cannot be planned")

    def _variable(self, name: str, frame: Frame) -> Value:
        value = frame.bindings.get(name)
        if value is None:
            refuse(name, f"the variable {name} is not defined", "bind it by MATCH, UNWIND or WITH")
        return value

    def _unary(self, operator: str, operand: tree.Expression, frame: Frame) -> Value:
        if operator == "NOT":
            return values.boolean(sql.negate(self.condition(operand, frame)))
        value = self.expression(operand, frame)
        return operators.minus(value) if operator == "-" else value

    def _binary(self, expression: tree.Binary, frame: Frame) -> Value:
        operator = expression.operator
        if operator in ("AND", "OR"):
            conditions = [self.condition(e, frame) for e in _operands(expression)]
            joined = sql.all_of(conditions) if operator == "AND" else sql.any_of(conditions)
            return values.boolean(joined)
        if operator == "XOR":
            sides = [self.condition(e, frame) for e in (expression.left, expression.right)]
            return values.boolean(sql.compare("<>", sides[0], sides[1]))
        left = self.once(expression.left, frame)
        right = self.once(expression.right, frame)
        match operator:
            case "=":
                return values.boolean(operators.equals(left, right))
            case "<>":
                return values.boolean(operators.differs(left, right))
            case "<" | "<=" | ">" | ">=":
                try:
                    return values.boolean(operators.ordered(operator, left, right))
                except operators.NoOrderError:
                    refuse(operator, "lists of unknown length have no order here",
                           "compare items or size(list)")  # fmt: skip
            case "IN":
                if right.kind not in ("any", "list"):
                    refuse("IN", f"IN looks into a list, this is a {right.kind}",
                           "write x IN [a, b]")  # fmt: skip
                return values.boolean(operators.is_in(left, right))
            case "STARTS WITH" | "ENDS WITH" | "CONTAINS" | "=~":
                return values.boolean(operators.text_test(operator, left, right))
            case "+":
                return operators.plus(left, right)
            case _:
                if operator in ("/", "%") and right.constant == 0 and left.kind != "float":
                    refuse(operator, "division by zero", "divide by another number")
                return operators.arithmetic(operator, left, right)

    def once(self, expression: tree.Expression, frame: Frame) -> Value:
        """An expression for where it is written several times: a column when it is long.

        What divides stays where it is inside a CASE, which may keep rows away from it; a column is
        computed for all of them.
        """
        value = self.expression(expression, frame)
        if value.kind not in ("any", "list") or value.is_null or value.items is not None:
            return value
        if parts(value.sql) <= LONG:
            return value
        if self._cases and _divides(value.sql):
            return value
        found = frame.computed(value)
        return found if value.kind == "any" else values.array_of(
            values.items_of(found.sql), value.item
        )  # fmt: skip

    # -- cases, maps, calls

    def _case(self, each: tree.Case, frame: Frame) -> Value:
        self._cases += 1
        try:
            return self._chosen(each, frame)
        finally:
            self._cases -= 1

    def _chosen(self, each: tree.Case, frame: Frame) -> Value:
        subject = None if each.subject is None else self.expression(each.subject, frame)
        branches: list[tuple[Expr, Value]] = []
        for when, then in each.branches:
            if subject is None:
                test = self.condition(when, frame)
            else:
                test = operators.equals(subject, self.expression(when, frame))
            branches.append((test, self.expression(then, frame)))
        default = values.null() if each.default is None else self.expression(each.default, frame)
        results = [*(value for _, value in branches), default]
        kind = values.common(results)
        if kind in ("map", "path", "list", "node", "edge") and any(
            value.is_null or value.kind != kind for value in results
        ):
            kind = "any" if kind in ("map", "path") else kind
        shaped = [values.as_kind(value, kind) for value in results]
        made = sql.case(
            *((test, value.sql) for (test, _), value in zip(branches, shaped, strict=False)),
            default=shaped[-1].sql,
        )
        if kind in ("node", "edge"):
            return values.of_tagged(made, kind)
        return Value(kind, made, item=results[0].item if kind == "list" else "any")

    def _projected_map(self, each: tree.MapProjection, frame: Frame) -> Value:
        subject = self._variable(each.subject.name, frame)
        entries: dict[str, Value] = {}
        whole = False
        for key, item in each.items:
            if key == "*" and subject.entries is not None:
                entries |= subject.entries
            elif key == "*":
                if subject.kind not in ("node", "edge"):
                    refuse("*", f"this is a {subject.kind}, of which not all keys are known",
                           "name them: m {.name, .url}")  # fmt: skip
                whole = True
            elif isinstance(item, str):
                entries[item] = property_of(subject, item, self.plan.scope)
            else:
                entries[key] = self.expression(item, frame)
        if whole:
            return merged(properties_of(subject, without=entries), entries)
        return values.map_of(entries)

    def _call(self, call: tree.Call, frame: Frame) -> Value:
        if call.name in AGGREGATES:
            refuse(call.name, f"{call.name} aggregates rows and cannot stand here",
                   "aggregate in WITH or RETURN, then use the result")  # fmt: skip
        if call.name in ("startNode", "endNode") and len(call.arguments) == 1:
            edge = self.expression(call.arguments[0], frame)
            return self.end_of(edge, "src" if call.name == "startNode" else "dst", frame)
        planner = FUNCTIONS.get(call.name)
        if planner is None:
            refuse(call.name, f"the function {call.name} cannot be planned on this engine",
                   "compute it from text, number and list functions, or in the caller")  # fmt: skip
        given = [self.once(each, frame) for each in call.arguments]
        low, high = planner.arity
        if not low <= len(given) <= high:
            wanted = f"{low}" if low == high else f"{low} to {high}"
            refuse(call.name, f"{call.name} takes {wanted} arguments, not {len(given)}",
                   f"write {call.name} with {wanted}")  # fmt: skip
        found = planner.plan(Arguments(call.name, given, self.plan.scope))
        if found is None:
            refuse(call.name, f"{call.name} cannot be planned for these arguments",
                   planner.instead)  # fmt: skip
        return found


def _divides(expression: Expr) -> bool:
    """Whether a part of an expression divides; each part is looked at once, wherever it stands."""
    seen: set[int] = set()
    waiting = [expression]
    while waiting:
        part = waiting.pop()
        if isinstance(part, exp.Div | exp.Mod):
            return True
        if id(part) not in seen:
            seen.add(id(part))
            waiting += part.iter_expressions()
    return False


def _operands(chain: tree.Binary) -> list[tree.Expression]:
    operands: list[tree.Expression] = [chain.right]
    left = chain.left
    while isinstance(left, tree.Binary) and left.operator == chain.operator:
        operands.append(left.right)
        left = left.left
    return [left, *reversed(operands)]
