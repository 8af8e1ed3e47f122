"""Queries of KQL: a source, then one CTE after another for each operator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NoReturn, cast

from sqlglot import exp

from agentcy_ray.context.languages.frames import TABLES, Frame, Plan, selected
from agentcy_ray.context.languages.kql import expanding, graphs, joins, series, stages, tree
from agentcy_ray.context.languages.kql.expressions import Declared, Lowering
from agentcy_ray.context.languages.kql.rewriting import rewritten
from agentcy_ray.context.languages.kql.sequences import NEIGHBOURS
from agentcy_ray.context.languages.refusals import MAX_DEPTH, nearest, refuse
from agentcy_ray.context.languages.values import (
    KINDS,
    Kind,
    Value,
    common,
    constant,
    convert,
    null,
)

Stage = Callable[["Pipelines", Frame, Any], Frame]

_STAGES: dict[type[tree.Operator], Stage] = {
    tree.Where: stages.where, tree.Project: stages.project, tree.Pick: stages.pick,
    tree.Rename: stages.rename, tree.Extend: stages.extend, tree.Summarize: stages.summarize,
    tree.Sort: stages.sort, tree.Top: stages.top, tree.Take: stages.take,
    tree.Distinct: stages.distinct, tree.Count: stages.count, tree.Join: joins.join,
    tree.Union: joins.union, tree.Expand: expanding.expand, tree.MakeSeries: series.make_series,
}  # fmt: skip


class Pipelines:
    """Plans the queries of one text; nested ones share its CTEs."""

    def __init__(self, plan: Plan, lets: Mapping[str, tree.Let]) -> None:
        self.plan = plan
        self.declared = Declared(lets, {}, self.query, plan.source)
        self.render: tree.Render | None = None
        self._depth = 0

    def declare(self, parameters: Mapping[str, Value]) -> None:
        """Bind the declared parameters."""
        self.declared = replace(self.declared, parameters=parameters)

    def lowering(self, frame: Frame | None, *, order: bool = True) -> Lowering:
        """Expressions over a frame's columns."""
        columns = {} if frame is None else dict(frame.values())
        keys = frame.ordered if frame is not None and order and frame.order else None
        return Lowering(self.plan, self.declared, columns, order=keys)

    def refuse(self, at: int, token: str, reason: str, instead: str = "") -> NoReturn:
        """Refuse the query at an offset."""
        refuse(self.plan.source, at, token, reason, instead)

    def text_of(self, node: tree.Expression | tree.Operator) -> str:
        """The caller's text of a node."""
        return self.plan.source[node.at : node.end]

    # -- queries

    def query(self, query: tree.Query) -> Frame:
        """The frame after the last operator.

        Raises:
            QueryRejectedError: something in it is not supported or makes no sense.
        """
        self._depth += 1
        if self._depth > MAX_DEPTH:
            self.refuse(query.at, self.plan.source[query.at : query.at + 20],
                        f"queries nest deeper than {MAX_DEPTH} levels", "use let")  # fmt: skip
        try:
            return self._query(query)
        finally:
            self._depth -= 1

    def _query(self, query: tree.Query) -> Frame:
        frame = self._source(query.source)
        graph: tree.MakeGraph | None = None
        for position, operator in enumerate(query.operators):
            if graph is not None and not isinstance(operator, tree.GraphMatch):
                self.refuse(operator.at, self.text_of(operator).split()[0],
                            "only graph-match may follow make-graph")  # fmt: skip
            match operator:
                case tree.MakeGraph():
                    graph = operator
                case tree.GraphMatch():
                    if graph is None:
                        advice = "write make-graph src --> dst with context_nodes on id before it"
                        self.refuse(operator.at, "graph-match", "there is no graph here", advice)
                    before = replace(query, operators=query.operators[: position - 1])
                    frame, graph = graphs.match(self, frame, before, graph, operator), None
                case tree.Render():
                    if self._depth > 1 or position != len(query.operators) - 1:
                        self.refuse(operator.at, "render", "render comes last")
                    self.render = operator
                case _:
                    if not _row_by_row(operator):
                        frame = self.plan.cut(frame)
                    frame = _STAGES[type(operator)](self, frame, operator)
        if graph is not None:
            self.refuse(graph.at, "make-graph", "a graph is not a table",
                        "write graph-match (a)-[e]->(b) project a.id, b.id after it")  # fmt: skip
        return frame if self._depth == 1 else self.plan.cut(frame)

    def _source(self, source: Any) -> Frame:
        match source:
            case tree.Print():
                return self._print(source)
            case tree.Range():
                return self._range(source)
            case tree.DataTable():
                return self._datatable(source)
            case tree.Union():
                return joins.union(self, None, source)
            case _:
                return self._table(cast("tree.Expression", source))

    def _table(self, node: tree.Expression) -> Frame:
        if isinstance(node, tree.Name):
            if (let := self.declared.let(node)) is not None:
                return self._let(node, let)
            if node.name in TABLES:
                return self.plan.table(node.name)
        found = self.lowering(None).query_of(node)
        if found is not None:
            return self.query(found)
        known = [*TABLES, *self.declared.lets]
        shown = node.name if isinstance(node, tree.Name) else self.text_of(node)
        return self.refuse(
            node.at, shown, "no such table",
            nearest(shown, known) or "use context_nodes, context_edges or context_events",
        )  # fmt: skip

    def _let(self, node: tree.Name, let: tree.Let) -> Frame:
        """A ``let`` is planned at each use, so that filters of one use stay its own."""
        lowering = self.lowering(None)
        if lowering.query_of(node) is None:
            self.refuse(node.at, node.name, "a value stands where a table is expected",
                        f"write print {node.name}")  # fmt: skip
        return self.query(let.value)

    # -- sources that are not tables

    def _print(self, source: tree.Print) -> Frame:
        lowering = self.lowering(None)
        columns: list[tuple[str, Value]] = []
        for position, item in enumerate(source.items):
            name = item.name or f"print_{position}"
            columns.append((name, lowering.lower(item.expression)))
        return self.plan.stage(exp.select(*selected(columns)), columns)

    def _range(self, source: tree.Range) -> Frame:
        lowering = self.lowering(None)
        bounds = [
            lowering.known(each, "a bound of range")
            for each in (source.start, source.stop, source.step)
        ]
        start, stop, step = (each.constant for each in bounds)
        kinds = [each.kind for each in bounds]
        kind: Kind = bounds[0].kind
        fits = kinds == ["long"] * 3 or kinds == ["datetime", "datetime", "timespan"] or (
            kinds == ["timespan"] * 3
        )  # fmt: skip
        if not fits or not step:
            self.refuse(source.at, "range", "range goes over whole numbers, datetimes or timespans",
                        "write range x from 1 to 10 step 1")  # fmt: skip
        count = max(0, (stop - start) // step + 1)
        if count > stages.MAX_TAKE:
            self.refuse(source.at, "range", f"range gives over {stages.MAX_TAKE} rows")
        number = exp.Mul(this=exp.column("i"), expression=constant("long", step).sql)
        moved: exp.Expr = exp.Paren(
            this=exp.Add(this=constant("long", start).sql, expression=exp.Paren(this=number))
        )
        if kind == "datetime":
            moved = exp.Anonymous(this="arrow_cast", expressions=[
                moved, exp.Literal.string("Timestamp(Nanosecond, None)"),
            ])  # fmt: skip
        counted = exp.select(exp.alias_(series.counting(count), "i")).subquery("counted")
        columns = [(source.name, Value(moved, kind, nullable=False))]
        return self.plan.stage(exp.select(*selected(columns)).from_(counted), columns)

    def _datatable(self, source: tree.DataTable) -> Frame:
        kinds: list[tuple[str, Kind]] = []
        for name, kind in source.columns:
            if kind not in KINDS:
                self.refuse(source.at, kind, "not a type", nearest(kind, KINDS) or "use string")
            kinds.append((name, KINDS[kind]))
        lowering, width = self.lowering(None), len(kinds)
        if not source.cells:
            columns = [(name, Value(null(kind), kind)) for name, kind in kinds]
            empty = exp.select(*selected(columns)).where(exp.false())
            return self.plan.stage(empty, columns)
        whole: exp.Query | None = None
        columns = []
        for at in range(0, len(source.cells), width):
            columns = []
            for (name, kind), cell in zip(kinds, source.cells[at : at + width], strict=True):
                value = lowering.known(cell, "a cell of datatable")
                if common((value.kind, kind)) == "dynamic" and kind != "dynamic":
                    lowering.fail(cell, f"a {value.kind} stands in a column of type {kind}")
                columns.append((name, convert(value, kind)))
            row = exp.select(*selected(columns))
            whole = row if whole is None else exp.union(whole, row, distinct=False, copy=False)
        assert whole is not None
        typed = [(name, Value(value.sql, value.kind)) for name, value in columns]
        return self.plan.stage(whole, typed)


def _row_by_row(operator: tree.Operator) -> bool:
    """Whether a limit before the operator may as well be one after it."""
    if isinstance(operator, tree.Pick | tree.Rename | tree.Take):
        return True
    if not isinstance(operator, tree.Project | tree.Extend):
        return False
    found: list[tree.Expression] = []
    for each in operator.items:
        rewritten(each.expression, found.append)
    return not any(isinstance(each, tree.Call) and each.name in NEIGHBOURS for each in found)
