"""The Context Engine: capabilities, walks, search, queries."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, Field

from agentcy_ray.api.permit import Allowed, permit
from agentcy_ray.api.services import services_of
from agentcy_ray.context.engine import (
    Capabilities,
    Column,
    ContextEngine,
    Direction,
    GraphSchema,
    GraphStats,
    Language,
    Node,
    Scope,
    SearchAnswer,
    SearchQuery,
    Subgraph,
)
from agentcy_ray.context.engine import (
    Query as EngineQuery,
)
from agentcy_ray.core.errors import NotFoundError
from agentcy_ray.core.ids import QueryId, new_id

router = APIRouter(prefix="/context", tags=["context"])

Reader = Annotated[Allowed, permit("graph.read")]
Asker = Annotated[Allowed, permit("graph.query")]


def asked_realms(
    realm: Annotated[list[str] | None, Query(description="Realm to stay in; may repeat.")] = None,
    realms: Annotated[list[str] | None, Query(description="As `realm`; none = all.")] = None,
) -> list[str] | None:
    """The realms that a request names, under either name."""
    return [*(realm or ()), *(realms or ())] or None


Realms = Annotated[list[str] | None, Depends(asked_realms)]
MAX_ROWS = 10_000
MAX_NEIGHBORS = 2_000


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
    limit: int = Field(default=1000, ge=1, le=MAX_ROWS)
    timeout_ms: int = Field(default=30_000, ge=10, le=120_000)
    include_archived: bool = False


class QueryAnswer(BaseModel):
    """Rows in the order of the query; ``truncated`` when there were more than the limit."""

    query_id: QueryId
    columns: list[Column]
    rows: list[list[Any]]
    row_count: int
    truncated: bool
    took_ms: float
    engine: str
    warnings: list[str]


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
)


@router.get("/capabilities")
async def capabilities(caller: Reader, request: Request) -> Capabilities:
    """What the engine of this organisation can do."""
    return await _engine(request).capabilities_of(caller.org_id)


@router.get("/schema")
async def schema(caller: Reader, request: Request, realms: Realms) -> GraphSchema:
    """Labels, edge types and property names; feeds autocomplete."""
    return await _engine(request).schema(await _scope(request, caller, realms))


@router.get("/stats")
async def stats(caller: Reader, request: Request, realms: Realms) -> GraphStats:
    """Counts of live entities."""
    return await _engine(request).stats(await _scope(request, caller, realms))


@router.get("/examples")
async def examples(_: Reader) -> list[Example]:
    """Ready queries in the engine's languages."""
    return list(EXAMPLES)


@router.get("/overview")
async def overview(
    caller: Reader,
    request: Request,
    realms: Realms,
    limit: Annotated[int, Query(ge=1, le=800)] = 800,
) -> Subgraph:
    """The best-connected nodes and the edges among them."""
    return await _engine(request).overview(await _scope(request, caller, realms), limit)


@router.get("/search")
async def search(
    caller: Reader,
    request: Request,
    q: Annotated[str, Query(min_length=2, max_length=512, description="Two characters or more.")],
    realms: Realms,
    label: Annotated[list[str] | None, Query()] = None,
    source: Annotated[list[str] | None, Query()] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    offset: Annotated[int, Query(ge=0, le=10_000)] = 0,
) -> SearchAnswer:
    """Full-text search with facets and a time histogram over all hits."""
    query = SearchQuery(
        text=q, labels=tuple(label or ()), sources=tuple(source or ()), limit=limit, offset=offset
    )
    return await _engine(request).search(await _scope(request, caller, realms), query)


@router.get("/nodes/{node_id}")
async def node(node_id: str, caller: Reader, request: Request, realms: Realms) -> Node:
    """One entity with all its fields and its degree."""
    found = await _engine(request).node(await _scope(request, caller, realms), node_id)
    if found is None:
        raise NotFoundError(f"there is no entity {node_id!r}; find one by /context/search")
    return found


@router.get("/nodes/{node_id}/neighbors")
async def neighbors(
    node_id: str,
    caller: Reader,
    request: Request,
    realms: Realms,
    depth: Annotated[int, Query(ge=1, le=3)] = 1,
    direction: Direction = "both",
    types: Annotated[list[str] | None, Query()] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_NEIGHBORS)] = 200,
) -> Subgraph:
    """What lies around an entity."""
    engine, scope = _engine(request), await _scope(request, caller, realms)
    if await engine.node(scope, node_id) is None:
        raise NotFoundError(f"there is no entity {node_id!r}; find one by /context/search")
    return await engine.neighbors(
        scope, node_id, depth=depth, direction=direction, types=types or (), limit=limit
    )


@router.post("/query")
async def query(body: QueryBody, caller: Asker, request: Request) -> QueryAnswer:
    """Run a read-only query inside the caller's organisation and realms."""
    asked = [*(body.realms or ()), *([body.realm] if body.realm else ())] or None
    answer = await _engine(request).query(
        await _scope(request, caller, asked),
        EngineQuery(
            language=body.language,
            text=body.query,
            params=body.params,
            limit=body.limit,
            timeout_ms=body.timeout_ms,
            include_archived=body.include_archived,
        ),
    )
    return QueryAnswer(
        query_id=new_id(),
        columns=list(answer.columns),
        rows=[list(row) for row in answer.rows],
        row_count=len(answer.rows),
        truncated=answer.truncated,
        took_ms=answer.took_ms,
        engine=answer.engine,
        warnings=list(answer.warnings),
    )


async def _scope(request: Request, caller: Allowed, asked: list[str] | None) -> Scope:
    """The asked realms, cut to what the caller may see."""
    realms = await services_of(request).allowed_realms(caller.principal, asked)
    return Scope(org_id=caller.org_id, realms=realms)


def _engine(request: Request) -> ContextEngine:
    engine: ContextEngine = services_of(request).engine
    return engine
