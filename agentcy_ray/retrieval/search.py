"""Search over the vectors and words of an organisation."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal, TypeVar
from uuid import UUID

import asyncpg
import numpy as np
import structlog

from agentcy_ray.core.errors import AgentcyError, InvalidError, QueryTimeoutError
from agentcy_ray.core.settings import Settings
from agentcy_ray.retrieval.bm25 import bm25
from agentcy_ray.retrieval.embedder import matrix_of
from agentcy_ray.retrieval.fusion import fused
from agentcy_ray.retrieval.one_embedder import AnyEmbedders
from agentcy_ray.retrieval.queries import Hit, HitSource, HybridQuery, RagQuery, SearchHits
from agentcy_ray.retrieval.query_sample import QuerySample
from agentcy_ray.retrieval.remote_search import Fetch, RemoteSearch
from agentcy_ray.retrieval.routing import Routes
from agentcy_ray.retrieval.spaces import Space, SpaceStore
from agentcy_ray.retrieval.statements import (
    Statement,
    hybrid_statement,
    planner_settings,
    vector_statement,
)
from agentcy_ray.retrieval.vector_backends import VectorBackends
from agentcy_ray.retrieval.words import terms
from agentcy_ray.stores.bell import Bell
from agentcy_ray.stores.postgres import Database

CANDIDATES_PER_HIT = 4
MIN_CANDIDATES = 40
MAX_CANDIDATES = 5_000
VECTOR_SHARE, BM25_SHARE = 0.7, 0.3
SNIPPET_CHARS = 1_600
EMBEDDED_CHARS = 4_000
"""Of a longer query only the beginning is embedded; no model here reads further."""

Q = TypeVar("Q", bound=RagQuery)
Vector = np.ndarray[Any, np.dtype[np.float32]]
Seen = Sequence[str] | None
"""Realms that are searched; None = all."""
Ask = Callable[[int, bool], Awaitable[list[asyncpg.Record]]]
"""(candidates, whether to compare with every row) → rows, best first."""
Within = Callable[[Space, Vector, Seen], Awaitable[list[Hit]]]

_log = structlog.get_logger(__name__)


class SearchService:
    """Answers ``RagQuery`` and ``HybridQuery``."""

    def __init__(
        self,
        db: Database,
        embedders: AnyEmbedders,
        spaces: SpaceStore,
        settings: Settings,
        *,
        bell: Bell | None = None,
        sample: QuerySample | None = None,
        backends: VectorBackends | None = None,
    ) -> None:
        """``sample`` keeps some of what is asked; without it nothing is kept.

        ``backends`` have the vectors that lie elsewhere; None = those that the settings name.
        """
        self._backends = backends or VectorBackends(settings)
        self._closes = backends is None
        self._remote = RemoteSearch(db, self._backends)
        self._db = db
        self._embedders = embedders
        self._spaces = spaces
        self._settings = settings
        self._sample = sample
        self.routes = Routes(db, spaces, bell)

    async def hybrid(
        self, org_id: UUID, realms: Sequence[str] | None, query: HybridQuery
    ) -> SearchHits:
        """Hits by meaning and words, from one SQL statement.

        Score: (vector weight · cosine + text weight · trigram word similarity) · recency.

        Args:
            org_id: the organisation; no other's chunk can be met.
            realms: realms that the caller may see; None = all. The query may narrow them.
            query: what is asked.

        Raises:
            InvalidError: the query is blank, or both weights are 0.
            NotFoundError: no such space.
            ConflictError: the space that is named is not filled yet, or was given up.
            EmbedderUnavailableError: the embedder is away or did not make the space.
            QueryTimeoutError: the search ran past its limit.
        """
        if query.vector_weight + query.text_weight <= 0:
            raise _invalid("text_weight", "give text_weight or vector_weight a value above 0")
        query = _without_nul(query)

        async def within(space: Space, vector: Vector, seen: Seen) -> list[Hit]:
            async def ask(limit: int, exact: bool) -> list[asyncpg.Record]:
                if space.remote:
                    fetch = self._fetcher(space, limit)
                    return await self._remote.hybrid(space, vector, seen, query, limit, fetch)
                statement = hybrid_statement(space, vector, seen, query, limit)
                return await self._fetch(space, statement, limit, exact=exact)

            rows = await self._rows(query.top_k, ask, lambda rows: len(rows))
            words = terms(query.query)
            return [
                _hit(row, row["score"], words, vector=row["vector"], text=row["words"])
                for row in rows
            ]

        return await self._answer(org_id, realms, query, within)

    async def search(
        self, org_id: UUID, realms: Sequence[str] | None, query: RagQuery
    ) -> SearchHits:
        """Hits by meaning, ordered again by BM25 over name, title and description.

        Score: (0.7 · cosine + 0.3 · BM25) · recency. Arguments and errors as in ``hybrid``.
        """
        query = _without_nul(query)

        async def within(space: Space, vector: Vector, seen: Seen) -> list[Hit]:
            async def ask(limit: int, exact: bool) -> list[asyncpg.Record]:
                if space.remote:
                    fetch = self._fetcher(space, limit)
                    return await self._remote.search(space, vector, seen, query, limit, fetch)
                statement = vector_statement(space, vector, seen, query.filters, limit)
                return await self._fetch(space, statement, limit, exact=exact)

            rows = await self._rows(
                query.top_k, ask, lambda rows: len({row["node_id"] for row in rows})
            )
            words = terms(query.query)
            nearest = list({row["node_id"]: row for row in reversed(rows)}.values())
            lexical = bm25(query.query, [_titles(row) for row in nearest])
            hits = [
                _hit(
                    row,
                    (VECTOR_SHARE * row["vector"] + BM25_SHARE * score) * row["recency"],
                    words,
                    vector=row["vector"],
                    bm25=score,
                )
                for row, score in zip(nearest, lexical, strict=True)
            ]
            hits.sort(key=lambda hit: (-hit.score, hit.node_id))
            return hits[: query.top_k]

        return await self._answer(org_id, realms, query, within)

    async def close(self) -> None:
        """Stop listening for other spaces."""
        await self.routes.close()
        if self._closes:
            await self._backends.close()

    async def _answer(
        self, org_id: UUID, realms: Sequence[str] | None, query: RagQuery, within: Within
    ) -> SearchHits:
        """What the asked spaces answer: the hits of one, or those of two fused by rank."""
        started = time.perf_counter()
        text = query.query.strip()
        if not text:
            raise _invalid("query", "the query is blank; say what to look for")
        seen = _narrowed(realms, query.realms)
        try:
            answers = await self._ask(org_id, query.space, text, seen, within)
        except asyncpg.UndefinedTableError:  # dropped a moment ago; another one is active
            self.routes.expire(org_id)
            answers = await self._ask(org_id, query.space, text, seen, within)
        if self._sample is not None and not isinstance(query.space, UUID):
            self._sample.note(org_id, text)
        spaces = [space.id for space, _ in answers]
        hits: Sequence[Hit] = answers[0][1] if answers else ()
        if len(answers) > 1:
            hits = fused([found for _, found in answers], query.top_k)
        return SearchHits(
            hits=tuple(hits),
            took_ms=round((time.perf_counter() - started) * 1000, 3),
            space=spaces[0] if spaces else None,
            beside=spaces[1] if len(spaces) > 1 else None,
        )

    async def _ask(
        self,
        org_id: UUID,
        asked: UUID | Literal["both"] | None,
        text: str,
        seen: Seen,
        within: Within,
    ) -> list[tuple[Space, list[Hit]]]:
        """Each space with its hits; where one of two cannot answer, the other does alone."""
        spaces = await self.routes.asked(org_id, asked)
        if seen == ():
            return []
        asking = (self._within(space, text, seen, within) for space in spaces)
        answers = await asyncio.gather(*asking, return_exceptions=True)
        found: list[tuple[Space, list[Hit]]] = []
        for space, answer in zip(spaces, answers, strict=True):
            if not isinstance(answer, BaseException):
                found.append((space, answer))
            elif len(spaces) == 1 or not isinstance(answer, AgentcyError):
                raise answer
            else:
                _log.warning("space_did_not_answer", space=space.id.hex, problem=answer.message)
        if spaces and not found:
            raise next(answer for answer in answers if isinstance(answer, BaseException))
        return found

    async def _within(self, space: Space, text: str, seen: Seen, within: Within) -> list[Hit]:
        """Hits of one space, found by a vector of the model that made it."""
        embedder = await self._embedders.of(space.embedder)
        vectors = await embedder.embed([text[:EMBEDDED_CHARS]])
        space.require(embedder.info)  # known once it has answered, if it is far away
        return await within(space, matrix_of(vectors)[0], seen)

    async def _rows(
        self, top_k: int, ask: Ask, nodes: Callable[[list[Any]], int]
    ) -> list[asyncpg.Record]:
        """Rows of ``ask``; asked again wider while there could be more entities to find."""
        limit, exact = max(MIN_CANDIDATES, CANDIDATES_PER_HIT * top_k), False
        while True:
            answer = await ask(limit, exact)
            rows = [row for row in answer if row["node_id"] is not None]
            if nodes(rows) >= top_k:
                return rows
            if answer[0]["missed"] and not exact:
                exact = True
            elif answer[0]["found"] >= limit and limit < MAX_CANDIDATES:
                limit = min(MAX_CANDIDATES, limit * 8)  # many chunks of few entities
            else:
                return rows

    def _fetcher(self, space: Space, limit: int) -> Fetch:
        return lambda statement: self._fetch(space, statement, limit, exact=False)

    async def _fetch(
        self, space: Space, statement: Statement, limit: int, *, exact: bool
    ) -> list[asyncpg.Record]:
        version = await self._spaces.vector_version()
        local = planner_settings(self._settings, version, limit, exact=exact)
        try:
            async with self._db.tenant(space.org_id) as connection:
                await connection.fetchrow(local.sql, *local.values)
                return await connection.fetch(statement.sql, *statement.values)
        except asyncpg.QueryCanceledError as error:
            raise QueryTimeoutError(
                "the search took too long and was stopped; narrow it by realms, labels or sources"
            ) from error


def _without_nul(query: Q) -> Q:
    """``query`` without the one character that no text of Postgres holds."""
    if "\x00" not in query.query:
        return query
    return query.model_copy(update={"query": query.query.replace("\x00", "")})


def _narrowed(realms: Sequence[str] | None, asked: Sequence[str]) -> tuple[str, ...] | None:
    if realms is None:
        return tuple(asked) or None
    return tuple(realm for realm in realms if not asked or realm in asked)


def _hit(row: asyncpg.Record, score: float, words: list[str], **scores: float) -> Hit:
    return Hit(
        node_id=row["node_id"],
        labels=tuple(row["labels"]),
        score=score,
        scores={**scores, "recency": row["recency"]},
        name=row["name"],
        snippet=snippet(row["text"], words),
        url=row["url"],
        properties=row["properties"],
        source=HitSource(
            connector=row["connector"],
            source_id=row["source_id"],
            external_id=row["external_id"],
        ),
        realm=row["realm"],
    )


def snippet(text: str, words: list[str]) -> str:
    """``text`` where it is short, else the part of it around the first of ``words``."""
    if len(text) <= SNIPPET_CHARS:
        return text
    folded = text.casefold()
    places = [place for word in words if (place := folded.find(word)) >= 0]
    start = max(0, min(places, default=0) - SNIPPET_CHARS // 4)
    end = min(len(text), start + SNIPPET_CHARS)
    return ("…" if start else "") + text[start:end].strip() + ("…" if end < len(text) else "")


def _titles(row: asyncpg.Record) -> str:
    properties: dict[str, Any] = row["properties"]
    return " ".join(
        str(t) for t in (row["name"], properties.get("title"), properties.get("description")) if t
    )


def _invalid(field: str, message: str) -> InvalidError:
    return InvalidError(message, errors=[{"loc": [field], "message": message}])
