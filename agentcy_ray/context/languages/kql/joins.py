"""``join``, ``lookup`` and ``union``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlglot import exp

from agentcy_ray.context.languages.current import column
from agentcy_ray.context.languages.facts import function
from agentcy_ray.context.languages.frames import Frame, renamed, selected
from agentcy_ray.context.languages.kql import comparisons, tree
from agentcy_ray.context.languages.kql.expressions import Lowering
from agentcy_ray.context.languages.kql.stages import conjuncts
from agentcy_ray.context.languages.values import (
    Kind,
    Value,
    common,
    constant,
    convert,
    null,
    without_facts,
)

if TYPE_CHECKING:
    from agentcy_ray.context.languages.kql.pipelines import Pipelines

_LEFT, _RIGHT = "l", "r"
_SIDES: dict[str, tuple[str | None, str | None]] = {
    "innerunique": (None, "INNER"), "inner": (None, "INNER"), "leftouter": ("LEFT", None),
    "rightouter": ("RIGHT", None), "fullouter": ("FULL", None), "leftsemi": ("LEFT", "SEMI"),
    "leftanti": ("LEFT", "ANTI"),
}  # fmt: skip
_SAME = {
    "anti": "leftanti",
    "leftantisemi": "leftanti",
    "rightantisemi": "rightanti",
}
_MIRRORED = {"rightsemi": "leftsemi", "rightanti": "leftanti"}


def join(pipes: Pipelines, left: Frame, stage: tree.Join) -> Frame:
    """``join`` of every kind, and ``lookup``, which leaves the right side's keys out."""
    kind = _SAME.get(stage.kind, stage.kind)
    right = pipes.query(stage.right)
    pairs = _pairs(pipes, left, right, stage)
    if kind in _MIRRORED:
        left, right = right, left
        pairs = [(after, before) for before, after in pairs]
        kind = _MIRRORED[kind]
    if kind == "innerunique":
        left = _one_each(pipes, left, [before for before, _ in pairs])
    condition = _condition(pipes, left, right, pairs, stage)
    columns = left.values(_LEFT)
    if kind not in ("leftsemi", "leftanti"):
        keys = {after for _, after in pairs} if stage.lookup else set[str]()
        columns += [(name, value) for name, value in right.values(_RIGHT) if name not in keys]
    columns = [(name, _maybe(value, kind)) for name, value in renamed(columns)]
    side, how = _SIDES[kind]
    joined = exp.Join(
        this=exp.to_table(right.relation, alias=_RIGHT), side=side, kind=how, on=condition
    )
    chosen = exp.select(*selected(columns)).from_(exp.to_table(left.relation, alias=_LEFT))
    chosen.append("joins", joined)
    return pipes.plan.stage(chosen, columns)


def _maybe(value: Value, kind: str) -> Value:
    """Columns of an outer join may be absent."""
    if kind not in ("leftouter", "rightouter", "fullouter"):
        return value
    return Value(value.sql, value.kind, True, value.facts, value.path)


def _pairs(pipes: Pipelines, left: Frame, right: Frame, stage: tree.Join) -> list[tuple[str, str]]:
    """Names of equal columns, left and right."""
    found: list[tuple[str, str]] = []
    for condition in stage.conditions:
        for part in conjuncts(condition):
            match part:
                case tree.Name():
                    pair = (part, part)
                case tree.Binary(
                    operator="==", left=tree.Member() as one, right=tree.Member() as other
                ) if {_side(one), _side(other)} == {"$left", "$right"}:
                    ends = (one, other) if _side(one) == "$left" else (other, one)
                    pair = (
                        tree.Name(ends[0].at, ends[0].end, ends[0].key),
                        tree.Name(ends[1].at, ends[1].end, ends[1].key),
                    )
                case _:
                    pipes.refuse(part.at, pipes.text_of(part), "joins compare columns for equality",
                                 "write on id, or on $left.id == $right.src")  # fmt: skip
            for frame, name in zip((left, right), pair, strict=True):
                if frame.find(name.name) is None:
                    Lowering(pipes.plan, pipes.declared, dict(frame.values())).lower(name)
                    pipes.refuse(name.at, name.name, "no such column on this side")
            found.append((pair[0].name, pair[1].name))
    return found


