"""Walking over expressions of the tree."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import fields, replace
from typing import Any, cast

from agentcy_ray.context.languages.kql.tree import Expression, Member, Name


def rewritten(node: Expression, change: Callable[[Expression], Expression | None]) -> Expression:
    """The expression with parts replaced, from the outside in; None means to look into a part."""
    if (found := change(node)) is not None:
        return found
    changes: dict[str, Any] = {}
    for each in fields(node):
        value = getattr(node, each.name)
        if isinstance(value, Expression):
            changes[each.name] = rewritten(value, change)
        elif isinstance(value, tuple):
            parts = cast("tuple[Any, ...]", value)
            changes[each.name] = tuple(
                rewritten(part, change) if isinstance(part, Expression) else part for part in parts
            )
    return replace(node, **changes) if changes else node


def variables(node: Expression, known: Collection[str]) -> set[str]:
    """Those of some names whose columns the expression reads, or that it names."""
    found: set[str] = set()

    def seen(part: Expression) -> None:
        match part:
            case Member(subject=Name(name=name)) if name in known:
                found.add(name)
            case Name(name=name) if name in known:
                found.add(name)
            case _:
                pass

    rewritten(node, seen)
    return found
