"""``make-graph`` with ``graph-match``: patterns of nodes and edges as joins.

Each hop reads the edges once more and each point the nodes, with the parts of the ``where`` that
speak of it alone put in before its rows are joined. A hop of variable length is unrolled.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from sqlglot import exp

from agentcy_ray.context.languages.current import column
from agentcy_ray.context.languages.frames import TABLES, Frame, selected
from agentcy_ray.context.languages.kql import tree
from agentcy_ray.context.languages.kql.expressions import Lowering
from agentcy_ray.context.languages.kql.hops import Edges, Walk
from agentcy_ray.context.languages.kql.rewriting import rewritten, variables
from agentcy_ray.context.languages.kql.stages import conjuncts, named_values, where
from agentcy_ray.context.languages.values import Value

if TYPE_CHECKING:
    from agentcy_ray.context.languages.kql.pipelines import Pipelines

MAX_ELEMENTS = 14
HOPS = "_hops"


@dataclass(slots=True)
class _Point:
    """A variable of a pattern, or a nameless point."""

    name: str
    keys: list[exp.Expr] = field(default_factory=list)
    """What its key is equal to, one for each hop that touches it."""
    conditions: list[tree.Expression] = field(default_factory=list)


@dataclass(slots=True)
class _Edge:
    """One hop with the points that it joins."""

    hop: tree.Hop
    alias: str
    start: _Point
    end: _Point
    conditions: list[tree.Expression] = field(default_factory=list)
    walk: Walk | None = None


def match(
    pipes: Pipelines, edges: Frame, before: tree.Query, graph: tree.MakeGraph,
    stage: tree.GraphMatch,
) -> Frame:  # fmt: skip
    """The rows of ``graph-match``.

    Args:
        pipes: of the query.
        edges: the rows before ``make-graph``; read for their columns only.
        before: the query of those rows, planned again for each hop.
        graph: which columns are the ends, and which nodes there are.
        stage: the pattern.
    """
    return _Matcher(pipes, edges, before, graph, stage).matched()


class _Matcher:
    def __init__(
        self, pipes: Pipelines, edges: Frame, before: tree.Query, graph: tree.MakeGraph,
        stage: tree.GraphMatch,
    ) -> None:  # fmt: skip
        self.pipes, self.before, self.graph, self.stage = pipes, before, graph, stage
        for end in (graph.source, graph.target):
            pipes.lowering(edges).lower(end)
        self.points: dict[str, _Point] = {}
        self.edges: list[_Edge] = []
        self.paths: list[list[_Edge]] = []
        self.rest: list[tree.Expression] = []
        self.complete = self._is_complete()
        self._collect()

    def _is_complete(self) -> bool:
        """Whether every end of an edge is surely among the nodes, as for the tables themselves."""
        source = self.before.source
        nodes = self.graph.nodes
        return (
            isinstance(source, tree.Name) and TABLES.get(source.name) == "context_edges"
            and source.name not in self.pipes.declared.lets
            and all(isinstance(each, tree.Where) for each in self.before.operators)
            and (self.graph.source.name, self.graph.target.name) in (("src", "dst"), ("dst", "src"))
            and len(nodes) == 1 and isinstance(nodes[0][0].source, tree.Name)
            and TABLES.get(nodes[0][0].source.name) == "context_nodes"
            and nodes[0][0].source.name not in self.pipes.declared.lets
            and not nodes[0][0].operators and nodes[0][1].name == "id"
        )  # fmt: skip

    def _collect(self) -> None:
        names: set[str] = set()
        for path in self.stage.paths:
            points = [self._point(name) for name in path.points]
            found: list[_Edge] = []
            for position, hop in enumerate(path.hops):
                if hop.name is not None and (hop.name in names or hop.name in self.points):
                    self.pipes.refuse(hop.at, hop.name, "the name is used twice", "rename one")
                names.add(hop.name or "")
                edge = _Edge(hop, f"e{len(self.edges)}", points[position], points[position + 1])
                self.edges.append(edge)
                found.append(edge)
            self.paths.append(found)
        for edge in self.edges:
            if edge.hop.name in self.points:
                self.pipes.refuse(edge.hop.at, str(edge.hop.name), "the name is used twice")
        if len(self.points) + len(self.edges) > MAX_ELEMENTS:
            self.pipes.refuse(self.stage.at, "graph-match",
                              f"a pattern has at most {MAX_ELEMENTS} nodes and edges")  # fmt: skip

    def _point(self, name: str | None) -> _Point:
        key = name or f"({len(self.points)})"
        return self.points.setdefault(key, _Point(key))

    # -- the predicate

    def _distribute(self) -> None:
        """Give each conjunct to the one element that it speaks of, where there is one."""
        named = {edge.hop.name: edge for edge in self.edges if edge.hop.name}
        if self.stage.predicate is None:
            return
        for part in conjuncts(self.stage.predicate):
            match part:
                case tree.Call(name="all", arguments=(tree.Name() as variable, inner)):
                    edge = named.get(variable.name)
                    if edge is None:
                        self._unknown(variable, "all(e, predicate) speaks of an edge")
                    else:
                        edge.conditions.append(inner)
                    continue
                case _:
                    used = variables(part, {*self.points, *named})
            only = next(iter(used)) if len(used) == 1 else ""
            edge = named.get(only)
            if edge is not None and edge.hop.hops is None:
                edge.conditions.append(_bare(part, only))
            elif only in self.points and self.complete:
                self.points[only].conditions.append(_bare(part, only))
            else:
                self.rest.append(part)

    def _unknown(self, node: tree.Name, reason: str) -> None:
        self.pipes.refuse(node.at, node.name, reason, "name an edge of the pattern: -[e*1..3]->")

    def _key_conditions(self, edge: _Edge) -> list[tree.Expression]:
        """What is known of the ends of a hop by their keys alone, said of the edge's columns."""
        if edge.hop.direction == "both" or not self.complete:
            return []
        first, last = self.graph.source, self.graph.target
        if edge.hop.direction == "in":
            first, last = last, first
        ends = [(edge.start, first)]
        if edge.hop.hops is None:
            ends.append((edge.end, last))
        return [
            _named(condition, "id", end.name)
            for point, end in ends
            for condition in point.conditions
            if _only_names(condition, {"id"})
        ]

    # -- relations

    def _edge_rows(self, conditions: list[tree.Expression]) -> Frame:
        frame = self.pipes.query(self.before)
        for each in conditions:
            frame = where(self.pipes, frame, tree.Where(each.at, each.end, each))
        return frame

    def _node_rows(self, point: _Point) -> Frame:
        arms = [query for query, _ in self.graph.nodes]
        if len(arms) == 1:
            frame = self.pipes.query(arms[0])
        else:
            union = tree.Union(self.graph.at, self.graph.end, None, False, tuple(arms))
            frame = self.pipes.query(tree.Query(self.graph.at, self.graph.end, union, ()))
        for each in point.conditions:
            frame = where(self.pipes, frame, tree.Where(each.at, each.end, each))
        return frame

    # -- the whole

    def matched(self) -> Frame:
        """The joined pattern, projected."""
        self._distribute()
        maps = _maps(self.stage)
        joins: list[tuple[str, str, list[exp.Expr], str]] = []
        sides: dict[str, dict[str, Value]] = {}
        for edge in self.edges:
            edge.walk = self._walk(edge, maps.get(edge.hop.name or "", set()))
            on: list[exp.Expr] = []
            for point, end in ((edge.start, "_from"), (edge.end, "_to")):
                here = column(end, edge.alias)
                on += [exp.EQ(this=here, expression=known.copy()) for known in point.keys[:1]]
                point.keys.append(here)
            joins.append((edge.walk.frame.relation, edge.alias, on, "inner"))
            if edge.hop.name:
                sides[edge.hop.name] = edge.walk.columns(edge.alias)
        for number, point in enumerate(self.points.values()):
            self._join_nodes(point, f"n{number}", joins, sides)
        return self._project(joins, sides)

    def _walk(self, edge: _Edge, mapped: set[str]) -> Walk:
        conditions = [*edge.conditions, *self._key_conditions(edge)]
        if edge.hop.hops is not None:
            # What is known of the start holds for the first hop only.
            steps = self._edge_rows(edge.conditions)
            first = self._edge_rows(conditions) if conditions != edge.conditions else steps
        else:
            first = steps = self._edge_rows(conditions)
        ends = (self.graph.source.name, self.graph.target.name)
        shape = Edges(self.pipes, ends, edge.hop, unique=self.stage.cycles != "all")
        for name in mapped:
            if steps.find(name) is None:
                self.pipes.refuse(edge.hop.at, name, "edges have no such column")
        return shape.walk(first, steps, sorted(mapped))

    def _join_nodes(
        self, point: _Point, alias: str, joins: list[tuple[str, str, list[exp.Expr], str]],
        sides: dict[str, dict[str, Value]],
    ) -> None:  # fmt: skip
        named = not point.name.startswith("(")
        if not self.graph.nodes:
            if not point.keys:
                advice = "write make-graph src --> dst with context_nodes on id"
                self.pipes.refuse(
                    self.stage.at, "graph-match", "a lone node needs a node table", advice
                )
            sides[point.name] = {"node_id": Value(point.keys[0], "string")}
            return
        if point.keys and not named:
            return  # an edge's end is there; nothing is asked of it
        frame = self._node_rows(point)
        key = self._key_of(frame)
        columns = dict(frame.values(alias))
        on: list[exp.Expr] = [
            exp.EQ(this=columns[key].copy, expression=known.copy()) for known in point.keys[:1]
        ]
        joins.append((frame.relation, alias, on, "inner" if self.complete or not on else "left"))
        if point.keys:
            columns[key] = replace(columns[key], sql=point.keys[0])
        sides[point.name] = columns

    def _key_of(self, frame: Frame) -> str:
        names = {name.name for _, name in self.graph.nodes}
        if len(names) > 1:
            self.pipes.refuse(self.graph.at, "make-graph", "the node tables have different keys",
                              "rename them by project-rename")  # fmt: skip
        (_, key), *_ = self.graph.nodes
        self.pipes.lowering(frame).lower(key)
        return key.name

    def _project(
        self, joins: list[tuple[str, str, list[exp.Expr], str]],
        sides: dict[str, dict[str, Value]],
    ) -> Frame:  # fmt: skip
        (relation, alias, _, _), *others = joins
        rows = exp.select().from_(exp.to_table(relation, alias=alias))
        for name, other, on, kind in others:
            table = exp.to_table(name, alias=other)
            condition = exp.and_(*on, copy=False) if on else None
            rows = rows.join(table, on=condition, join_type=kind if on else "cross", copy=False)
        columns = {key: value for key, value in sides.items() if not key.startswith("(")}
        lowering = Lowering(self.pipes.plan, self.pipes.declared, {}, sides=columns)
        for part in self.rest:
            rows = rows.where(lowering.condition(_special(part)), copy=False)
        for condition in self._cycles():
            rows = rows.where(condition, copy=False)
        items = tuple(
            replace(each, expression=_special(each.expression)) for each in self.stage.items
        )
        found = named_values(lowering, items)
        for expression in selected(found):
            rows = rows.select(expression, copy=False)
        return self.pipes.plan.stage(rows, found)

    def _cycles(self) -> list[exp.Expr]:
        conditions: list[exp.Expr] = []
        for path in self.paths:
            if self.stage.cycles == "all":
                continue
            for at, one in enumerate(path):
                assert one.walk is not None
                conditions += [
                    one.walk.apart(one.alias, other.walk, other.alias)
                    for other in path[at + 1 :] if other.walk is not None
                ]  # fmt: skip
            if self.stage.cycles == "none":
                conditions += self._distinct_points(path)
        return conditions

    def _distinct_points(self, path: list[_Edge]) -> list[exp.Expr]:
        if any(edge.hop.hops for edge in path):
            self.pipes.refuse(self.stage.at, "cycles", "cycles=none needs hops of fixed length",
                              "leave it out, or write the hops one by one")  # fmt: skip
        keys = [column("_from", path[0].alias)] if path else []
        keys += [column("_to", edge.alias) for edge in path]
        return [
            exp.NEQ(this=one.copy(), expression=other.copy())
            for at, one in enumerate(keys) for other in keys[at + 1 :]
        ]  # fmt: skip


