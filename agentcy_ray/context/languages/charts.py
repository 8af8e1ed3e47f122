"""Chart hints: how the rows of an answer may be drawn, for every language."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from agentcy_ray.context.languages.planned import OutputColumn

_LINES = frozenset({"timechart", "linechart", "areachart", "stackedareachart", "scatterchart"})
_BARS = frozenset({"barchart", "columnchart", "piechart"})
RENDERED = _LINES | _BARS
"""Kinds of ``render`` that give a chart; every other kind gives none."""
_NUMBERS = frozenset({"integer", "float"})


def hint(
    columns: Sequence[OutputColumn],
    keys: Collection[str],
    *,
    render: tuple[str, Mapping[str, Sequence[str]]] | None = None,
) -> dict[str, Any] | None:
    """``{kind, x, y, series?}`` for grouped rows, None when there is nothing to draw.

    Args:
        columns: of the answer.
        keys: names of the columns by which the rows are grouped.
        render: the kind of chart that the query asks for, with its properties.
    """
    if render is not None:
        return _rendered(columns, keys, *render)
    shown = [each for each in columns if each.name in keys]
    numbers = [each.name for each in columns if each.kind in _NUMBERS and each.name not in keys]
    if not shown or not numbers:
        return None
    times = [each for each in shown if each.kind == "timestamp"]
    x = times[0] if times else shown[0]
    others = [each.name for each in shown if each is not x]
    if len(others) > 1:
        return None
    return _chart("line" if times else "bar", x.name, numbers, others[0] if others else None)


def _rendered(
    columns: Sequence[OutputColumn],
    keys: Collection[str],
    kind: str,
    properties: Mapping[str, Sequence[str]],
) -> dict[str, Any] | None:
    if kind not in RENDERED or not columns:
        return None
    names = {each.name: each for each in columns}
    times = [each for each in columns if each.kind == "timestamp"]
    asked = [name for name in properties.get("xcolumn", ()) if name in names]
    x = asked[0] if asked else (times or columns)[0].name
    series = [name for name in properties.get("series", ()) if name in names] or [
        each.name
        for each in columns
        if each.name != x and each.kind in ("text", "boolean", "any")
        and (not keys or each.name in keys)
    ]  # fmt: skip
    y = [name for name in properties.get("ycolumns", ()) if name in names] or [
        each.name
        for each in columns
        if each.name != x and each.name not in series and each.kind in (*_NUMBERS, "any")
    ]
    if not y:
        return None
    return _chart("line" if kind in _LINES else "bar", x, y, series[0] if series else None)


def _chart(kind: str, x: str, y: Sequence[str], series: str | None) -> dict[str, Any]:
    chart: dict[str, Any] = {"kind": kind, "x": x, "y": list(y)}
    return chart if series is None else {**chart, "series": series}
