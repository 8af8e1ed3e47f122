"""``make-graph | graph-match``: fixed patterns as plain joins, where duplicates multiply."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from agentcy_ray.devkyma.kql.tokens import kql_error
from agentcy_ray.devkyma.reader import Reader
from agentcy_ray.devkyma.sqltext import named, quoted
from agentcy_ray.devkyma.types import Columns


@dataclass(frozen=True, slots=True)
class GraphTables:
    """Where a pattern's nodes and edges lie; ``edges`` is SQL, the others are column names."""

    edges: str
    src: str
    dst: str
    nodes: str
    id: str
    type: str = "type"
    label: str = "labels"


@dataclass(frozen=True, slots=True)
class Hop:
    """An edge variable, its type, and whether it points from the left node to the right."""

    edge: str
    kind: str | None = None
    forward: bool = True


@dataclass(slots=True)
class Segment:
    """A chain of nodes with one hop fewer than nodes; a label per node variable, if given."""

    nodes: list[str]
    hops: list[Hop]
    labels: dict[str, str] = field(default_factory=dict[str, str])
    optional: bool = False


def make_graph(reader: Reader, edges: str) -> GraphTables:
    """Read ``src --> dst with nodes on id``."""
    src = reader.word()
    reader.expect("-->")
    dst = reader.word()
    reader.expect("with")
    nodes = reader.word()
    reader.expect("on")
    return GraphTables(edges, src, dst, nodes, reader.word())


def graph_match(reader: Reader, graph: GraphTables, schemas: Mapping[str, Columns]) -> str:
    """Read segments and their ``project``; the whole as a sub-query."""
    segments = [_segment(reader)]
    while reader.accept(","):
        segments.append(_segment(reader))
    reader.expect("project")
    shown = [_shown(reader)]
    while reader.accept(","):
        shown.append(_shown(reader))
    columns = ", ".join(f"{sql} AS {named(name)}" for sql, name in shown)
    return f"(SELECT {columns} FROM {joined(segments, graph, schemas)})"


def joined(segments: Sequence[Segment], graph: GraphTables, schemas: Mapping[str, Columns]) -> str:
    """The segments joined on the node variables that they share.

    Columns are called ``variable.column``, in one identifier.

    Raises:
        EngineError: 400 when an edge variable occurs twice.
    """
    edge_names = [hop.edge for segment in segments for hop in segment.hops]
    if len(set(edge_names)) < len(edge_names):
        raise kql_error("an edge variable occurs twice")
    sql, bound = "", set[str]()
    for number, segment in enumerate(segments):
        alias = f"__s{number}"
        shared = [name for name in dict.fromkeys(segment.nodes) if name in bound]
        part = f"({_select(segment, graph, schemas, skip=shared, alias=alias)}) AS {alias}"
        bound |= set(segment.nodes)
        if not sql:
            sql = part
            continue
        on = " AND ".join(
            f"{alias}.{_key(alias, name)} = {named(f'{name}.{graph.id}')}" for name in shared
        )
        kind = "LEFT JOIN" if segment.optional else "JOIN"
        sql += f" {kind} {part} ON {on}" if on else f" CROSS JOIN {part}"
    return sql


def _select(
    segment: Segment,
    graph: GraphTables,
    schemas: Mapping[str, Columns],
    *,
    skip: Sequence[str],
    alias: str,
) -> str:
    """One segment; of the variables in ``skip`` only the id is given, under another name."""
    node_columns = [c.name for c in schemas.get(graph.nodes, ())] or [graph.id]
    edge_columns = _edge_columns(graph, schemas)
    select: list[str] = []
    joins = ""
    seen: set[str] = set()
    for index, node in enumerate(segment.nodes):
        table = f"{named(graph.nodes)} AS {named(node)}"
        on: list[str] = []
        if index:
            hop = segment.hops[index - 1]
            near, far = (graph.src, graph.dst) if hop.forward else (graph.dst, graph.src)
            left = segment.nodes[index - 1]
            link = f"{named(hop.edge)}.{named(near)} = {named(left)}.{named(graph.id)}"
            if hop.kind is not None:
                link += f" AND {named(hop.edge)}.{named(graph.type)} = {quoted(hop.kind)}"
            arrived = f"{named(node)}.{named(graph.id)} = {named(hop.edge)}.{named(far)}"
            if node in seen:
                link += f" AND {arrived}"
            joins += f" JOIN {graph.edges} AS {named(hop.edge)} ON {link}"
            on.append(arrived)
            select += [_export(hop.edge, column) for column in edge_columns]
        if node in seen:
            continue
        seen.add(node)
        if node in segment.labels:
            label = f"{named(node)}.{named(graph.label)} = {quoted(segment.labels[node])}"
            on.append(label)
        joins += f" JOIN {table} ON {' AND '.join(on)}" if index else table
        if not index and on:
            joins = f"(SELECT * FROM {named(graph.nodes)} WHERE {named(graph.label)} = " + (
                f"{quoted(segment.labels[node])}) AS {named(node)}"
            )
        if node in skip:
            select.append(f"{named(node)}.{named(graph.id)} AS {_key(alias, node)}")
        else:
            select += [_export(node, column) for column in node_columns]
    return f"SELECT {', '.join(select)} FROM {joins}"


def _edge_columns(graph: GraphTables, schemas: Mapping[str, Columns]) -> list[str]:
    table = graph.edges.strip('"')
    return [c.name for c in schemas.get(table, ())] or [graph.src, graph.dst, graph.type]


def _export(variable: str, column: str) -> str:
    return f"{named(variable)}.{named(column)} AS {named(f'{variable}.{column}')}"


def _key(alias: str, node: str) -> str:
    return named(f"{alias}.{node}")


def _segment(reader: Reader) -> Segment:
    optional = reader.accept("OPTIONAL")
    nodes, hops = [_node(reader)], list[Hop]()
    while reader.accept("-"):
        reader.expect("[")
        edge = reader.word("an edge variable")
        kind = reader.take().value if reader.accept(":") else None
        reader.expect("]")
        reader.expect("->")
        hops.append(Hop(edge, kind))
        nodes.append(_node(reader))
    if not hops:
        raise reader.unexpected("an edge")
    return Segment(nodes, hops, optional=optional)


def _node(reader: Reader) -> str:
    reader.expect("(")
    name = reader.word("a node variable")
    reader.expect(")")
    return name


def _shown(reader: Reader) -> tuple[str, str]:
    variable = reader.word()
    reader.expect(".")
    column = reader.word()
    name = reader.word() if reader.accept("as") else f"{variable}_{column}"
    return named(f"{variable}.{column}"), name
