"""What a Cypher query groups by, for drawing its rows; the same on every engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from typing import Any, cast

from agentcy_ray.context.engine import Column
from agentcy_ray.context.languages import charts
from agentcy_ray.context.languages.cypher import tree
from agentcy_ray.context.languages.cypher.clauses import QueryParser
from agentcy_ray.context.languages.cypher.functions import AGGREGATES
from agentcy_ray.context.languages.planned import Kind, OutputColumn

_KINDS: dict[str, Kind] = {
    "string": "text",
    "int64": "integer",
    "double": "float",
    "bool": "boolean",
    "list": "list",
    "map": "map",
    "node": "node",
    "edge": "edge",
    "path": "path",
}
_AXES = frozenset({"text", "integer", "float", "boolean", "list"})
"""Kinds of values that can stand along an axis."""


def chart_of(text: str, columns: Sequence[Column]) -> dict[str, Any] | None:
    """How the rows of a query may be drawn; None when its last projection does not aggregate.

    Args:
        text: a query that was answered.
        columns: of the answer.
    """
    keys = group_keys(text)
    shown = [OutputColumn(each.name, _KINDS.get(each.type, "any")) for each in columns]
    if keys is None or any(each.kind not in _AXES for each in shown if each.name in keys):
        return None
    return charts.hint(shown, keys)


def group_keys(text: str) -> tuple[str, ...] | None:
    """Names of the columns that the last projection groups by; None when it has no aggregate.

    Raises:
        QueryRejectedError: the text is outside the language.
    """
    query = QueryParser(text).whole()
    last = query.parts[-1][-1]
    if not isinstance(last, tree.Projection) or len(query.parts) > 1:
        return None
    keys = tuple(each.name for each in last.columns if not _aggregates(each.expression))
    return keys if len(keys) < len(last.columns) else None


def _aggregates(value: Any) -> bool:
    """Whether an aggregate stands in an expression, subqueries aside."""
    if isinstance(value, tree.Call) and value.name in AGGREGATES:
        return True
    if isinstance(value, tree.Query | tree.Subquery):
        return False
    if is_dataclass(value):
        return any(_aggregates(getattr(value, field.name)) for field in fields(value))
    if isinstance(value, tuple | list):
        return any(_aggregates(each) for each in cast("Sequence[Any]", value))
    return False
