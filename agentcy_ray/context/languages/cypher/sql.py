"""Short words for building SQL: sqlglot expressions, parenthesised where precedence matters."""

from __future__ import annotations

from collections.abc import Iterable

from sqlglot import Expr, exp

from agentcy_ray.context.languages.facts import function, joined, text_of

__all__ = [
    "FALSE",
    "NULL",
    "TRUE",
    "alias",
    "all_of",
    "any_of",
    "array",
    "binary",
    "case",
    "cast",
    "col",
    "compare",
    "empty_array",
    "function",
    "is_null",
    "joined",
    "lit",
    "negate",
    "number",
    "text_of",
]  # fmt: skip

NULL = exp.null()
TRUE = exp.true()
FALSE = exp.false()

_OPERATORS: dict[str, type[exp.Binary]] = {
    "=": exp.EQ, "<>": exp.NEQ, "<": exp.LT, "<=": exp.LTE, ">": exp.GT, ">=": exp.GTE,
    "+": exp.Add, "-": exp.Sub, "*": exp.Mul, "/": exp.Div, "%": exp.Mod,
}  # fmt: skip


def col(name: str, relation: str | None = None) -> exp.Column:
    """A column, quoted."""
    return exp.column(exp.to_identifier(name, quoted=True), table=relation)


def alias(value: Expr, name: str) -> Expr:
    """``value AS "name"``."""
    return exp.alias_(value, name, quoted=True, copy=False)


def lit(value: str) -> Expr:
    """A text; control characters are written as ``chr(n)``."""
    return text_of(value)


def number(value: int | float) -> Expr:
    """A number; a float keeps its type."""
    if isinstance(value, int):
        if value == -(2**63):  # its positive part is no 64-bit integer
            return exp.Paren(this=exp.Sub(this=number(-(2**63) + 1), expression=number(1)))
        return exp.Literal.number(value) if value >= 0 else exp.Paren(
            this=exp.Neg(this=exp.Literal.number(-value))
        )  # fmt: skip
    return cast(exp.Literal.string(repr(value)), "double")


def cast(value: Expr, kind: str, *, strict: bool = True) -> Expr:
    """``CAST`` or, when not strict, ``TRY_CAST``, which gives null for what does not fit."""
    node = exp.Cast if strict else exp.TryCast
    return node(this=value, to=exp.DataType.build(kind))


def binary(operator: str, left: Expr, right: Expr) -> Expr:
    """Arithmetic or a comparison."""
    return exp.Paren(this=_OPERATORS[operator](this=left, expression=right))


def compare(operator: str, left: Expr, right: Expr) -> Expr:
    """The same as ``binary``; reads better for conditions."""
    return binary(operator, left, right)


def all_of(conditions: Iterable[Expr]) -> Expr:
    """The conjunction; true for none."""
    found = list(conditions)
    return exp.Paren(this=exp.and_(*found, wrap=False, copy=False)) if found else TRUE


def any_of(conditions: Iterable[Expr]) -> Expr:
    """The disjunction; false for none."""
    found = list(conditions)
    return exp.Paren(this=exp.or_(*found, wrap=False, copy=False)) if found else FALSE


def negate(condition: Expr) -> Expr:
    """``NOT``; null stays null."""
    return exp.Paren(this=exp.Not(this=exp.Paren(this=condition)))


def is_null(value: Expr, *, negated: bool = False) -> Expr:
    """``IS NULL`` or ``IS NOT NULL``."""
    check = exp.Is(this=exp.Paren(this=value), expression=exp.null())
    return exp.Paren(this=exp.Not(this=check)) if negated else exp.Paren(this=check)


def case(*branches: tuple[Expr, Expr], default: Expr | None = None) -> Expr:
    """``CASE WHEN … THEN … ELSE … END``."""
    ifs = [exp.If(this=condition, true=then) for condition, then in branches]
    return exp.Case(ifs=ifs, default=default)


def array(items: Iterable[Expr]) -> Expr:
    """An array of texts."""
    found = list(items)
    return function("make_array", *found) if found else empty_array()


def empty_array() -> Expr:
    """An array of texts without items."""
    return function("arrow_cast", function("make_array"), "List(Utf8)")
