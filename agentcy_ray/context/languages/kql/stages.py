"""The operators that read one relation: filter, columns, order, limit, grouping."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from sqlglot import exp

from agentcy_ray.context.languages.facts import function
from agentcy_ray.context.languages.frames import Frame, OrderKey, renamed, selected, some_row
from agentcy_ray.context.languages.kql import aggregates, tree
from agentcy_ray.context.languages.kql.functions import KEEPS_NAME
from agentcy_ray.context.languages.refusals import nearest
from agentcy_ray.context.languages.values import Value, convert, without_facts

if TYPE_CHECKING:
    from agentcy_ray.context.languages.kql.expressions import Lowering
    from agentcy_ray.context.languages.kql.pipelines import Pipelines

MAX_TAKE = 5_000_000


def where(pipes: Pipelines, frame: Frame, stage: tree.Where) -> Frame:
    """``where``; what only reads immutable columns of a table is filtered before versions count."""
    lowering = pipes.lowering(frame)
    kept: list[exp.Expr] = []
    reference = frame.reference
    for part in conjuncts(stage.predicate):
        condition = lowering.condition(part)
        if reference is not None and _pushes(pipes, frame, condition):
            reference.pushed.append(condition)
        else:
            kept.append(condition)
    if not kept:
        return frame
    condition = exp.and_(*kept, copy=False)
    return pipes.plan.select(frame, frame.values(), where=condition, reference=reference)


def conjuncts(node: tree.Expression) -> Iterable[tree.Expression]:
    """The parts that must all hold."""
    if isinstance(node, tree.Binary) and node.operator == "and":
        yield from conjuncts(node.left)
        yield from conjuncts(node.right)
    else:
        yield node


def _pushes(pipes: Pipelines, frame: Frame, condition: exp.Expr) -> bool:
    assert frame.reference is not None
    if condition.find(exp.Subquery, exp.Select, exp.Window):
        return False
    names = {each.name for each in condition.find_all(exp.Column)}
    return bool(names) and pipes.plan.pushable(frame.reference, names)


# -- columns


def project(pipes: Pipelines, frame: Frame, stage: tree.Project) -> Frame:
    """``project``: these columns, in this order."""
    return pipes.plan.select(frame, named_values(pipes.lowering(frame), stage.items))


def extend(pipes: Pipelines, frame: Frame, stage: tree.Extend) -> Frame:
    """``extend``: further columns; one of an existing name replaces it in its place."""
    if not stage.items:
        return frame
    found = dict(frame.values())
    for name, value in named_values(pipes.lowering(frame), stage.items, unique=False):
        found[name] = value
    return pipes.plan.select(frame, list(found.items()))


def named_values(
    lowering: Lowering, items: Iterable[tree.Named], *, unique: bool = True
) -> list[tuple[str, Value]]:
    """Items with their names; unnamed ones get Kusto's: the column's own, or ``ColumnN``."""
    found: list[tuple[str, Value]] = []
    unnamed = 0
    for item in items:
        name = item.name or automatic_name(item.expression)
        if name is None:
            unnamed += 1
            name = f"Column{unnamed}"
        found.append((name, lowering.lower(item.expression)))
    return renamed(found) if unique else found


def automatic_name(node: tree.Expression) -> str | None:
    """What Kusto calls an expression without a name; None for ``ColumnN``."""
    match node:
        case tree.Name():
            return node.name
        case tree.Member():
            before = automatic_name(node.subject)
            return f"{before}_{node.key}" if before else node.key
        case tree.Index(index=tree.Constant(value=int() | str() as key)):
            before = automatic_name(node.subject)
            return f"{before}_{key}" if before else str(key)
        case tree.Call() if node.name in KEEPS_NAME and node.arguments:
            return automatic_name(node.arguments[0])
        case tree.Call() if node.name in aggregates.NAMES:
            first = automatic_name(node.arguments[0]) if node.arguments else None
            return aggregates.result_name(node, first)
        case _:
            return None


def pick(pipes: Pipelines, frame: Frame, stage: tree.Pick) -> Frame:
    """``project-away``, ``project-keep`` and ``project-reorder``."""
    names = [each.name for each in frame.fields]
    chosen: dict[str, None] = {}
    for at, pattern in stage.patterns:
        matches = [name for name in names if _matches(pattern, name)]
        if not matches and "*" not in pattern:
            advice = nearest(pattern, names) or f"columns are {', '.join(names[:16])}"
            pipes.refuse(at, pattern, "no such column", advice)
        chosen |= dict.fromkeys(matches)
    if stage.mode == "away":
        kept = [name for name in names if name not in chosen]
    elif stage.mode == "keep":
        kept = [name for name in names if name in chosen]
    else:
        kept = [*chosen, *(name for name in names if name not in chosen)]
    if not kept:
        pipes.refuse(stage.at, "project-away", "no column is left", "keep at least one")
    values = dict(frame.values())
    return pipes.plan.select(frame, [(name, values[name]) for name in kept])


def _matches(pattern: str, name: str) -> bool:
    return re.fullmatch(re.escape(pattern).replace(r"\*", ".*"), name) is not None


def rename(pipes: Pipelines, frame: Frame, stage: tree.Rename) -> Frame:
    """``project-rename``."""
    names = [each.name for each in frame.fields]
    new: dict[str, str] = {}
    for name, old in stage.pairs:
        if old.name not in names:
            advice = nearest(old.name, names) or f"columns are {', '.join(names[:16])}"
            pipes.refuse(old.at, old.name, "no such column", advice)
        if name in names:
            pipes.refuse(old.at, name, "there is a column of that name", "choose another")
        new[old.name] = name
    columns = [(new.get(name, name), value) for name, value in frame.values()]
    return pipes.plan.select(frame, columns)


# -- order and limits


def sort(pipes: Pipelines, frame: Frame, stage: tree.Sort) -> Frame:
    """``sort by``: keys become columns of ours, so that later stages and the end can use them."""
    lowering = pipes.lowering(frame)
    keys: list[OrderKey] = []
    extra: list[exp.Expr] = []
    for position, key in enumerate(stage.keys):
        value = lowering.lower(key.expression)
        parts = [value]
        if value.kind == "dynamic":  # numbers by size, then texts
            parts = [convert(value, "real"), convert(value, "string")]
        for number, part in enumerate(parts):
            name = f"_order:{position}.{number}"
            keys.append(OrderKey(name, key.descending, key.nulls_first))
            extra.append(exp.alias_(part.copy, name, quoted=True))
    columns = frame.values()
    chosen = exp.select(*selected(columns), *extra).from_(frame.relation)
    return replace(pipes.plan.stage(chosen, columns, tuple(keys)), keys=frame.keys)


def top(pipes: Pipelines, frame: Frame, stage: tree.Top) -> Frame:
    """``top n by keys``."""
    ordered = sort(pipes, frame, tree.Sort(stage.at, stage.end, stage.keys))
    return take(pipes, ordered, tree.Take(stage.at, stage.end, stage.count))


def take(pipes: Pipelines, frame: Frame, stage: tree.Take) -> Frame:
    """``take n``: the first ones of a sorted input, any ones of another."""
    count = pipes.lowering(frame).known(stage.count, "the number of rows").constant
    if not isinstance(count, int) or isinstance(count, bool) or not 0 <= count <= MAX_TAKE:
        pipes.refuse(stage.count.at, pipes.text_of(stage.count),
                     f"the number of rows is 0 to {MAX_TAKE}", "write take 100")  # fmt: skip
    most = count if frame.limit is None else min(count, frame.limit)
    return replace(frame, limit=most, reference=None)


# -- grouping


def distinct(pipes: Pipelines, frame: Frame, stage: tree.Distinct) -> Frame:
    """``distinct``."""
    columns = named_values(pipes.lowering(frame), stage.items) if stage.items else frame.values()
    plain = [(name, without_facts(value)) for name, value in columns]
    chosen = exp.select(*selected(plain)).from_(frame.relation)
    return pipes.plan.stage(_by_first(chosen, len(plain)), plain)


def count(pipes: Pipelines, frame: Frame, stage: tree.Count) -> Frame:
    """``count``: one row, column ``Count``."""
    total = exp.Cast(this=function("count", exp.Literal.number(1)), to=exp.DataType.build("bigint"))
    columns = [("Count", Value(total, "long", nullable=False))]
    return pipes.plan.select(frame, columns, keep_order=False)


def summarize(pipes: Pipelines, frame: Frame, stage: tree.Summarize) -> Frame:
    """``summarize``: keys first, then aggregates, in Kusto's names."""
    lowering = pipes.lowering(frame, order=True)
    keys = [(name, without_facts(value)) for name, value in named_values(lowering, stage.keys)]
    grouped = replace(lowering, aggregates=True, columns={}, inputs=lowering.columns)
    found: list[tuple[str, Value]] = []
    rows: list[exp.Expr] = []
    own = {name for name, _ in keys}
    for item in stage.aggregates:
        node = item.expression
        if isinstance(node, tree.Call) and node.name in aggregates.WIDE:
            others = [(name, value) for name, value in frame.values() if name not in own]
            alias = f"_row{len(rows)}"
            wide = aggregates.expand(grouped, item, others, automatic_name, alias)
            found += wide.columns
            rows += [exp.alias_(wide.row, alias)] if wide.row is not None else []
            continue
        value = grouped.lower(node)
        if not _aggregates(node):
            grouped.fail(node, "an aggregate is expected", "write count(), sum(x) or move it to by")
        name = item.name or automatic_name(node)
        found.append((name or f"Column{len(found) + 1}", without_facts(value)))
    columns = renamed([*keys, *found])
    result = _grouped(pipes, frame, columns, len(keys), rows)
    return replace(result, keys=tuple(name for name, _ in columns[: len(keys)]))