def _side(node: tree.Member) -> str:
    return node.subject.name if isinstance(node.subject, tree.Name) else ""


def _condition(
    pipes: Pipelines, left: Frame, right: Frame, pairs: list[tuple[str, str]], stage: tree.Join
) -> exp.Expr:
    before, after = dict(left.values(_LEFT)), dict(right.values(_RIGHT))
    lowering = Lowering(pipes.plan, pipes.declared, before)
    node = stage.conditions[0]
    parts: list[exp.Expr] = []
    for one, other in pairs:
        first, second = comparisons.aligned(
            before[one], after[other], lowering.failing(node), ordering=False
        )
        parts.append(exp.EQ(this=first.copy, expression=second.copy))
    return exp.and_(*parts, copy=False)


def _one_each(pipes: Pipelines, frame: Frame, keys: list[str]) -> Frame:
    """Any one row for each combination of keys."""
    rank = exp.Window(
        this=function("row_number"),
        partition_by=[column(key) for key in keys],
        order=exp.Order(expressions=[exp.Ordered(this=column(keys[0]))]),
    )
    columns = frame.values()
    ranked = exp.select(*selected(columns), exp.alias_(rank, "_rank")).from_(frame.relation)
    first = exp.EQ(this=exp.column("_rank"), expression=exp.Literal.number(1))
    chosen = exp.select(*selected(columns)).from_(ranked.subquery("ranked")).where(first)
    return pipes.plan.stage(chosen, columns)


# -- union


def union(pipes: Pipelines, frame: Frame | None, stage: tree.Union) -> Frame:
    """All rows of the arms; columns match by name, absent ones are null."""
    arms = [(_arm_name(each), pipes.query(each)) for each in stage.arms]
    if frame is not None:
        arms.insert(0, ("union_arg0", frame))
    kinds: dict[str, list[Kind]] = {}
    for _, arm in arms:
        for each in arm.fields:
            kinds.setdefault(each.name, []).append(each.kind)
    if stage.inner:
        kinds = {name: found for name, found in kinds.items() if len(found) == len(arms)}
    readable = {
        name
        for name in kinds
        if all((field := arm.find(name)) is None or field.path == "" for _, arm in arms)
    }
    if stage.source_name in kinds:
        pipes.refuse(stage.at, str(stage.source_name), "a column of that name is there already",
                     "choose another name for withsource")  # fmt: skip
    whole: exp.Query | None = None
    columns: list[tuple[str, Value]] = []
    for position, (label, arm) in enumerate(arms):
        columns = []
        if stage.source_name:
            shown = label or f"union_arg{position}"
            columns.append((stage.source_name, constant("string", shown)))
        values = dict(arm.values())
        for name, found in kinds.items():
            columns.append((name, _as(values.get(name), common(found), name in readable)))
        rows = exp.select(*selected(columns)).from_(arm.relation)
        whole = rows if whole is None else exp.union(whole, rows, distinct=False, copy=False)
    assert whole is not None
    typed = [
        (name, Value(value.sql, value.kind, True, value.facts, value.path))
        for name, value in columns
    ]
    return pipes.plan.stage(whole, typed)


def _as(value: Value | None, kind: Kind, readable: bool) -> Value:
    if value is None:
        held = null("dynamic") if readable else None
        return Value(null(kind), kind, True, held)
    converted = convert(value, kind)
    return converted if readable else without_facts(converted)


def _arm_name(query: tree.Query) -> str:
    return query.source.name if isinstance(query.source, tree.Name) else ""
