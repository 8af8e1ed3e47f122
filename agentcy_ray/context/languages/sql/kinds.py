"""Types of columns that several expressions feed."""

from __future__ import annotations

from collections.abc import Iterable

from agentcy_ray.context.languages.values import NUMERIC, Kind, Value, common


def common_kind(found: Iterable[Value]) -> tuple[Kind, Kind]:
    """The type of values of one column, and of its items."""
    values = list(found)
    kinds: set[Kind] = {each.kind for each in values if each.kind != "null"}
    items: list[Kind] = [each.item for each in values if each.item != "null"]
    item: Kind = items[0] if items else "null"
    if len(kinds) <= 1:
        only: Kind = next(iter(kinds)) if kinds else "null"
        return only, item
    others: set[Kind] = {each for each in kinds if each != "dynamic"}
    if others <= NUMERIC:
        return "real", item
    kind = common(kinds)
    return ("string" if kind == "dynamic" else kind), item