def _grouped(
    pipes: Pipelines, frame: Frame, columns: list[tuple[str, Value]], keys: int,
    rows: list[exp.Expr],
) -> Frame:  # fmt: skip
    """The grouping; fields of picked ``rows`` are taken out by a stage of their own."""
    direct = [each for each in columns if not _is_field(each[1])]
    chosen = exp.select(*selected(direct), *rows).from_(frame.relation)
    if keys:
        chosen = _by_first(chosen, keys)
    result = pipes.plan.stage(chosen, direct)
    if not rows:
        return result
    known = dict(result.values())
    return pipes.plan.select(result, [(name, known.get(name, value)) for name, value in columns])


def _by_first(rows: exp.Select, keys: int) -> exp.Select:
    """The rows grouped by their first columns."""
    places = [exp.Literal.number(at + 1) for at in range(keys)]
    return rows.group_by(*places).having(some_row())


def _is_field(value: Value) -> bool:
    """Whether a column is a field of a picked row."""
    sql = value.sql
    return isinstance(sql, exp.Anonymous) and sql.name.lower() == "get_field" and (
        isinstance(sql.expressions[0], exp.Column)
    )  # fmt: skip


def _aggregates(node: tree.Expression) -> bool:
    """Whether an aggregate is called somewhere in the expression."""
    match node:
        case tree.Call():
            return node.name in aggregates.NAMES or any(map(_aggregates, node.arguments))
        case tree.Binary():
            return _aggregates(node.left) or _aggregates(node.right)
        case tree.Negate():
            return _aggregates(node.operand)
        case tree.Member() | tree.Index():
            return _aggregates(node.subject)
        case _:
            return False
