"""Running a query: language, budgets, and how its failures are told apart."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pyarrow as pa
from datafusion import DataFrame

from agentcy_ray.devkyma.catalog import Graph
from agentcy_ray.devkyma.cypher import lower_cypher
from agentcy_ray.devkyma.dialect import check_dialect
from agentcy_ray.devkyma.engine import Engine
from agentcy_ray.devkyma.errors import EngineError
from agentcy_ray.devkyma.kql.operators import lower_kql
from agentcy_ray.devkyma.views import without_views

_PLANNING = ("Error during planning", "Schema error", "type_coercion", "type coercion")


@dataclass(frozen=True, slots=True)
class Budgets:
    """What a query may use: milliseconds and bytes."""

    wall_clock_ms: int
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class QueryRequest:
    """One query in one language over one database."""

    database: str
    language: str
    text: str
    budgets: Budgets
    graph: str | None = None


async def run_query(engine: Engine, request: QueryRequest) -> list[pa.RecordBatch]:
    """The batches of a query's whole result.

    Raises:
        EngineError: 400 when it does not lower or plan, 404 without data, 429 over a budget, 500
            when it fails on the way.
    """
    with engine.sessions.reading():
        plan = await asyncio.to_thread(plan_query, engine, request)
        try:
            async with asyncio.timeout(request.budgets.wall_clock_ms / 1000):
                return await _collect(plan)
        except TimeoutError:
            raise over_budget(request.budgets.wall_clock_ms, "wall_clock_ms") from None
        except Exception as error:  # DataFusion raises bare Exception
            raise execution_error(error, request.budgets) from error


def plan_query(engine: Engine, request: QueryRequest) -> DataFrame:
    """The plan of a query.

    Raises:
        EngineError: as run_query, before anything is read.
    """
    tables = engine.sessions.tables(request.database)
    schemas = {name: table.columns for name, table in tables.items()}
    match request.language:
        case "kql":
            sql = lower_kql(request.text, schemas)
        case "cypher":
            sql = lower_cypher(request.text, schemas, _graph(engine, request))
        case _:
            sql = request.text
            check_dialect(sql)
    return engine.sessions.plan(request.database, sql, request.budgets.memory_bytes)


def _graph(engine: Engine, request: QueryRequest) -> Graph:
    """The graph that a Cypher query is about.

    Raises:
        EngineError: 400 ``graph_resolution_error`` when it is missing or ambiguous.
    """
    home, _, name = (request.graph or "").rpartition("/")
    graphs = engine.catalog.graphs(home or request.database)
    if name and name in graphs:
        return graphs[name]
    if not name and len(graphs) == 1:
        return next(iter(graphs.values()))
    about = f"graph not found: {name}" if name else f"{len(graphs)} graphs, name one by X-Graph"
    raise EngineError(400, "graph_resolution_error", about)


async def _collect(plan: DataFrame) -> list[pa.RecordBatch]:
    schema = without_views(plan.schema())
    stream = await asyncio.to_thread(plan.execute_stream)
    return [batch.to_pyarrow().cast(schema) async for batch in stream]


def execution_error(error: Exception, budgets: Budgets) -> EngineError:
    """The refusal for a failure of the running engine."""
    text = str(error).removeprefix("DataFusion error: ")
    if "Resources exhausted" in text:
        return over_budget(budgets.memory_bytes, "memory")
    if text.startswith(_PLANNING):
        return EngineError(400, "sql_parse_error", text)
    return EngineError(500, "query_execution_error", text)


def over_budget(limit: int, kind: str) -> EngineError:
    """The refusal for a budget that ran out; the header's prefix is the server's."""
    code = "memory_exceeded" if kind == "memory" else "wall_clock_exceeded"
    headers = {"Retry-After": "1", "Budget-Limit": f"{limit} {kind}"}
    return EngineError(429, code, f"{kind} budget of {limit} exceeded", headers)
