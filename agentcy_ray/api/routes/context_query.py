"""Queries of the Context Engine: rows in JSON or Arrow, native ones, and help to write them."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from agentcy_ray.api.arrow_stream import MEDIA_TYPE, arrow_response, wants_arrow
from agentcy_ray.api.permit import Allowed, permit
from agentcy_ray.api.routes.context import Reader, Realms, engine_of, scope_of
from agentcy_ray.context.basic.engine import ADVANCED
from agentcy_ray.context.engine import Column, Language, NativeResult
from agentcy_ray.context.engine import Query as EngineQuery
from agentcy_ray.context.languages.completion import Completion, completion
from agentcy_ray.context.languages.cypher.grouping import chart_of
from agentcy_ray.core.errors import CapabilityError, InvalidError
from agentcy_ray.core.ids import QueryId, new_id

router = APIRouter(prefix="/context", tags=["context"])

Asker = Annotated[Allowed, permit("graph.query")]
Administrator = Annotated[Allowed, permit("graph.native")]

MAX_ROWS = 10_000
"""Rows of an answer in JSON."""
MAX_ARROW_ROWS = 5_000_000


class QueryBody(BaseModel):
    """A read-only query in one of the engine's languages."""

    language: Language = "cypher"
    query: str = Field(
        min_length=1, max_length=65_536,
        examples=["MATCH (c:GitCommit)-[:TOUCHES]->(f:GitFile) RETURN f.path, count(*) AS n"],
    )  # fmt: skip
    params: dict[str, Any] = Field(default_factory=dict)
    realm: str | None = None
    realms: list[str] | None = None
    limit: int = Field(
        default=1000, ge=1, le=MAX_ARROW_ROWS, description="At most 10,000 for an answer in JSON."
    )
    timeout_ms: int = Field(default=30_000, ge=10, le=120_000)
    include_archived: bool = False


class Chart(BaseModel):
    """How the rows may be drawn: names of columns."""

    kind: str
    x: str
    y: list[str]
    series: str | None = None


class QueryAnswer(BaseModel):
    """Rows in the order of the query; ``truncated`` when there were more than the limit."""

    query_id: QueryId
    columns: list[Column]
    rows: list[list[Any]]
    row_count: int
    truncated: bool
    took_ms: float
    engine: str
    chart: Chart | None
    warnings: list[str]


class NativeBody(BaseModel):
    """A text for the engine as it stands."""

    language: Language = "sql"
    query: str = Field(min_length=1, max_length=65_536)
    limit: int = Field(default=1000, ge=1, le=MAX_ROWS)
    timeout_ms: int = Field(default=30_000, ge=10, le=120_000)


class Example(BaseModel):
    """A query that is ready to run."""

    title: str
    language: Language
    query: str


EXAMPLES = (
    Example(
        title="Who touched which files most",
        language="cypher",
        query="MATCH (a:GitAuthor)<-[:AUTHORED_BY]-(c:GitCommit)-[:TOUCHES]->(f:GitFile) "
        "RETURN a.name AS author, f.path AS file, count(*) AS commits "
        "ORDER BY commits DESC LIMIT 20",
    ),
    Example(
        title="Entities by label",
        language="cypher",
        query="MATCH (n) RETURN labels(n) AS labels, count(*) AS n ORDER BY n DESC",
    ),
    Example(
        title="Events of the last 90 days by day",
        language="kql",
        query="context_events | where at > ago(90d) "
        "| summarize events = count() by label, bin(at, 1d) | render timechart",
    ),
    Example(
        title="Newest entities",
        language="kql",
        query="context_nodes | top 20 by last_seen desc | project labels, name, realm, last_seen",
    ),
    Example(
        title="Entities by realm and label",
        language="sql",
        query="SELECT realm, labels, count(*) AS n FROM context_nodes "
        "GROUP BY realm, labels ORDER BY n DESC",
    ),
)


@router.get("/examples")
async def examples(caller: Reader, request: Request) -> list[Example]:
    """Ready queries in the languages of the engine."""
    can = await engine_of(request).capabilities_of(caller.org_id)
    return [example for example in EXAMPLES if getattr(can, example.language)]


@router.get("/completion")
async def complete(
    caller: Reader, request: Request, realms: Realms, language: Language = "cypher"
) -> Completion:
    """What an editor may offer: keywords, functions, tables, and what the graph holds."""
    engine = engine_of(request)
    can = await engine.capabilities_of(caller.org_id)
    if not getattr(can, language):
        raise CapabilityError(
            f"the {can.engine} engine does not answer {language}; for it set {ADVANCED}",
            capability=language,
            engine=can.engine,
            set=ADVANCED,
        )
    schema = await engine.schema(await scope_of(request, caller, realms))
    return await asyncio.to_thread(completion, language, schema)


@router.post(
    "/query",
    response_model=QueryAnswer,
    responses={200: {"content": {MEDIA_TYPE: {}}, "description": "Rows, or a stream of them."}},
)
async def query(body: QueryBody, caller: Asker, request: Request) -> Any:
    """Run a read-only query inside the caller's organisation and realms.

    With `Accept: application/vnd.apache.arrow.stream` the rows come as an Arrow IPC stream, batch
    by batch.
    """
    asked = [*(body.realms or ()), *([body.realm] if body.realm else ())] or None
    engine, scope = engine_of(request), await scope_of(request, caller, asked)
    wanted = EngineQuery(
        language=body.language,
        text=body.query,
        params=body.params,
        limit=body.limit,
        timeout_ms=body.timeout_ms,
        include_archived=body.include_archived,
    )
    if wants_arrow(request):
        return await arrow_response(engine.arrow(scope, wanted))
    if body.limit > MAX_ROWS:
        raise InvalidError(
            f"an answer in JSON has {MAX_ROWS:,} rows at most; lower limit, or ask for an Arrow "
            f"stream by Accept: {MEDIA_TYPE}",
            errors=[{"loc": "limit", "message": f"is at most {MAX_ROWS}"}],
        )
    answer = await engine.query(scope, wanted)
    chart = answer.chart
    if chart is None and body.language == "cypher":
        chart = chart_of(body.query, answer.columns)
    return QueryAnswer(
        query_id=new_id(),
        columns=list(answer.columns),
        rows=[list(row) for row in answer.rows],
        row_count=len(answer.rows),
        truncated=answer.truncated,
        took_ms=answer.took_ms,
        engine=answer.engine,
        chart=None if chart is None else Chart.model_validate(chart),
        warnings=list(answer.warnings),
    )


@router.post("/query/native")
async def native(body: NativeBody, caller: Administrator, request: Request) -> NativeResult:
    """Hand a text to the Advanced engine as it stands: every version of every row, every realm."""
    return await engine_of(request).native(
        caller.org_id, body.language, body.query, limit=body.limit, timeout_ms=body.timeout_ms
    )
