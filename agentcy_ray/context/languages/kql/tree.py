"""The syntax tree of KQL. Frozen; ``at`` and ``end`` are offsets into the caller's text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

# -- expressions ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Expression:
    """Anything that yields a value."""

    at: int
    end: int


@dataclass(frozen=True, slots=True)
class Constant(Expression):
    """A literal; ``kind`` is a type name of KQL, a timespan's value is in nanoseconds."""

    kind: str
    value: Any


@dataclass(frozen=True, slots=True)
class Name(Expression):
    """A column, a ``let`` name, a parameter or a table."""

    name: str


@dataclass(frozen=True, slots=True)
class Star(Expression):
    """``*`` as an argument."""


@dataclass(frozen=True, slots=True)
class Member(Expression):
    """``subject.key``."""

    subject: Expression
    key: str


@dataclass(frozen=True, slots=True)
class Index(Expression):
    """``subject[index]``."""

    subject: Expression
    index: Expression


@dataclass(frozen=True, slots=True)
class Negate(Expression):
    """``-operand``."""

    operand: Expression


@dataclass(frozen=True, slots=True)
class Binary(Expression):
    """Two operands of arithmetic, of a comparison or of ``and``, ``or``."""

    operator: str
    left: Expression
    right: Expression


@dataclass(frozen=True, slots=True)
class Between(Expression):
    """``subject between (low .. high)``."""

    subject: Expression
    low: Expression
    high: Expression
    negated: bool


@dataclass(frozen=True, slots=True)
class Membership(Expression):
    """``subject in (items)``; ``operator`` is one of ``in !in in~ !in~ has_any has_all``."""

    operator: str
    subject: Expression
    items: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Call(Expression):
    """``name(arguments)``."""

    name: str
    arguments: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Nested(Expression):
    """A query where a value or a list of values is expected."""

    query: Query


@dataclass(frozen=True, slots=True)
class Named:
    """``name = expression``; an unnamed one gets Kusto's automatic name."""

    name: str | None
    expression: Expression


# -- operators --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Operator:
    """One stage of a pipeline."""

    at: int
    end: int


@dataclass(frozen=True, slots=True)
class Where(Operator):
    """``where predicate``."""

    predicate: Expression


@dataclass(frozen=True, slots=True)
class Project(Operator):
    """``project a, b = c``."""

    items: tuple[Named, ...]


@dataclass(frozen=True, slots=True)
class Pick(Operator):
    """``project-away|keep|reorder``; patterns may hold ``*``."""

    mode: Literal["away", "keep", "reorder"]
    patterns: tuple[tuple[int, str], ...]


@dataclass(frozen=True, slots=True)
class Rename(Operator):
    """``project-rename new = old``; pairs of (new, offset and name of the old one)."""

    pairs: tuple[tuple[str, Name], ...]


@dataclass(frozen=True, slots=True)
class Extend(Operator):
    """``extend a = b``; ``serialize`` is one that keeps the order."""

    items: tuple[Named, ...]


@dataclass(frozen=True, slots=True)
class Summarize(Operator):
    """``summarize aggregates by keys``."""

    aggregates: tuple[Named, ...]
    keys: tuple[Named, ...]


@dataclass(frozen=True, slots=True)
class SortKey:
    """``expression [asc|desc] [nulls first|last]``; null ordering resolved as in Kusto."""

    expression: Expression
    descending: bool
    nulls_first: bool


@dataclass(frozen=True, slots=True)
class Sort(Operator):
    """``sort by keys``."""

    keys: tuple[SortKey, ...]


@dataclass(frozen=True, slots=True)
class Top(Operator):
    """``top count by keys``."""

    count: Expression
    keys: tuple[SortKey, ...]


@dataclass(frozen=True, slots=True)
class Take(Operator):
    """``take count``."""

    count: Expression


@dataclass(frozen=True, slots=True)
class Distinct(Operator):
    """``distinct a, b`` or ``distinct *`` (no items)."""

    items: tuple[Named, ...]


@dataclass(frozen=True, slots=True)
class Count(Operator):
    """``count``."""


@dataclass(frozen=True, slots=True)
class Join(Operator):
    """``join kind=… (right) on conditions``; ``lookup`` keeps the left side's keys only."""

    kind: str
    right: Query
    conditions: tuple[Expression, ...]
    lookup: bool


@dataclass(frozen=True, slots=True)
class Union(Operator):
    """``union arms``, as a source or after one."""

    source_name: str | None
    inner: bool
    arms: tuple[Query, ...]


@dataclass(frozen=True, slots=True)
class ExpandItem:
    """One column of ``mv-expand``."""

    item: Named
    to: str | None


@dataclass(frozen=True, slots=True)
class Expand(Operator):
    """``mv-expand items``."""

    items: tuple[ExpandItem, ...]
    index_name: str | None
    limit: Expression | None


@dataclass(frozen=True, slots=True)
class SeriesItem:
    """One aggregate of ``make-series``."""

    item: Named
    default: Expression | None


@dataclass(frozen=True, slots=True)
class MakeSeries(Operator):
    """``make-series items on axis from start to stop step width by keys``.

    ``closed``: the end belongs to the range, as ``in range(…)`` has it.
    """

    items: tuple[SeriesItem, ...]
    axis: Name
    start: Expression | None
    stop: Expression | None
    step: Expression
    closed: bool
    keys: tuple[Named, ...]


@dataclass(frozen=True, slots=True)
class Render(Operator):
    """``render kind with (properties)``."""

    chart: str
    properties: tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True, slots=True)
class MakeGraph(Operator):
    """``make-graph source --> target with nodes on key``."""

    source: Name
    target: Name
    nodes: tuple[tuple[Query, Name], ...]


@dataclass(frozen=True, slots=True)
class Hop:
    """One edge of a graph pattern; ``hops`` None = exactly one."""

    at: int
    name: str | None
    direction: Literal["out", "in", "both"]
    hops: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class GraphPath:
    """Points joined by hops; one more point than hops."""

    at: int
    points: tuple[str | None, ...]
    hops: tuple[Hop, ...]


@dataclass(frozen=True, slots=True)
class GraphMatch(Operator):
    """``graph-match paths where predicate project items``."""

    cycles: str
    paths: tuple[GraphPath, ...]
    predicate: Expression | None
    items: tuple[Named, ...]


# -- sources and statements -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Print(Operator):
    """``print a = 1``."""

    items: tuple[Named, ...]


@dataclass(frozen=True, slots=True)
class Range(Operator):
    """``range name from start to stop step width``."""

    name: str
    start: Expression
    stop: Expression
    step: Expression


@dataclass(frozen=True, slots=True)
class DataTable(Operator):
    """``datatable (columns) [cells]``, cells row by row."""

    columns: tuple[tuple[str, str], ...]
    cells: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Query:
    """A source and the operators after it."""

    at: int
    end: int
    source: Expression | Print | Range | DataTable | Union
    operators: tuple[Operator, ...]


@dataclass(frozen=True, slots=True)
class Let:
    """``let name = query``; the query may be a lone scalar expression."""

    at: int
    name: str
    value: Query


@dataclass(frozen=True, slots=True)
class ParameterDeclaration:
    """One of ``declare query_parameters``."""

    at: int
    name: str
    kind: str
    default: Expression | None


@dataclass(frozen=True, slots=True)
class Statements:
    """The whole text."""

    parameters: tuple[ParameterDeclaration, ...]
    lets: tuple[Let, ...]
    query: Query
