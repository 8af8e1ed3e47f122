"""The relations that patterns are joined from, and walks of several hops.

A walk is a recursive step over edges alone. It starts from the distinct start nodes and carries
ids, so the engine computes each hop once however many rows begin there, and the text does not grow
with the number of hops. The rows that began a walk are joined to its ends afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import cast

from sqlglot import Expr, exp

from agentcy_ray.context.languages.current import EDGE_COLUMNS, NODE_COLUMNS
from agentcy_ray.context.languages.cypher import sql, tree, values
from agentcy_ray.context.languages.cypher.frames import Frame, Plan, Seed, united
from agentcy_ray.context.languages.cypher.plan_properties import label_test
from agentcy_ray.context.languages.cypher.values import Value
from agentcy_ray.context.languages.facts import ITEM


@dataclass(frozen=True, slots=True)
class Steps:
    """What a walk may take, and what it must remember.

    ``forward`` says that it goes from left to right of the pattern; ``edges`` that the
    relationships are wanted, ``path`` that the nodes between are too.
    """

    types: tree.LabelExpression | None
    direction: str
    hops: tuple[int, int]
    forward: bool
    edges: bool
    path: bool


@dataclass(frozen=True, slots=True)
class Walked:
    """Columns of a walk, from left to right of the pattern, and a superset of where it ends.

    ``at`` is the id of the far end, ``ids`` those of the edges; ``edges`` and ``after`` (the nodes
    after the left end) are arrays of items, ``trail`` is their text in a path.
    """

    at: str
    ids: str
    edges: str
    after: str
    trail: str
    seed: Seed | None


def orientations(direction: str) -> list[tuple[str, str]]:
    """The columns to come from and to go to; both ways for undirected edges."""
    out, in_ = ("src", "dst"), ("dst", "src")
    return {"out": [out], "in": [in_]}.get(direction, [out, in_])


def nodes_relation(plan: Plan, pushed: list[Expr]) -> tuple[dict[str, Expr], Expr]:
    """Visible nodes under fresh column names, and those names by field."""
    names = {field: plan.mint(f"{field}_") for field in NODE_COLUMNS}
    rows = plan.nodes(pushed).subquery("n", copy=False)
    query = exp.select(
        *(sql.alias(sql.col(f), name) for f, name in names.items()), copy=False
    ).from_(rows, copy=False)
    return {f: sql.col(name) for f, name in names.items()}, query.subquery(
        plan.mint("j"), copy=False
    )


def edges_relation(
    plan: Plan, types: tree.LabelExpression | None, direction: str, seed: Seed | None
) -> tuple[dict[str, Expr], Expr, Expr, Expr]:
    """Visible edges as fields, the end to come from, the end to go to, and the relation."""
    names = {field: plan.mint(f"{field}_") for field in EDGE_COLUMNS}
    near, far = plan.mint("near_"), plan.mint("far_")
    branches: list[exp.Query] = []
    for from_, to in orientations(direction):
        pushed = [] if seed is None else [seed.holds(from_)]
        if types is not None:
            pushed.append(_type_test(types))
        rows = exp.select(
            *(sql.alias(sql.col(field), name) for field, name in names.items()),
            sql.alias(sql.col(from_), near), sql.alias(sql.col(to), far), copy=False
        ).from_(plan.edges(pushed).subquery("e", copy=False), copy=False)  # fmt: skip
        if branches:  # a loop is met once
            rows = rows.where(exp.NEQ(this=sql.col("src"), expression=sql.col("dst")), copy=False)
        branches.append(rows)
    relation = exp.Subquery(
        this=united(branches), alias=exp.TableAlias(this=exp.to_identifier(plan.mint("j")))
    )
    fields: dict[str, Expr] = {field: sql.col(name) for field, name in names.items()}
    return fields, sql.col(near), sql.col(far), relation


def _type_test(types: tree.LabelExpression) -> Expr:
    """The types of a pattern over the raw columns of edges."""
    return label_test(types, {"type": sql.col("type"), "id": sql.col("id")}, node=False)


def reached_from(
    seed: Seed | None, types: tree.LabelExpression | None, direction: str
) -> Seed | None:  # fmt: skip
    """A superset of where the edges lead that start in a seed."""
    if seed is None:
        return None
    test = None if types is None else _type_test(types)
    return Seed(query=united(seed.hop(a, b, test) for a, b in orientations(direction)))


def column_name(column: Expr) -> str:
    """The name of a column expression."""
    return cast("exp.Column", column).name


def trail_of(steps: list[tuple[Value, Value]]) -> Expr:
    """Edges and nodes in turn as they stand in the text of a path."""
    parts: list[Expr] = []
    for edge, node in steps:
        for each in (edge, node):
            parts += [sql.lit(ITEM), values.escaped(values.slim(each))]
    return sql.joined(parts) if parts else sql.lit("")


def walk_edges(
    plan: Plan,
    frame: Frame,
    start: Value,
    steps: Steps,
    seed: Seed | None,
    test: Callable[[Value], list[Expr]],
) -> Walked:
    """Join every walk from the start node to the rows of a frame.

    Args:
        plan: the query's.
        frame: its rows; each comes once for each walk.
        start: a node of them.
        steps: the edges to take.
        seed: a superset of the start nodes.
        test: what must hold for each edge besides.
    """
    assert start.fields is not None
    low, high = steps.hops
    reached, end_seed = _seeds(seed, steps)
    names = {part: plan.mint(f"{part}_") for part in (
        "start", "at", "hops", "ids", "edges", "after", "trail", "node", "slim",
    )}  # fmt: skip
    carried = ["start", "at", "hops", "ids"]
    carried += ["edges"] if steps.edges else []
    carried += ["after", "trail", "node", "slim"] if steps.path else []
    starts = _starts(plan, frame, start, names)

    def make(name: str) -> exp.Query:
        first: dict[str, Expr] = {
            "start": sql.col(names["start"]),
            "at": sql.col(names["start"]),
            "hops": sql.number(0),
            "ids": sql.empty_array(),
            "edges": sql.empty_array(),
            "after": sql.empty_array(),
            "trail": sql.lit(""),
            "node": sql.col(names["node"]),
            "slim": sql.col(names["slim"]),
        }
        begin = exp.select(
            *(sql.alias(first[part], names[part]) for part in carried), copy=False
        ).from_(starts, copy=False)
        return exp.Union(this=begin, expression=_step(plan, name, names, carried, steps, reached,
                                                      high, test), distinct=False)  # fmt: skip

    walked = plan.recursive(make)
    shown = [part for part in carried if part not in ("hops", "start", "node", "slim")]
    key = plan.mint("k")
    columns = [sql.alias(sql.col(names["start"]), key), *(sql.col(names[part]) for part in shown)]
    enough = sql.compare(">=", sql.col(names["hops"]), sql.number(low))
    rows = exp.select(*columns, copy=False).from_(walked, copy=False).where(enough, copy=False)
    frame.advance(
        frame.select().select(*(sql.col(names[part]) for part in shown), copy=False).join(
            rows.subquery(plan.mint("j"), copy=False),
            on=exp.EQ(this=start.fields["id"], expression=sql.col(key)), copy=False
        ),
        [names[part] for part in shown],
    )  # fmt: skip
    return Walked(names["at"], names["ids"], names["edges"], names["after"], names["trail"],
                  end_seed)  # fmt: skip


def _starts(plan: Plan, frame: Frame, start: Value, names: dict[str, str]) -> str:
    """The distinct start nodes, each with the texts that paths begin with."""
    assert start.fields is not None
    id_ = start.fields["id"]
    texts = {"node": values.escaped(start), "slim": values.escaped(values.slim(start))}
    columns = [sql.alias(_text(id_), names["start"])]
    columns += [sql.alias(_text(sql.function("min", e)), names[part]) for part, e in texts.items()]
    there = sql.is_null(id_, negated=True)
    query = exp.select(*columns, copy=False).from_(frame.name, copy=False).where(there, copy=False)
    return plan.step(query.group_by(id_, copy=False))


def _step(
    plan: Plan, name: str, names: dict[str, str], carried: list[str], steps: Steps,
    reached: Seed | None, high: int, test: Callable[[Value], list[Expr]],
) -> exp.Select:  # fmt: skip
    """One hop further than the rows of the walk so far."""
    fields, near, far, edges = edges_relation(plan, steps.types, steps.direction, reached)
    node_fields, nodes = nodes_relation(plan, [])
    edge, node = values.entity("edge", fields), values.entity("node", node_fields)
    before = {part: sql.col(names[part]) for part in carried}
    next_: dict[str, Expr] = {
        "start": before["start"],
        "at": _text(far),
        "hops": sql.binary("+", before["hops"], sql.number(1)),
        "ids": _longer(before["ids"], fields["id"], steps.forward),
    }
    if steps.edges:
        next_["edges"] = _longer(before["edges"], values.escaped(edge), steps.forward)
    if steps.path:
        full, slim = values.escaped(node), values.escaped(values.slim(node))
        relation = values.escaped(values.slim(edge))
        comma = sql.lit(ITEM)
        if steps.forward:
            after, trail = full, [before["trail"], comma, relation, comma, slim]
        else:  # the node that is left comes after the edge
            after, trail = before["node"], [comma, relation, comma, before["slim"], before["trail"]]
        next_["after"] = _longer(before["after"], after, steps.forward)
        next_["trail"] = _text(sql.joined(trail))
        next_["node"], next_["slim"] = _text(full), _text(slim)
    met = sql.function("coalesce", sql.function("array_has", before["ids"], fields["id"]),
                       sql.FALSE)  # fmt: skip
    query = exp.select(
        *(sql.alias(next_[part], names[part]) for part in carried), copy=False
    ).from_(name, copy=False)
    query = query.join(edges, on=exp.EQ(this=before["at"], expression=near), copy=False)
    query = query.join(nodes, on=exp.EQ(this=far, expression=node_fields["id"]), copy=False)
    return query.where(
        sql.compare("<", before["hops"], sql.number(high)), sql.negate(met), *test(edge), copy=False
    )


def _seeds(seed: Seed | None, steps: Steps) -> tuple[Seed | None, Seed | None]:
    """Supersets of the nodes that edges are taken from, and of the nodes that a walk ends at."""
    if seed is None:
        return None, None
    low, high = steps.hops
    levels: list[Seed] = [seed]
    for _ in range(high):
        further = reached_from(levels[-1], steps.types, steps.direction)
        assert further is not None
        levels.append(further)
    return _any_of(levels[:high] or levels[:1]), _any_of(levels[low:])


def _any_of(seeds: list[Seed]) -> Seed:
    if len(seeds) == 1:
        return seeds[0]
    return Seed(query=united(seed.as_query() for seed in seeds))


def _longer(items: Expr, item: Expr, at_end: bool) -> Expr:
    single = sql.function("make_array", _text(item))
    both = (items, single) if at_end else (single, items)
    return sql.function("arrow_cast", sql.function("array_concat", *both), "List(Utf8)")


def _text(value: Expr) -> Expr:
    """A text of the one type that both parts of a recursive step must share."""
    return sql.function("arrow_cast", value, "Utf8")


def unlisted(value: Value) -> Value:
    """A path or list whose parts are columns, so that all of it is null where nothing matched."""
    if value.parts is not None:
        nodes, edges = (replace(part, items=None) for part in value.parts)
        return replace(value, parts=(nodes, edges))
    return replace(value, items=None) if value.items is not None else value
