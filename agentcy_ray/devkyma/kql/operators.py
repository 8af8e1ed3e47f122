"""The operators of kyma's KQL, collected into stages."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from agentcy_ray.devkyma.kql.expressions import aggregate, default_name, expression
from agentcy_ray.devkyma.kql.patterns import graph_match, make_graph
from agentcy_ray.devkyma.kql.stage import Stage
from agentcy_ray.devkyma.kql.tokens import kql_error, read_kql
from agentcy_ray.devkyma.kql.walks import shortest_path, traverse, var_length
from agentcy_ray.devkyma.reader import Reader
from agentcy_ray.devkyma.sqltext import named, quoted
from agentcy_ray.devkyma.types import Columns

Schemas = Mapping[str, Columns]

BRANCH = frozenset({"where", "sort", "order", "take", "limit"})


def lower_kql(text: str, schemas: Schemas) -> str:
    """SQL for a KQL query over tables of these columns.

    Raises:
        EngineError: 400 ``kql_parse_error`` for anything that kyma does not read.
    """
    reader = read_kql(text)
    stage = Stage(_union(reader, schemas) if reader.accept("union") else named(reader.word()))
    stage = _operators(reader, stage, schemas)
    if reader.token.kind != "end":
        raise reader.unexpected("'|' or the end")
    return stage.sql()


def _operators(reader: Reader, stage: Stage, schemas: Schemas) -> Stage:
    while reader.accept("|"):
        name = reader.token.value
        if reader.token.kind != "word":
            raise reader.unexpected("an operator")
        reader.take()
        if name == "make-graph":
            graph = make_graph(reader, stage.source)
            reader.expect("|")
            reader.expect("graph-match")
            stage = _replaced(stage, graph_match(reader, graph, schemas))
        elif name in _WALKS:
            stage = _replaced(stage, _WALKS[name](reader, stage.source))
        elif name in _COLLECT:
            if stage.aggregates is not None and name in {"where", "project"}:
                stage = Stage(f"({stage.sql()})")
            _COLLECT[name](reader, stage)
        else:
            raise kql_error(f"unsupported operator: {name}")
    return stage


def _replaced(stage: Stage, source: str) -> Stage:
    """A graph operator's result is the new source; filters before it filter that result."""
    stage.source = source
    return stage


def _where(reader: Reader, stage: Stage) -> None:
    stage.where.append(expression(reader))


def _project(reader: Reader, stage: Stage) -> None:
    stage.project = _names(reader)


def _project_away(reader: Reader, stage: Stage) -> None:
    stage.away += _names(reader)


def _extend(reader: Reader, stage: Stage) -> None:
    while True:
        name = reader.word()
        reader.expect("=")
        stage.extend.append((name, expression(reader)))
        if not reader.accept(","):
            return


def _summarize(reader: Reader, stage: Stage) -> None:
    if stage.aggregates is not None:
        raise kql_error("one summarize only")
    stage.aggregates = []
    while not reader.sees("by"):
        name = None
        if reader.after(1).value == "=" and reader.after(1).kind == "sign":
            name = reader.word()
            reader.expect("=")
        sql = aggregate(reader)
        stage.aggregates.append((name or default_name(sql), sql))
        if not reader.accept(","):
            break
    if not stage.aggregates:
        raise reader.unexpected("an aggregate")
    if reader.accept("by"):
        stage.keys.append(expression(reader))
        while reader.accept(","):
            stage.keys.append(expression(reader))


def _take(reader: Reader, stage: Stage) -> None:
    stage.limit = reader.integer()


def _sort(reader: Reader, stage: Stage) -> None:
    reader.expect("by")
    while True:
        stage.order.append(_key(reader))
        if not reader.accept(","):
            return


def _top(reader: Reader, stage: Stage) -> None:
    stage.limit = reader.integer()
    reader.expect("by")
    stage.order.append(_key(reader))


def _count(_reader: Reader, stage: Stage) -> None:
    stage.count = True


def _distinct(reader: Reader, stage: Stage) -> None:
    stage.distinct = _names(reader) if reader.token.kind == "word" else []


def _key(reader: Reader) -> str:
    sql = expression(reader)
    descending = reader.accept("desc") or not reader.accept("asc")
    return f"{sql} {'DESC' if descending else 'ASC'}"


def _names(reader: Reader) -> list[str]:
    names = [reader.word()]
    while reader.accept(","):
        names.append(reader.word())
    return names


def _union(reader: Reader, schemas: Schemas) -> str:
    source = None
    if reader.sees("withsource"):
        reader.take()
        reader.expect("=")
        source = reader.word()
    branches = [_branch(reader)]
    while reader.accept(","):
        branches.append(_branch(reader))
    columns = list(dict.fromkeys(c.name for table, _ in branches for c in schemas.get(table, ())))
    parts: list[str] = []
    for table, sql in branches:
        present = {c.name for c in schemas.get(table, ())}
        shown = [named(c) if c in present else f"NULL AS {named(c)}" for c in columns]
        if source is not None:
            shown.insert(0, f"{quoted(table)} AS {named(source)}")
        parts.append(f"SELECT {', '.join(shown) or '*'} FROM {sql}")
    return f"({' UNION ALL '.join(parts)})"


def _branch(reader: Reader) -> tuple[str, str]:
    if not reader.accept("("):
        table = reader.word()
        return table, named(table)
    table = reader.word()
    stage = Stage(named(table))
    while reader.accept("|"):
        name = reader.word("an operator")
        if name not in BRANCH:
            raise kql_error(f"unsupported operator in a union: {name}")
        _COLLECT[name](reader, stage)
    reader.expect(")")
    return table, f"({stage.sql()})"


_COLLECT: dict[str, Callable[[Reader, Stage], None]] = {
    "where": _where,
    "project": _project,
    "project-away": _project_away,
    "extend": _extend,
    "summarize": _summarize,
    "take": _take,
    "limit": _take,
    "sort": _sort,
    "order": _sort,
    "top": _top,
    "count": _count,
    "distinct": _distinct,
}
_WALKS: dict[str, Callable[[Reader, str], str]] = {
    "graph-traverse": traverse,
    "graph-var-length": var_length,
    "graph-shortest-path": shortest_path,
}
