"""Ids that a query names for its nodes: what is pushed below the choice of the newest version."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

from agentcy_ray.context.languages.cypher import tree

Ids = tuple[str, ...]


def known_ids(clause: tree.Match, params: Mapping[str, Any]) -> Iterator[tuple[str, Ids]]:
    """Ids that the ``WHERE`` of a pattern demands of a variable."""
    waiting = [clause.where]
    while waiting:
        each = waiting.pop()
        match each:
            case tree.Binary(operator="AND", left=left, right=right):
                waiting += [left, right]
            case tree.Binary(operator="=" | "IN", left=left, right=right):
                for subject, wanted in ((left, right), (right, left)):
                    if each.operator == "IN" and subject is right:
                        continue
                    name, ids = _named(subject), _ids(wanted, params)
                    if name is not None and ids is not None:
                        yield name, ids
            case _:
                pass


def pattern_ids(
    node: tree.NodePattern, known: Mapping[str, Ids], params: Mapping[str, Any]
) -> Ids | None:
    """Ids that a node of a pattern must have, None when it may be any."""
    for key, value in node.properties.entries if node.properties else ():
        if key == "id" and (ids := _ids(value, params)) is not None:
            return ids
    return known.get(node.variable or "")


def _named(expression: tree.Expression) -> str | None:
    match expression:
        case tree.Property(subject=tree.Variable(name=name), key="id"):
            return name
        case _:
            return None


def _ids(expression: tree.Expression, params: Mapping[str, Any]) -> Ids | None:
    match expression:
        case tree.Constant(value=value):
            found: Any = value
        case tree.Parameter(name=name):
            found = params[name]
        case tree.ListOf(items=items):
            parts = [_ids(item, params) for item in items]
            if any(part is None for part in parts):
                return None
            return tuple(id_ for part in parts for id_ in part or ())
        case _:
            return None
    if isinstance(found, str):
        return (found,)
    if isinstance(found, list) and all(isinstance(each, str) for each in cast("list[Any]", found)):
        return tuple(cast("list[str]", found))
    return None
