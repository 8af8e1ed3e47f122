"""``EngineRouter``: each organisation's own engine behind the one protocol.

Reads go to the engine that ``organizations.context_engine`` names, which is remembered for some
seconds and told anew by the bell. Writes read it from Postgres under a lock that a cut-over waits
for (see ``store``), and go to both engines while the organisation moves.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, cast
from uuid import UUID

import pyarrow as pa

from agentcy_ray.context.engine import (
    Capabilities,
    ContextEngine,
    Direction,
    EntityKind,
    GraphSchema,
    GraphStats,
    Language,
    NativeResult,
    Node,
    Query,
    QueryResult,
    Scope,
    SearchAnswer,
    SearchQuery,
    Subgraph,
    Written,
)
from agentcy_ray.context.migration.records import EngineName, Route
from agentcy_ray.context.migration.store import read_route, together
from agentcy_ray.core.org_cache import OrgCache

if TYPE_CHECKING:
    from agentcy_ray.context.advanced.arriving import Arriving
    from agentcy_ray.context.basic.leaving import Leaving
    from agentcy_ray.stores.bell import Bell
    from agentcy_ray.stores.postgres import Database

ROUTE_SECS = 5.0
"""How long reads may go by a route that was changed, when the ring is lost."""


def channel(org_id: UUID) -> str:
    """What is rung when an organisation's engine changes."""
    return f"ch:engine:{org_id.hex}"


@dataclass(frozen=True)
class Engines:
    """Both engines, with the way out of the one and into the other."""

    basic: ContextEngine
    advanced: ContextEngine
    leaving: Leaving
    arriving: Arriving


