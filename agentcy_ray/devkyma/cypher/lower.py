"""A Cypher query lowered to SQL over the tables of one registered graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from agentcy_ray.devkyma.catalog import Graph
from agentcy_ray.devkyma.cypher.expressions import Check, Item, condition, items, prop
from agentcy_ray.devkyma.cypher.patterns import Patterns, Reach, read_patterns
from agentcy_ray.devkyma.cypher.tokens import cypher_error, read_cypher
from agentcy_ray.devkyma.kql.patterns import GraphTables, joined
from agentcy_ray.devkyma.kql.walks import Walk, reached, shortest_between
from agentcy_ray.devkyma.reader import Reader
from agentcy_ray.devkyma.sqltext import named, quoted
from agentcy_ray.devkyma.types import Columns

Schemas = Mapping[str, Columns]


def lower_cypher(text: str, schemas: Schemas, graph: Graph) -> str:
    """SQL for a Cypher query.

    Raises:
        EngineError: 400 ``cypher_parse_error`` for anything that kyma does not read.
    """
    query = _Query(text, schemas, graph)
    return query.sql()


class _Query:
    def __init__(self, text: str, schemas: Schemas, graph: Graph) -> None:
        self._reader = read_cypher(text)
        self._schemas = schemas
        self._graph = graph
        self._tables = GraphTables(
            named(graph.edge_table),
            graph.src_col,
            graph.dst_col,
            graph.node_table,
            graph.id_col,
            label=graph.label_col,
        )
        self._patterns = Patterns()
        self._where: list[str] = []

    def sql(self) -> str:
        """Read the whole query."""
        reader = self._reader
        while not reader.accept("RETURN"):
            optional = reader.accept("OPTIONAL")
            reader.expect("MATCH")
            read_patterns(reader, self._patterns, optional=optional)
            if self._patterns.path is not None:
                return self._shortest()
            if reader.accept("WHERE"):
                self._where.append(condition(reader, self._check))
        if not self._patterns.segments:
            raise cypher_error("a query begins with MATCH")
        return self._returned()

    def _returned(self) -> str:
        reader = self._reader
        distinct = "DISTINCT " if reader.accept("DISTINCT") else ""
        shown = items(reader, self._check, self._columns)
        select = ", ".join(f"{item.sql} AS {named(item.name)}" for item in shown)
        sql = f"SELECT {distinct}{select} FROM {self._source()}"
        if self._where:
            sql += " WHERE " + " AND ".join(self._where)
        keys = [item.sql for item in shown if not item.aggregate]
        if keys and len(keys) < len(shown):
            sql += " GROUP BY " + ", ".join(keys)
        return sql + _order(reader, self._check) + _limit(reader)

    def _source(self) -> str:
        if self._patterns.reach is None:
            return joined(self._patterns.segments, self._tables, self._schemas)
        return self._reached(self._patterns.reach)

    def _reached(self, reach: Reach) -> str:
        """The ends of a variable length, each pair once, as columns ``variable.column``."""
        segment = self._patterns.segments[0]
        walk = self._walk(reach, ())
        columns = [c.name for c in self._schemas.get(self._graph.node_table, ())]
        parts: list[str] = []
        joins = f"{reached(walk, reach.shortest, 'src', 'dst')} AS __w"
        for node, end in zip(segment.nodes, ("src", "dst"), strict=True):
            alias = named(node)
            on = f"{alias}.{named(self._graph.id_col)} = __w.{end}"
            if (label := segment.labels.get(node)) is not None:
                on += f" AND {alias}.{named(self._graph.label_col)} = {quoted(label)}"
            joins += f" JOIN {named(self._graph.node_table)} AS {alias} ON {on}"
            parts += [f"{alias}.{named(c)} AS {named(f'{node}.{c}')}" for c in columns]
        return f"(SELECT {', '.join(parts)} FROM {joins})"

    def _shortest(self) -> str:
        reader, patterns = self._reader, self._patterns
        reach, segment = patterns.reach, patterns.segments[0]
        if reach is None or len(patterns.segments) > 1:
            raise cypher_error("shortestPath has to be the only pattern")
        reader.expect("WHERE")
        pinned = dict([self._pin()])
        reader.expect("AND")
        pinned |= dict([self._pin()])
        if set(pinned) != set(segment.nodes):
            raise cypher_error("shortestPath needs both ends pinned by their id")
        reader.expect("RETURN")
        if (reader.word(), reader.accept("(")) != ("length", True):
            raise cypher_error("of a path only length(p) can be returned")
        if reader.word() != patterns.path:
            raise cypher_error("of a path only length(p) can be returned")
        reader.expect(")")
        if reader.token.kind != "end":
            raise reader.unexpected("the end")
        source, target = segment.nodes
        walk = self._walk(reach, (pinned[source],))
        return f"SELECT depth FROM {shortest_between(walk, pinned[target])}"

    def _pin(self) -> tuple[str, str]:
        reader = self._reader
        variable = reader.word()
        reader.expect(".")
        if reader.word() != self._graph.id_col:
            raise cypher_error("shortestPath needs both ends pinned by their id")
        reader.expect("=")
        return variable, reader.text()

    def _walk(self, reach: Reach, seeds: tuple[str, ...]) -> Walk:
        graph = self._graph
        walk = Walk(self._tables.edges, seeds, graph.src_col, graph.dst_col, reach.longest)
        return replace(walk, direction=reach.direction, kind=reach.kind)

    def _check(self, variable: str) -> None:
        known = self._patterns.nodes
        if self._patterns.reach is None:
            known = known | self._patterns.edges
        if variable not in known:
            raise cypher_error(f"unknown variable: {variable}")

    def _columns(self, variable: str) -> list[Item]:
        if variable not in self._patterns.nodes:
            raise cypher_error(f"a relationship is returned by its properties: {variable}.type")
        return [
            Item(named(f"{variable}.{column}"), f"{variable}_{name}")
            for column, name in ((self._graph.id_col, "id"), (self._graph.label_col, "label"))
        ]


def _order(reader: Reader, check: Check) -> str:
    if not reader.accept("ORDER", "BY"):
        return ""
    keys: list[str] = []
    while True:
        sql, _ = prop(reader, check)
        keys.append(f"{sql} {'DESC' if reader.accept('DESC') else 'ASC'}")
        reader.accept("ASC")
        if not reader.accept(","):
            return " ORDER BY " + ", ".join(keys)


def _limit(reader: Reader) -> str:
    sql = f" LIMIT {reader.integer()}" if reader.accept("LIMIT") else ""
    if reader.token.kind != "end":
        raise reader.unexpected("the end")
    return sql
