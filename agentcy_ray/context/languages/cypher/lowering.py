"""From the caller's text to the text that is sent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agentcy_ray.context.engine import Scope
from agentcy_ray.context.languages.cypher import tree
from agentcy_ray.context.languages.cypher.clauses import QueryParser
from agentcy_ray.context.languages.cypher.render import Renderer
from agentcy_ray.context.languages.cypher.scope import (
    ORG_PARAMETER,
    REALMS_PARAMETER,
    Rules,
    Scoper,
)
from agentcy_ray.context.languages.refusals import refuse


@dataclass(frozen=True, slots=True)
class Dialect:
    """How servers of the language differ."""

    shortest_path_filters: bool = True
    """Whether ``shortestPath`` heeds the ``WHERE`` of its ``MATCH`` while it searches."""


@dataclass(frozen=True, slots=True)
class ScopedQuery:
    """A query that can see nothing outside its scope; ``columns`` are the caller's names."""

    text: str
    params: dict[str, Any]
    columns: tuple[str, ...]


def scoped(
    text: str,
    params: Mapping[str, Any],
    scope: Scope,
    *,
    row_limit: int,
    include_archived: bool = False,
    dialect: Dialect = Dialect(),
) -> ScopedQuery:
    """Parse a read-only Cypher query and put the scope into all its patterns.

    Args:
        text: the query, at most 64 KiB.
        params: values of its ``$parameters``; they stay parameters.
        scope: whose graph, and which realms.
        row_limit: a query without ``LIMIT`` gets one of ``row_limit + 1`` rows.
        include_archived: also show entities that the last sync no longer found.
        dialect: what the server at hand can do.

    Raises:
        QueryRejectedError: the text is outside the read-only language, nested too deeply, or a
            parameter has no value.
    """
    parser = QueryParser(text)
    query = parser.whole()
    used: dict[str, Any] = {}
    for token in parser.tokens:
        if token.kind == "parameter":
            name = str(token.value)
            if name not in params:
                parser.refuse(f"the parameter ${name} has no value", "give it in params",
                              token=token)  # fmt: skip
            used[name] = params[name]
    rules = Rules(
        realms=scope.realms is not None,
        live_only=not include_archived,
        shortest_path_filters=dialect.shortest_path_filters,
        row_limit=row_limit,
        prefix=_unused_prefix(parser),
    )
    renderer = Renderer()
    try:
        scoped_tree = Scoper(rules).top(query)
        sent = renderer.query(scoped_tree)
    except RecursionError:
        refuse(text, 0, text[:20], "the query is nested too deeply", "split it by WITH")
    used |= renderer.literals
    used[ORG_PARAMETER] = scope.org_id.hex
    if scope.realms is not None:
        used[REALMS_PARAMETER] = list(scope.realms)
    return ScopedQuery(sent, used, _columns(scoped_tree, rules.prefix))


def _unused_prefix(parser: QueryParser) -> str:
    names = [str(token.value) for token in parser.tokens if token.kind in ("name", "quoted")]
    prefix = "_s"
    while any(name.startswith(prefix) for name in names):
        prefix += "_"
    return prefix


def _columns(query: tree.Query, prefix: str) -> tuple[str, ...]:
    last = query.parts[0][-1]
    assert isinstance(last, tree.Projection)
    return tuple(
        column.text
        if column.alias is None or column.alias.startswith(f"{prefix}c")
        else column.alias
        for column in last.columns
    )