class EngineRouter:
    """A ``ContextEngine`` of organisations some of which are on Basic and others on Advanced."""

    def __init__(
        self, engines: Engines, db: Database, bell: Bell | None = None, *, default: EngineName
    ) -> None:
        self.engines = engines
        self._db = db
        self._default: EngineName = default
        self._routes: OrgCache[Route] = OrgCache(
            self._load,
            listen=None if bell is None else lambda org_id: bell.listen(channel(org_id)),
            max_age_secs=ROUTE_SECS,
        )

    # -- where to ---------------------------------------------------------------------------

    @property
    def capabilities(self) -> Capabilities:
        """Of the engine that the settings name; ``capabilities_of`` says an organisation's."""
        return self._engine(self._default).capabilities

    async def capabilities_of(self, org_id: UUID) -> Capabilities:
        """What the engine that answers an organisation can do."""
        return (await self._reads(org_id)).capabilities

    def expire(self, org_id: UUID) -> None:
        """Ask again where an organisation's reads go."""
        self._routes.expire(org_id)

    def _engine(self, name: EngineName) -> ContextEngine:
        return self.engines.basic if name == "basic" else self.engines.advanced

    async def _load(self, org_id: UUID, _: Route | None) -> Route:
        async with self._db.tenant(org_id) as connection:
            return await read_route(connection, org_id, self._default)

    async def _reads(self, org_id: UUID) -> ContextEngine:
        return self._engine((await self._routes.get(org_id)).reads)

    @asynccontextmanager
    async def _writing(self, org_id: UUID) -> AsyncGenerator[tuple[ContextEngine, bool]]:
        """The engine to write to, and whether to write to both, which stays so meanwhile."""
        async with together(self._db, org_id) as connection:
            route = await read_route(connection, org_id, self._default)
            yield self._engine(route.reads), route.both

    # -- writes -----------------------------------------------------------------------------

    async def prepare(self) -> None:
        """Create constraints and indexes of both."""
        await asyncio.gather(self.engines.basic.prepare(), self.engines.advanced.prepare())

    async def upsert_nodes(
        self, org_id: UUID, batch: pa.RecordBatch, seen_at: datetime, *, fresh: bool = False
    ) -> Written:
        """Write a batch of schema ``NODES``; see the protocol."""
        async with self._writing(org_id) as (engine, both):
            if not both:
                return await engine.upsert_nodes(org_id, batch, seen_at, fresh=fresh)
            return await _both(
                self.engines.basic.upsert_nodes(org_id, batch, seen_at, fresh=fresh),
                self.engines.advanced.upsert_nodes(org_id, batch, seen_at),
            )

    async def upsert_edges(
        self, org_id: UUID, batch: pa.RecordBatch, seen_at: datetime, *, fresh: bool = False
    ) -> Written:
        """Write a batch of schema ``EDGES``; see the protocol.

        Its ends may not have come to Advanced yet, so there they are not looked for.
        """
        async with self._writing(org_id) as (engine, both):
            if not both:
                return await engine.upsert_edges(org_id, batch, seen_at, fresh=fresh)
            return await _both(
                self.engines.basic.upsert_edges(org_id, batch, seen_at, fresh=fresh),
                self.engines.advanced.upsert_edges(org_id, batch, seen_at, fresh=True),
            )

    async def append_events(self, org_id: UUID, batch: pa.RecordBatch) -> Written:
        """Add a batch of schema ``EVENTS``.

        First to Advanced: an event that Basic shows is there, so that none is taken over twice.
        """
        async with self._writing(org_id) as (engine, both):
            if both:
                await self.engines.advanced.append_events(org_id, batch)
                return await self.engines.basic.append_events(org_id, batch)
            return await engine.append_events(org_id, batch)

    async def archive(
        self, org_id: UUID, kind: EntityKind, ids: Sequence[str], at: datetime
    ) -> Written:
        """Hide entities.

        What Advanced has not got yet comes there first, to be hidden: otherwise the backfill would
        bring it later and nobody would hide it again. Basic is last, so that a call which is cut
        off finds the same entities when it is repeated.
        """
        async with self._writing(org_id) as (engine, both):
            if not both:
                return await engine.archive(org_id, kind, ids, at)
            leaving = self.engines.leaving
            entities = (
                await leaving.entities(org_id, "node", ids)
                if kind == "node"
                else await leaving.edges_among(org_id, ids)
            )
            await self.engines.arriving.adopt(org_id, kind, entities)
            await self.engines.advanced.archive(org_id, kind, ids, at)
            return await self.engines.basic.archive(org_id, kind, ids, at)

    async def prune(self, org_id: UUID, source_id: UUID, archived_before: datetime) -> int:
        """Delete entities of a source that were archived before a time; returns their number."""
        async with self._writing(org_id) as (engine, both):
            if both:
                other = self.engines.basic
                if engine is other:
                    other = self.engines.advanced
                await other.prune(org_id, source_id, archived_before)
            return await engine.prune(org_id, source_id, archived_before)

    async def erase(self, org_id: UUID) -> AsyncGenerator[int]:
        """Delete an organisation's whole graph from both; yields what each step took."""
        for engine in (self.engines.basic, self.engines.advanced):
            async for gone in engine.erase(org_id):
                yield gone

    # -- reads ------------------------------------------------------------------------------

    async def holds(self, org_id: UUID, source_id: UUID) -> bool:
        """Whether there is any entity of a source, archived ones included."""
        return await (await self._reads(org_id)).holds(org_id, source_id)

    async def existing(self, org_id: UUID, ids: Sequence[str]) -> set[str]:
        """Those of the node ids that are live."""
        return await (await self._reads(org_id)).existing(org_id, ids)

    async def node(self, scope: Scope, node_id: str) -> Node | None:
        """A live node with its degree, or None."""
        return await (await self._reads(scope.org_id)).node(scope, node_id)

    async def neighbors(
        self,
        scope: Scope,
        node_id: str,
        *,
        depth: int = 1,
        direction: Direction = "both",
        types: Sequence[str] = (),
        limit: int = 200,
    ) -> Subgraph:
        """What lies within ``depth`` hops; see the protocol."""
        engine = await self._reads(scope.org_id)
        return await engine.neighbors(
            scope, node_id, depth=depth, direction=direction, types=types, limit=limit
        )

    async def search(self, scope: Scope, query: SearchQuery) -> SearchAnswer:
        """Full-text search with facets."""
        return await (await self._reads(scope.org_id)).search(scope, query)

    async def query(self, scope: Scope, query: Query) -> QueryResult:
        """Run a read-only query inside the scope; raises as the engine of the organisation."""
        return await (await self._reads(scope.org_id)).query(scope, query)

    async def arrow(self, scope: Scope, query: Query) -> AsyncIterator[pa.RecordBatch]:
        """The rows of ``query`` as Arrow batches, all from one engine."""
        async for batch in (await self._reads(scope.org_id)).arrow(scope, query):
            yield batch

    async def native(
        self, org_id: UUID, language: Language, text: str, *, limit: int, timeout_ms: int
    ) -> NativeResult:
        """Hand a text to the organisation's engine as it stands; raises as that does."""
        engine = await self._reads(org_id)
        return await engine.native(org_id, language, text, limit=limit, timeout_ms=timeout_ms)

    async def schema(self, scope: Scope) -> GraphSchema:
        """Labels, edge types and their property names."""
        return await (await self._reads(scope.org_id)).schema(scope)

    async def stats(self, scope: Scope) -> GraphStats:
        """Counts by label, type and realm."""
        return await (await self._reads(scope.org_id)).stats(scope)

    async def overview(self, scope: Scope, limit: int = 800) -> Subgraph:
        """A bounded picture of the graph."""
        return await (await self._reads(scope.org_id)).overview(scope, limit)

    async def nodes_by_id(self, scope: Scope, ids: Sequence[str]) -> list[Node]:
        """Live nodes for ids, in the order of the ids."""
        return await (await self._reads(scope.org_id)).nodes_by_id(scope, ids)

    async def export_nodes(self, org_id: UUID, source_id: UUID) -> AsyncIterator[pa.RecordBatch]:
        """Live nodes of a source as ``NODES`` batches, all from one engine."""
        async for batch in (await self._reads(org_id)).export_nodes(org_id, source_id):
            yield batch

    async def ping(self) -> None:
        """Return when both engines answer.

        Raises:
            StoreUnavailableError: one does not.
        """
        await asyncio.gather(self.engines.basic.ping(), self.engines.advanced.ping())

    async def close(self) -> None:
        """Give the connections of both back."""
        await self._routes.close()
        await self.engines.basic.close()
        await self.engines.advanced.close()


async def _both(*writes: Awaitable[Written]) -> Written:
    """What the first write changed, with what any of them refused.

    All have ended by then: none may go on after the lock is free.
    """
    done = await asyncio.gather(*writes, return_exceptions=True)
    for each in done:
        if isinstance(each, BaseException):
            raise each
    written = cast("list[Written]", done)
    refused = {each.id: each for one in written for each in one.refused}
    return written[0].model_copy(update={"refused": tuple(refused.values())})
