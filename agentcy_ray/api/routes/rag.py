"""Retrieval: hybrid and vector search."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Request

from agentcy_ray.api.permit import Allowed, permit
from agentcy_ray.api.services import services_of
from agentcy_ray.retrieval.search import HybridQuery, RagQuery, SearchHits

router = APIRouter(prefix="/rag", tags=["retrieval"])
Searcher = Annotated[Allowed, permit("rag.search")]


@router.post("/hybrid")
async def hybrid(body: HybridQuery, caller: Searcher, request: Request) -> SearchHits:
    """Vectors and trigrams in one SQL statement, as a weighted sum of normalised scores."""
    services = services_of(request)
    realms = await services.allowed_realms(caller.principal, body.realms)
    return await services.search.hybrid(caller.org_id, realms, body)


@router.post("/search")
async def search(body: RagQuery, caller: Searcher, request: Request) -> SearchHits:
    """Nearest vectors, re-ranked by BM25 over the candidates, then by recency."""
    services = services_of(request)
    realms = await services.allowed_realms(caller.principal, body.realms)
    return await services.search.search(caller.org_id, realms, body)
