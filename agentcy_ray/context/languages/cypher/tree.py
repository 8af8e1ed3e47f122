"""The syntax tree of read-only Cypher. Frozen; rewriting makes new nodes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

# -- expressions ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Expression:
    """Anything that yields a value.

    ``at`` is where the text has its token (a name, an operator), -1 for what nobody wrote; two
    expressions that say the same are equal wherever they stand.
    """

    at: int = field(default=-1, compare=False, repr=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class Constant(Expression):
    """null, a boolean, a number or a string."""

    value: bool | int | float | str | None


@dataclass(frozen=True, slots=True)
class Parameter(Expression):
    """``$name``."""

    name: str


@dataclass(frozen=True, slots=True)
class Variable(Expression):
    """A name bound by a clause."""

    name: str


@dataclass(frozen=True, slots=True)
class Property(Expression):
    """``subject.key``."""

    subject: Expression
    key: str


@dataclass(frozen=True, slots=True)
class Item(Expression):
    """``subject[index]``."""

    subject: Expression
    index: Expression


@dataclass(frozen=True, slots=True)
class Slice(Expression):
    """``subject[start..end]``, either side open."""

    subject: Expression
    start: Expression | None
    end: Expression | None


@dataclass(frozen=True, slots=True)
class ListOf(Expression):
    """``[a, b]``."""

    items: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class MapOf(Expression):
    """``{key: value}``."""

    entries: tuple[tuple[str, Expression], ...]


@dataclass(frozen=True, slots=True)
class Unary(Expression):
    """``NOT``, ``-`` or ``+`` before an operand."""

    operator: Literal["NOT", "-", "+"]
    operand: Expression


@dataclass(frozen=True, slots=True)
class Binary(Expression):
    """Two operands; ``operator`` is one of the parser's table."""

    operator: str
    left: Expression
    right: Expression


@dataclass(frozen=True, slots=True)
class NullCheck(Expression):
    """``IS NULL`` or ``IS NOT NULL``."""

    operand: Expression
    negated: bool


@dataclass(frozen=True, slots=True)
class HasLabels(Expression):
    """``n:A|B``."""

    operand: Expression
    labels: LabelExpression


@dataclass(frozen=True, slots=True)
class Call(Expression):
    """A function of the allowed list; ``star`` is ``count(*)``."""

    name: str
    arguments: tuple[Expression, ...]
    distinct: bool = False
    star: bool = False


@dataclass(frozen=True, slots=True)
class Case(Expression):
    """``CASE [subject] WHEN … THEN … [ELSE …] END``."""

    subject: Expression | None
    branches: tuple[tuple[Expression, Expression], ...]
    default: Expression | None


@dataclass(frozen=True, slots=True)
class ListComprehension(Expression):
    """``[x IN list WHERE … | result]``."""

    variable: str
    source: Expression
    where: Expression | None
    result: Expression | None


@dataclass(frozen=True, slots=True)
class Quantifier(Expression):
    """``all|any|none|single(x IN list WHERE …)``."""

    kind: str
    variable: str
    source: Expression
    where: Expression


@dataclass(frozen=True, slots=True)
class Reduce(Expression):
    """``reduce(total = initial, x IN list | body)``."""

    accumulator: str
    initial: Expression
    variable: str
    source: Expression
    body: Expression


@dataclass(frozen=True, slots=True)
class MapProjection(Expression):
    """``n {.a, .*, key: value}``; an item is ``(".", key)``, ``("*", "")`` or ``(key, value)``."""

    subject: Variable
    items: tuple[tuple[str, str | Expression], ...]


@dataclass(frozen=True, slots=True)
class Subquery(Expression):
    """``EXISTS|COUNT|COLLECT { … }``; pattern predicates and comprehensions become one too."""

    kind: Literal["EXISTS", "COUNT", "COLLECT"]
    query: Query


# -- patterns ---------------------------------------------------------------------------------


class LabelExpression:
    """What follows the colon of a node or relationship."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Label(LabelExpression):
    """One label or type."""

    name: str


@dataclass(frozen=True, slots=True)
class AnyLabel(LabelExpression):
    """``%``."""


@dataclass(frozen=True, slots=True)
class NotLabel(LabelExpression):
    """``!A``."""

    operand: LabelExpression


@dataclass(frozen=True, slots=True)
class Labels(LabelExpression):
    """``A&B`` or ``A|B``."""

    operator: Literal["&", "|"]
    operands: tuple[LabelExpression, ...]


@dataclass(frozen=True, slots=True)
class NodePattern:
    """``(n:Label {key: value} WHERE …)``."""

    variable: str | None
    labels: LabelExpression | None
    properties: MapOf | None
    where: Expression | None


@dataclass(frozen=True, slots=True)
class RelationshipPattern:
    """``-[r:TYPE*1..3 {key: value} WHERE …]->``; ``hops`` None = exactly one."""

    variable: str | None
    types: LabelExpression | None
    direction: Literal["out", "in", "both"]
    hops: tuple[int, int] | None
    properties: MapOf | None
    where: Expression | None


@dataclass(frozen=True, slots=True)
class Path:
    """``p = (a)-[r]->(b)``; one more node than relationships."""

    variable: str | None
    nodes: tuple[NodePattern, ...]
    relationships: tuple[RelationshipPattern, ...]
    shortest: bool = False

    @property
    def varies(self) -> bool:
        """Whether a relationship pattern stands for several hops."""
        return any(part.hops is not None for part in self.relationships)


# -- clauses ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Match:
    """``[OPTIONAL] MATCH … [WHERE …]``."""

    paths: tuple[Path, ...]
    optional: bool
    where: Expression | None


@dataclass(frozen=True, slots=True)
class Unwind:
    """``UNWIND list AS variable``."""

    source: Expression
    variable: str


@dataclass(frozen=True, slots=True)
class Column:
    """``expression [AS alias]`` of a projection; ``text`` names an unaliased column."""

    expression: Expression
    alias: str | None
    text: str

    @property
    def name(self) -> str:
        """The name that the caller sees."""
        return self.alias if self.alias is not None else self.text


@dataclass(frozen=True, slots=True)
class Projection:
    """``WITH`` or ``RETURN``; ``order`` holds (expression, descending)."""

    final: bool
    distinct: bool
    star: bool
    columns: tuple[Column, ...]
    order: tuple[tuple[Expression, bool], ...] = ()
    skip: Expression | None = None
    limit: Expression | None = None
    where: Expression | None = None


@dataclass(frozen=True, slots=True)
class CallSubquery:
    """``CALL { … }``; ``imports`` None = the body imports by a leading ``WITH``."""

    query: Query
    imports: tuple[str, ...] | None


Clause = Match | Unwind | Projection | CallSubquery


@dataclass(frozen=True, slots=True)
class Query:
    """Parts joined by ``UNION [ALL]``; a subquery's last clause need not be a ``RETURN``."""

    parts: tuple[tuple[Clause, ...], ...]
    union_all: bool = False
