"""The Context Engine: capabilities, walks, search, pictures."""

from __future__ import annotations

from collections import Counter
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request

from agentcy_ray.api.permit import Allowed, permit
from agentcy_ray.api.services import services_of
from agentcy_ray.context.engine import (
    Capabilities,
    ContextEngine,
    Direction,
    GraphSchema,
    GraphStats,
    Node,
    Scope,
    SearchAnswer,
    SearchQuery,
    Subgraph,
)
from agentcy_ray.core.errors import NotFoundError

router = APIRouter(prefix="/context", tags=["context"])

Reader = Annotated[Allowed, permit("graph.read")]


def asked_realms(
    realm: Annotated[list[str] | None, Query(description="Realm to stay in; may repeat.")] = None,
    realms: Annotated[list[str] | None, Query(description="As `realm`; none = all.")] = None,
) -> list[str] | None:
    """The realms that a request names, under either name."""
    return [*(realm or ()), *(realms or ())] or None


Realms = Annotated[list[str] | None, Depends(asked_realms)]
MAX_NEIGHBORS = 2_000


class GraphView(Subgraph):
    """A picture of the graph with counts of what it shows."""

    labels: dict[str, int]
    """Label → nodes shown; a node counts for each of its labels."""
    types: dict[str, int]
    """Type → edges shown."""


@router.get("/capabilities")
async def capabilities(caller: Reader, request: Request) -> Capabilities:
    """What the engine of this organisation can do."""
    return await engine_of(request).capabilities_of(caller.org_id)


@router.get("/schema")
async def schema(caller: Reader, request: Request, realms: Realms) -> GraphSchema:
    """Labels, edge types and property names; feeds autocomplete."""
    return await engine_of(request).schema(await scope_of(request, caller, realms))


@router.get("/stats")
async def stats(caller: Reader, request: Request, realms: Realms) -> GraphStats:
    """Counts of live entities."""
    return await engine_of(request).stats(await scope_of(request, caller, realms))


@router.get("/overview")
async def overview(
    caller: Reader,
    request: Request,
    realms: Realms,
    limit: Annotated[int, Query(ge=1, le=800)] = 800,
) -> Subgraph:
    """The best-connected nodes and the edges among them."""
    return await engine_of(request).overview(await scope_of(request, caller, realms), limit)


@router.get("/graph")
async def graph(
    caller: Reader,
    request: Request,
    realms: Realms,
    node: Annotated[str | None, Query(description="Centre; none = the best-connected.")] = None,
    depth: Annotated[int, Query(ge=1, le=3)] = 1,
    direction: Direction = "both",
    types: Annotated[list[str] | None, Query()] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_NEIGHBORS)] = 200,
) -> GraphView:
    """A bounded picture around a node, or of the whole, with counts by label and type."""
    engine, scope = engine_of(request), await scope_of(request, caller, realms)
    if node is None:
        shown = await engine.overview(scope, limit)
    elif await engine.node(scope, node) is None:
        raise NotFoundError(f"there is no entity {node!r}; find one by /context/search")
    else:
        shown = await engine.neighbors(
            scope, node, depth=depth, direction=direction, types=types or (), limit=limit
        )
    return GraphView(
        nodes=shown.nodes,
        edges=shown.edges,
        truncated=shown.truncated,
        labels=dict(Counter(label for each in shown.nodes for label in each.labels).most_common()),
        types=dict(Counter(each.type for each in shown.edges).most_common()),
    )


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
    return await engine_of(request).search(await scope_of(request, caller, realms), query)


@router.get("/nodes/{node_id}")
async def node(node_id: str, caller: Reader, request: Request, realms: Realms) -> Node:
    """One entity with all its fields and its degree."""
    found = await engine_of(request).node(await scope_of(request, caller, realms), node_id)
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
    engine, scope = engine_of(request), await scope_of(request, caller, realms)
    if await engine.node(scope, node_id) is None:
        raise NotFoundError(f"there is no entity {node_id!r}; find one by /context/search")
    return await engine.neighbors(
        scope, node_id, depth=depth, direction=direction, types=types or (), limit=limit
    )


async def scope_of(request: Request, caller: Allowed, asked: list[str] | None) -> Scope:
    """The asked realms, cut to what the caller may see."""
    realms = await services_of(request).allowed_realms(caller.principal, asked)
    return Scope(org_id=caller.org_id, realms=realms)


def engine_of(request: Request) -> ContextEngine:
    """The engine of this install."""
    engine: ContextEngine = services_of(request).engine
    return engine
