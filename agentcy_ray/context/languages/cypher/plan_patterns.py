"""Graph patterns as joins.

A pattern is walked from its best-known node outwards: each hop joins the edges, then the nodes at
their far ends. Several hops of unknown number are unrolled, one branch for each number. No
relationship comes twice in one ``MATCH``. Both ends of an edge are joined, so an edge with a hidden
end is hidden.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

from sqlglot import Expr, exp

from agentcy_ray.context.languages.cypher import operators, sql, tree, values
from agentcy_ray.context.languages.cypher.frames import Frame, Seed, columns_of
from agentcy_ray.context.languages.cypher.plan_expressions import ExpressionPlanner
from agentcy_ray.context.languages.cypher.plan_ids import known_ids, pattern_ids
from agentcy_ray.context.languages.cypher.plan_lists import imports
from agentcy_ray.context.languages.cypher.plan_properties import label_test, property_of
from agentcy_ray.context.languages.cypher.plan_walks import (
    Steps,
    column_name,
    edges_relation,
    nodes_relation,
    reached_from,
    trail_of,
    unlisted,
    walk_edges,
)
from agentcy_ray.context.languages.cypher.refusal import refuse
from agentcy_ray.context.languages.cypher.values import Value

_TURNED = {"out": "in", "in": "out", "both": "both"}


@dataclass(frozen=True, slots=True)
class _Segment:
    """What lies between two nodes of a path: edges, and the nodes after the left one."""

    edges: Value
    after: Value
    trail: Expr


@dataclass(slots=True)
class _Walk:
    """One ``MATCH`` while it is planned: known ids, edges used so far."""

    ids: Mapping[str, tuple[str, ...]]
    single: list[Expr]
    many: list[Expr]
    whole: bool = False
    """Whether the path that is walked has a name, so that all of it is wanted."""


class PatternPlanner(ExpressionPlanner):
    """Plans ``MATCH``."""

    _shortest_ids: Expr | None = None

    def match(self, clause: tree.Match, frame: Frame) -> None:
        """Bind a pattern's variables; rows without a match go, unless it is optional."""
        shortest = clause.paths[0].shortest
        if not clause.optional and not shortest:
            self._match(clause, frame)
            return
        if shortest and frame.unit:
            self._match(clause, frame)
            self._only_shortest(clause.paths[0], frame, [])
            return
        inner, pairs = frame.imported(imports(clause, frame))
        self._match(clause, inner)
        if shortest:
            self._only_shortest(clause.paths[0], inner, [there for _, there in pairs])
        found = {
            name: unlisted(value)
            for name, value in inner.bindings.items()
            if name not in frame.bindings
        }
        self.bring_back(frame, inner, pairs, found, outer=clause.optional)

    def bring_back(
        self, frame: Frame, inner: Frame, pairs: list[tuple[Expr, Expr]],
        found: dict[str, Value], *, outer: bool,
    ) -> None:  # fmt: skip
        """Join what an imported frame found to the rows that it was imported from."""
        kept = inner.keep(found)
        columns = dict.fromkeys(name for value in kept.values() for name in columns_of(value))
        frame.rejoin(inner, pairs, columns, outer=outer)
        frame.bindings |= kept

    def end_of(self, edge: Value, end: str, frame: Frame) -> Value:
        """The node at an end of an edge, looked up by its id."""
        if edge.kind == "any":
            edge = values.of_tagged(edge.sql, "edge")
        if edge.kind != "edge" or edge.fields is None:
            refuse("startNode" if end == "src" else "endNode", "this is no relationship",
                   "give a relationship")  # fmt: skip
        fields, query = nodes_relation(self.plan, [])
        same = exp.EQ(this=edge.fields[end], expression=fields["id"])
        rows = frame.select().select(*fields.values(), copy=False)
        frame.advance(
            rows.join(query, on=same, join_type="left", copy=False),
            [column_name(each) for each in fields.values()],
        )
        return values.entity("node", fields)

    def _match(self, clause: tree.Match, frame: Frame) -> None:
        walk = _Walk(dict(known_ids(clause, self.params)), [], [])
        for path in clause.paths:
            walk.whole = path.variable is not None
            self._path(path, frame, walk)
        self._shortest_ids = walk.many[0] if clause.paths[0].shortest else None
        if clause.where is not None:
            frame.filter(self.condition(clause.where, frame))

    # -- paths

    def _path(self, path: tree.Path, frame: Frame, walk: _Walk) -> None:
        count = len(path.nodes)
        anchor = next(
            (at for at, node in enumerate(path.nodes)
             if node.variable in frame.bindings or pattern_ids(node, walk.ids, self.params)), 0,
        )  # fmt: skip
        nodes: dict[int, Value] = {anchor: self._start(path.nodes[anchor], frame, walk)}
        segments: dict[int, _Segment] = {}
        for at in range(anchor, count - 1):
            nodes[at + 1], segments[at] = self._hop(
                nodes[at], path.relationships[at], path.nodes[at + 1], frame, walk, forward=True
            )
        for at in range(anchor - 1, -1, -1):
            nodes[at], segments[at] = self._hop(
                nodes[at + 1], path.relationships[at], path.nodes[at], frame, walk, forward=False
            )
        if path.variable is not None:
            ordered = [segments[at] for at in range(count - 1)]
            frame.bindings[path.variable] = _whole_path(nodes[0], ordered)

    def _start(self, node: tree.NodePattern, frame: Frame, walk: _Walk) -> Value:
        bound = self._bound_node(node, frame)
        if bound is None:
            ids = pattern_ids(node, walk.ids, self.params)
            seed = None if ids is None else Seed(ids)
            fields, query = nodes_relation(self.plan, [] if seed is None else [seed.holds("id")])
            if frame.unit:
                select = exp.select(*fields.values(), copy=False).from_(query, copy=False)
                frame.columns = []
            else:
                select = (
                    frame
                    .select()
                    .select(*fields.values(), copy=False)
                    .join(query, join_type="cross", copy=False)
                )
            frame.advance(select, [column_name(each) for each in fields.values()])
            bound = self._bind(node, fields, seed, frame)
        self._check_node(node, bound, frame)
        return bound

    def _bound_node(self, node: tree.NodePattern, frame: Frame) -> Value | None:
        value = frame.bindings.get(node.variable or "")
        if value is None:
            return None
        if value.kind == "any":
            mark = values.has_tag(values.to_any(value), "N")
            frame.filter(mark)
            return values.of_tagged(value.sql, "node")
        if value.kind != "node":
            refuse(node.variable or "", f"{node.variable} is no node", "use another name")
        return value

    def _bind(
        self, node: tree.NodePattern, fields: dict[str, Expr], seed: Seed | None, frame: Frame
    ) -> Value:
        value = values.entity("node", fields)
        if seed is not None:
            frame.seeds[column_name(fields["id"])] = seed
        if node.variable is not None:
            frame.bindings[node.variable] = value
        return value

    def _check_node(self, node: tree.NodePattern, value: Value, frame: Frame) -> None:
        assert value.fields is not None
        tests: list[Expr] = []
        if node.labels is not None:
            tests.append(label_test(node.labels, value.fields, node=True))
        tests += self._property_tests(node.properties, value, frame)
        if node.where is not None:
            tests.append(self.condition(node.where, frame))
        if tests:
            frame.filter(sql.all_of(tests))

    def _property_tests(
        self, properties: tree.MapOf | None, value: Value, frame: Frame
    ) -> list[Expr]:
        return [
            operators.equals(property_of(value, key, self.plan.scope), self.expression(each, frame))
            for key, each in (properties.entries if properties else ())
        ]

    # -- hops

    def _hop(
        self, start: Value, relationship: tree.RelationshipPattern, node: tree.NodePattern,
        frame: Frame, walk: _Walk, *, forward: bool,
    ) -> tuple[Value, _Segment]:  # fmt: skip
        direction = relationship.direction if forward else _TURNED[relationship.direction]
        if relationship.hops is not None:
            return self._hops(start, relationship, direction, node, frame, walk, forward=forward)
        edge, far = self._edge(start, relationship, direction, frame, walk)
        if relationship.where is not None or relationship.variable is not None:
            self._bind_edge(relationship, edge, frame)
        end = self._far_node(start, relationship, direction, node, far, frame, walk)
        left_to_right = end if forward else start
        return end, _Segment(
            values.list_of([edge]),
            values.list_of([left_to_right]),
            trail_of([(edge, left_to_right)]),
        )

    def _bind_edge(self, relationship: tree.RelationshipPattern, edge: Value, frame: Frame) -> None:
        name = relationship.variable
        before = frame.bindings.get(name or "")
        if before is not None:
            frame.filter(operators.equals(edge, before))
        if name is None:
            name = self.plan.mint("_edge")
        frame.bindings[name] = edge
        if relationship.where is not None:
            frame.filter(self.condition(relationship.where, frame))
        if relationship.variable is None:
            del frame.bindings[name]

    def _edge(
        self, start: Value, relationship: tree.RelationshipPattern, direction: str,
        frame: Frame, walk: _Walk,
    ) -> tuple[Value, Expr]:  # fmt: skip
        """Join one hop's edges; gives the edge and the id of its far end."""
        seed = _seed(start, frame)
        fields, near, far, relation = edges_relation(self.plan, relationship.types, direction, seed)
        assert start.fields is not None
        added = [*fields.values(), near, far]
        frame.advance(
            frame.select().select(*added, copy=False).join(
                relation, on=exp.EQ(this=start.fields["id"], expression=near), copy=False
            ),
            [column_name(each) for each in added],
        )  # fmt: skip
        edge = values.entity("edge", fields)
        tests = self._property_tests(relationship.properties, edge, frame)
        tests += [sql.compare("<>", fields["id"], other) for other in walk.single]
        tests += [sql.negate(_held(other, fields["id"])) for other in walk.many]
        if relationship.variable not in frame.bindings:  # one bound before may be met again
            walk.single.append(fields["id"])
        if tests:
            frame.filter(sql.all_of(tests))
        return edge, far

    def _far_node(
        self, start: Value, relationship: tree.RelationshipPattern, direction: str,
        node: tree.NodePattern, far: Expr, frame: Frame, walk: _Walk,
    ) -> Value:  # fmt: skip
        bound = self._bound_node(node, frame)
        if bound is not None:
            assert bound.fields is not None
            frame.filter(sql.compare("=", far, bound.fields["id"]))
        else:
            ids = pattern_ids(node, walk.ids, self.params)
            reached = reached_from(_seed(start, frame), relationship.types, direction)
            fields = self._join_node(far, [Seed(ids)] if ids is not None else [], reached, frame)
            bound = self._bind(node, fields, Seed(ids) if ids is not None else reached, frame)
        self._check_node(node, bound, frame)
        return bound

    def _join_node(
        self, far: Expr, known: list[Seed], reached: Seed | None, frame: Frame
    ) -> dict[str, Expr]:
        seeds = known or ([] if reached is None else [reached])
        fields, query = nodes_relation(self.plan, [seed.holds("id") for seed in seeds])
        frame.advance(
            frame.select().select(*fields.values(), copy=False).join(
                query, on=exp.EQ(this=far, expression=fields["id"]), copy=False
            ),
            [column_name(each) for each in fields.values()],
        )  # fmt: skip
        return fields

    def _hops(
        self, start: Value, relationship: tree.RelationshipPattern, direction: str,
        node: tree.NodePattern, frame: Frame, walk: _Walk, *, forward: bool,
    ) -> tuple[Value, _Segment]:  # fmt: skip
        """Several hops; see ``plan_walks``."""
        steps = Steps(
            types=relationship.types,
            direction=direction,
            hops=cast("tuple[int, int]", relationship.hops),
            forward=forward,
            edges=relationship.variable is not None or walk.whole,
            path=walk.whole,
        )
        seed = _seed(start, frame)
        # What a property must equal is known before the walk, which sees no other variables.
        wanted = [(key, self.expression(each, frame)) for key, each in (
            relationship.properties.entries if relationship.properties else ()
        )]  # fmt: skip
        if any(value.constant is values.UNSET for _, value in wanted):
            refuse(wanted[0][0], "a property of several hops is compared with a value that varies",
                   "write WHERE all(r IN rs WHERE r.key = …) after the pattern")  # fmt: skip

        def test(edge: Value) -> list[Expr]:
            return [
                operators.equals(property_of(edge, key, self.plan.scope), value)
                for key, value in wanted
            ]

        found = walk_edges(self.plan, frame, start, steps, seed, test)
        ids = sql.col(found.ids)
        taken = [_held(ids, other) for other in walk.single]
        taken += [
            sql.function("coalesce", sql.function("array_has_any", ids, other), sql.FALSE)
            for other in walk.many
        ]
        if taken:
            frame.filter(sql.negate(sql.any_of(taken)))
        walk.many.append(ids)
        at = sql.col(found.at)
        bound = self._bound_node(node, frame)
        if bound is not None:
            assert bound.fields is not None
            frame.filter(sql.compare("=", at, bound.fields["id"]))
        else:
            known = pattern_ids(node, walk.ids, self.params)
            end_seed = Seed(known) if known is not None else found.seed
            fields = self._join_node(at, [], end_seed, frame)
            bound = self._bind(node, fields, end_seed, frame)
        edges = values.array_of(sql.col(found.edges) if steps.edges else ids, "edge")
        if relationship.variable is not None:
            frame.bindings[relationship.variable] = edges
        self._check_node(node, bound, frame)
        after = values.array_of(sql.col(found.after) if steps.path else ids, "node")
        trail: Expr = sql.col(found.trail) if steps.path else sql.lit("")
        return bound, _Segment(edges, after, trail)

    def _only_shortest(self, path: tree.Path, frame: Frame, keys: list[Expr]) -> None:
        """Keep one shortest path between each pair of ends."""
        ids = self._shortest_ids
        assert ids is not None
        ends: list[Expr] = []
        for node in path.nodes:
            fields = frame.bindings[node.variable or ""].fields
            assert fields is not None
            ends.append(fields["id"])
        # There is no path to find from a node to itself; see ``scope``.
        frame.filter(sql.compare("<>", ends[0], ends[1]))
        order = (sql.function("array_length", ids), sql.function("array_to_string", ids, " "))
        rank = exp.Window(
            this=sql.function("row_number"),
            partition_by=[*keys, *ends],
            order=exp.Order(
                expressions=[exp.Ordered(this=each, nulls_first=False) for each in order]
            ),
        )
        column = self.plan.mint("x")
        frame.add({column: rank})
        frame.filter(sql.compare("=", sql.col(column), sql.number(1)))


