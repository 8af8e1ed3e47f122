"""Queries of callers: parsed, scoped, run as a user who may only read, cut at their limit."""

from __future__ import annotations

import asyncio
import re
import time
from typing import Any, cast

from neo4j.graph import Node as BoltNode
from neo4j.graph import Path as BoltPath
from neo4j.graph import Relationship as BoltRelationship
from neo4j.spatial import Point
from neo4j.time import Date, DateTime, Duration, Time

from agentcy_ray.context.basic.bolt import Bolt
from agentcy_ray.context.basic.layout import to_edge, to_node
from agentcy_ray.context.engine import Column, Query, QueryResult, Scope
from agentcy_ray.context.languages.cypher import Dialect, scoped
from agentcy_ray.context.languages.cypher.scope import HIDDEN
from agentcy_ray.core.errors import (
    EngineError,
    InvalidError,
    QueryRejectedError,
    QueryTimeoutError,
)

MAX_ROWS = 5_000_000
_OF_VALUES = re.compile(r": (TypeError|NumberOutOfRange):")
"""How the embedded server fails on what an expression meets, under a code of its own faults."""
_TYPES: dict[type, str] = {
    bool: "bool",
    int: "int64",
    float: "double",
    str: "string",
    list: "list",
    dict: "map",
}


async def run_query(bolt: Bolt, scope: Scope, query: Query) -> QueryResult:
    """Run a Cypher query inside the scope.

    Raises:
        QueryRejectedError: it is outside the language, or the server finds fault with it.
        QueryTimeoutError: it ran past ``timeout_ms``.
    """
    if not 1 <= query.limit <= MAX_ROWS:
        raise InvalidError(f"limit is 1 to {MAX_ROWS}, not {query.limit}")
    if query.timeout_ms < 1:
        raise InvalidError("timeout_ms is at least 1")
    started = time.perf_counter()
    traits = await bolt.traits()
    asked = scoped(
        query.text,
        query.params,
        scope,
        row_limit=query.limit,
        include_archived=query.include_archived,
        dialect=Dialect(shortest_path_filters=traits.shortest_path_filters),
    )
    rows: list[tuple[Any, ...]] = []
    kinds: list[set[str]] = [set() for _ in asked.columns]
    seconds = query.timeout_ms / 1000
    try:
        async with (
            asyncio.timeout(seconds),
            bolt.cursor(asked.text, asked.params, timeout_secs=seconds) as cursor,
        ):
            async for record in cursor:
                values = record.values()
                for seen, value in zip(kinds, values, strict=True):
                    seen.add(_kind(value))
                rows.append(tuple(plain(value) for value in values))
                if len(rows) > query.limit:
                    break
    except (TimeoutError, QueryTimeoutError):
        raise QueryTimeoutError(
            f"the query ran past {query.timeout_ms} ms and was stopped; "
            "narrow it, or raise timeout_ms",
            timeout_ms=query.timeout_ms,
        ) from None
    except EngineError as error:
        code = str(error.details.get("engine_code", ""))
        # The caller's query, not the server, is at fault.
        if code.startswith("Neo.ClientError.") or _OF_VALUES.search(error.message):
            raise QueryRejectedError(error.message, engine_code=code) from error
        raise
    truncated = len(rows) > query.limit
    return QueryResult(
        columns=tuple(
            Column(name=name, type=_column_type(seen))
            for name, seen in zip(asked.columns, kinds, strict=True)
        ),
        rows=tuple(rows[: query.limit]),
        truncated=truncated,
        took_ms=(time.perf_counter() - started) * 1000,
        engine="basic",
        warnings=(f"cut at {query.limit} rows; there are more",) if truncated else (),
    )


def plain(value: Any) -> Any:
    """A value of the driver as JSON types; nodes and edges in the form of the API's records."""
    match value:
        case BoltNode():
            if "_labels" not in value:
                return {"labels": sorted(value.labels), "properties": _plain_map(dict(value))}
            return to_node(value).model_dump(mode="json", exclude_none=True)
        case BoltRelationship():
            return to_edge(value, value.type).model_dump(mode="json")
        case BoltPath():
            return {
                "nodes": [plain(each) for each in value.nodes],
                "edges": [plain(each) for each in value.relationships],
            }
        case Date() | DateTime() | Time() | Duration():
            return value.iso_format()
        case Point():
            return {"srid": value.srid, "coordinates": list(value)}
        case list():
            return [plain(each) for each in cast("list[Any]", value)]
        case dict():
            return _plain_map(cast("dict[str, Any]", value))
        case bytes() | bytearray():
            return value.hex()
        case _:
            return value


def _plain_map(value: dict[str, Any]) -> dict[str, Any]:
    if "org" in value and ("_labels" in value or "_src" in value):  # all properties of an entity
        value = {key: each for key, each in value.items() if key not in HIDDEN}
    return {key: plain(each) for key, each in value.items()}


def _kind(value: Any) -> str:
    match value:
        case None:
            return ""
        case BoltNode():
            return "node"
        case BoltRelationship():
            return "edge"
        case BoltPath():
            return "path"
        case Date() | DateTime() | Time() | Duration():
            return "string"
        case _:
            return _TYPES.get(type(value), "any")


def _column_type(seen: set[str]) -> str:
    """The one type of a column's values, nulls aside; whole and broken numbers make ``double``."""
    kinds = seen - {""}
    if kinds == {"int64", "double"}:
        return "double"
    return kinds.pop() if len(kinds) == 1 else "any"
