# ruff: noqa: D102  # each public method is the rule of the grammar that it is called like
"""The part of the tree's building that speaks of expressions and literals."""

from __future__ import annotations

from typing import Any, NoReturn

from lark import Token
from lark.tree import Meta
from lark.visitors import Transformer_NonRecursive, v_args

from agentcy_ray.context.languages.kql import tree
from agentcy_ray.context.languages.kql.literals import json_value, moment, number, span, text
from agentcy_ray.context.languages.kql.tree import Expression, Named
from agentcy_ray.context.languages.refusals import refuse


@v_args(meta=True)
class ExpressionBuilder(Transformer_NonRecursive[Token, Any]):
    """One method for each rule of the grammar; ``children`` are built nodes and tokens."""

    def __init__(self, source: str) -> None:
        super().__init__(visit_tokens=False)
        self.source = source

    def _refuse(self, at: int, token: str, reason: str, instead: str = "") -> NoReturn:
        refuse(self.source, at, token, reason, instead)

    # -- expressions

    def named_list(self, meta: Meta, children: list[Any]) -> tuple[Named, ...]:
        return tuple(children)

    def named_as(self, meta: Meta, children: list[Any]) -> Named:
        return Named(children[0].name, children[1])

    def unnamed(self, meta: Meta, children: list[Any]) -> Named:
        return Named(None, children[0])

    def _chain(self, operator: str, children: list[Any]) -> Expression:
        """Balanced, so that a thousand conditions nest ten deep."""
        parts = [each for each in children if not isinstance(each, Token)]
        while len(parts) > 1:
            pairs = [parts[at : at + 2] for at in range(0, len(parts), 2)]
            parts = [
                tree.Binary(pair[0].at, pair[1].end, operator, *pair) if len(pair) == 2 else pair[0]
                for pair in pairs
            ]
        return parts[0]

    def or_(self, meta: Meta, children: list[Any]) -> Expression:
        return self._chain("or", children)

    def and_(self, meta: Meta, children: list[Any]) -> Expression:
        return self._chain("and", children)

    def compare(self, meta: Meta, children: list[Any]) -> tree.Binary:
        left, operator, right = children
        word = " ".join(str(operator).split())
        return tree.Binary(
            meta.start_pos, meta.end_pos, "!=" if word == "<>" else word, left, right
        )

    arithmetic = compare

    def member(self, meta: Meta, children: list[Any]) -> tree.Membership:
        subject, operator, items = children
        return tree.Membership(meta.start_pos, meta.end_pos, str(operator), subject, items or ())

    def members(self, meta: Meta, children: list[Any]) -> tuple[Expression, ...]:
        return tuple(_scalar(each) for each in children)

    def between(self, meta: Meta, children: list[Any]) -> tree.Between:
        subject, word, low, high = children
        return tree.Between(
            meta.start_pos, meta.end_pos, subject, low, high, negated=str(word).startswith("!")
        )

    def negate(self, meta: Meta, children: list[Any]) -> Expression:
        operand = children[1]
        if isinstance(operand, tree.Constant) and operand.kind in ("long", "real", "timespan"):
            return tree.Constant(meta.start_pos, meta.end_pos, operand.kind, -operand.value)
        return tree.Negate(meta.start_pos, meta.end_pos, operand)

    def plus(self, meta: Meta, children: list[Any]) -> Expression:
        return children[1]

    def dot(self, meta: Meta, children: list[Any]) -> tree.Member:
        return tree.Member(meta.start_pos, meta.end_pos, children[0], children[1].name)

    def index(self, meta: Meta, children: list[Any]) -> tree.Index:
        return tree.Index(meta.start_pos, meta.end_pos, *children)

    def call(self, meta: Meta, children: list[Any]) -> tree.Call:
        name, arguments = children
        return tree.Call(meta.start_pos, meta.end_pos, str(name), arguments or ())

    def arguments(self, meta: Meta, children: list[Any]) -> tuple[Expression, ...]:
        return tuple(_scalar(each) for each in children)

    def group(self, meta: Meta, children: list[Any]) -> Expression:
        return _scalar(children[0])

    def name(self, meta: Meta, children: list[Any]) -> tree.Name:
        token = children[0]
        word = text(token) if str(token)[0] in "'\"@" else str(token)
        if not word or not word.isprintable() or len(word) > 200:
            self._refuse(
                meta.start_pos, str(token), "not a name for a column", "use printable ones"
            )
        if word.startswith(("_facts:", "_order:")):
            self._refuse(meta.start_pos, word, "names with this beginning are reserved")
        return tree.Name(meta.start_pos, meta.end_pos, word)

    def name_of(self, meta: Meta, children: list[Any]) -> tree.Name:
        return children[0]

    # -- literals

    def _constant(self, meta: Meta, kind: str, value: Any) -> tree.Constant:
        return tree.Constant(meta.start_pos, meta.end_pos, kind, value)

    def number(self, meta: Meta, children: list[Any]) -> tree.Constant:
        found = number(children[0])
        if found is None:
            self._refuse(meta.start_pos, children[0], "the number does not fit into 64 bits",
                         "write a real, such as 1e20")  # fmt: skip
        return self._constant(meta, "long" if isinstance(found, int) else "real", found)

    def string(self, meta: Meta, children: list[Any]) -> tree.Constant:
        return self._constant(meta, "string", text(children[0]))

    def timespan(self, meta: Meta, children: list[Any]) -> tree.Constant:
        return self._constant(meta, "timespan", span(children[0]))

    def datetime(self, meta: Meta, children: list[Any]) -> tree.Constant:
        inner = str(children[0]).partition("(")[2][:-1].strip().strip("'\"").strip()
        if inner == "null":
            return self._constant(meta, "datetime", None)
        found = moment(inner)
        if found is None:
            self._refuse(
                meta.start_pos, str(children[0]), "not a moment between 1678 and 2262",
                "write datetime(2026-06-01) or datetime(2026-06-01T08:30:00Z)",
            )  # fmt: skip
        return self._constant(meta, "datetime", found)

    def boolean(self, meta: Meta, children: list[Any]) -> tree.Constant:
        return self._constant(meta, "bool", str(children[0]).lower() == "true")

    def null(self, meta: Meta, children: list[Any]) -> tree.Constant:
        return self._constant(meta, "null", None)

    def dynamic(self, meta: Meta, children: list[Any]) -> tree.Constant:
        return self._constant(meta, "dynamic", json_value(children[1]))

    def json_object(self, meta: Meta, children: list[Any]) -> tree.Constant:
        found = dict(each for each in children if each is not None)
        return self._constant(meta, "dynamic", found)

    def json_array(self, meta: Meta, children: list[Any]) -> tree.Constant:
        return self._constant(
            meta, "dynamic", [json_value(each) for each in children if each is not None]
        )

    def json_number(self, meta: Meta, children: list[Any]) -> tree.Constant:
        found = self.number(meta, [children[1]])
        if children[0] is not None:
            return self._constant(meta, found.kind, -found.value)
        return found

    def json_pair(self, meta: Meta, children: list[Any]) -> tuple[str, Any]:
        return text(children[0]), json_value(children[1])


def _scalar(found: Any) -> Expression:
    """A query of one expression is that expression; a real one is nested."""
    if not isinstance(found, tree.Query):
        return found
    if not found.operators and isinstance(found.source, Expression):
        return found.source
    return tree.Nested(found.at, found.end, found)