# -- rewriting


def _bare(node: tree.Expression, variable: str) -> tree.Expression:
    """``a.name`` as ``name``, for a predicate on the rows of ``a``."""

    def bare(found: tree.Expression) -> tree.Expression | None:
        match found:
            case tree.Member(subject=tree.Name(name=name)) if name == variable:
                return tree.Name(found.at, found.end, found.key)
            case _:
                return None

    return rewritten(node, bare)


def _named(node: tree.Expression, old: str, new: str) -> tree.Expression:
    def renamed(found: tree.Expression) -> tree.Expression | None:
        return (
            replace(found, name=new) if isinstance(found, tree.Name) and found.name == old else None
        )

    return rewritten(node, renamed)


def _only_names(node: tree.Expression, allowed: set[str]) -> bool:
    names: set[str] = set()

    def seen(found: tree.Expression) -> None:
        if isinstance(found, tree.Name):
            names.add(found.name)
        if isinstance(found, tree.Nested):
            names.add("(query)")

    rewritten(node, seen)
    return bool(names) and names <= allowed


def _special(node: tree.Expression) -> tree.Expression:
    """``array_length(e)`` and ``map(e, column)`` as columns of the walk."""

    def special(found: tree.Expression) -> tree.Expression | None:
        match found:
            case tree.Call(name="array_length", arguments=(tree.Name() as edge,)):
                return tree.Member(found.at, found.end, edge, HOPS)
            case tree.Call(name="map", arguments=(tree.Name() as edge, tree.Name() as key)):
                return tree.Member(found.at, found.end, edge, f"_map:{key.name}")
            case _:
                return None

    return rewritten(node, special)


def _maps(stage: tree.GraphMatch) -> dict[str, set[str]]:
    """The columns that ``map(e, column)`` asks for, by edge."""
    found: dict[str, set[str]] = {}

    def seen(node: tree.Expression) -> None:
        match node:
            case tree.Call(name="map", arguments=(tree.Name() as edge, tree.Name() as key)):
                found.setdefault(edge.name, set()).add(key.name)
            case _:
                pass

    for each in stage.items:
        rewritten(each.expression, seen)
    if stage.predicate is not None:
        rewritten(stage.predicate, seen)
    return found