def named_shortest(clause: tree.Match, mint: Any) -> tree.Match:
    """The same clause with names for the ends that ``shortestPath`` is ranked by."""
    path = clause.paths[0]
    if not path.shortest:
        return clause
    nodes = tuple(replace(n, variable=n.variable or mint("_node")) for n in path.nodes)
    relationships = tuple(replace(r, hops=r.hops or (1, 1)) for r in path.relationships)
    named = replace(path, nodes=nodes, relationships=relationships)
    return replace(clause, paths=(named,))


def _seed(value: Value, frame: Frame) -> Seed | None:
    assert value.fields is not None
    column = value.fields["id"]
    return frame.seeds.get(column.name) if isinstance(column, exp.Column) else None


def _held(ids: Expr, id_: Expr) -> Expr:
    return sql.function("coalesce", sql.function("array_has", ids, id_), sql.FALSE)


def _whole_path(first: Value, segments: list[_Segment]) -> Value:
    nodes, edges = values.list_of([first]), values.list_of([])
    text = sql.joined([sql.lit("P"), values.escaped(values.slim(first)),
                       *(segment.trail for segment in segments)])  # fmt: skip
    for segment in segments:
        nodes = operators.plus(nodes, segment.after)
        edges = segment.edges if edges.items == () else operators.plus(edges, segment.edges)
    return Value("path", text, parts=(replace(nodes, item="node"), replace(edges, item="edge")))
