"""``BasicEngine``: the ``ContextEngine`` protocol over a Bolt server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from datetime import UTC, datetime
from uuid import UUID

import pyarrow as pa

from agentcy_ray.context.basic import events, facts, reads, search, writes
from agentcy_ray.context.basic.bolt import Bolt
from agentcy_ray.context.basic.layout import edge_rows, node_rows, stamp
from agentcy_ray.context.basic.query import run_query
from agentcy_ray.context.basic.schema import Schema
from agentcy_ray.context.engine import (
    Capabilities,
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
from agentcy_ray.context.tables import as_batches
from agentcy_ray.core.errors import CapabilityError

ADVANCED = "CONTEXT_ENGINE=advanced, KYMA_BASE_URL, KYMA_TOKEN, KYMA_DATABASE"


class BasicEngine:
    """A graph on the embedded server, Neo4j ≥ 5.13 or AuraDB.

    Writes of one engine object go one after another; who writes from several processes holds a
    lock around it (a sync does). Racing writers lose time, not rows.
    """

    def __init__(self, bolt: Bolt, *, embedded: bool, batch_rows: int) -> None:
        self._bolt = bolt
        self._schema = Schema(bolt)
        self._batch_rows = batch_rows
        self._writing = asyncio.Lock()
        self._capabilities = Capabilities(
            engine="basic",
            backing="embedded Bolt server" if embedded else "Bolt server of NEO4J_URI",
            cypher=True,
            kql=False,
            sql=False,
            time_series=False,
            schema_evolution=False,
            arrow_native=False,
            ingest=("bolt",),
            writers="one",
            vectors="pgvector",
            byo_bucket=False,
            typed_columns=False,
            graph_registered=False,
        )

    @property
    def capabilities(self) -> Capabilities:
        """What this engine can do."""
        return self._capabilities

    async def capabilities_of(self, org_id: UUID) -> Capabilities:
        """The same for every organisation."""
        return self._capabilities

    async def prepare(self) -> None:
        """Create constraints and indexes; also done by the first write."""
        await self._schema.entities()

    async def upsert_nodes(
        self, org_id: UUID, batch: pa.RecordBatch, seen_at: datetime, *, fresh: bool = False
    ) -> Written:
        """Write a batch of schema ``NODES``; ``archived_at`` is cleared, ``first_seen`` kept.

        Raises:
            InvalidError: a label or the properties of a row cannot be stored.
        """
        rows = await asyncio.to_thread(node_rows, org_id, batch, seen_at)
        async with self._writing:
            await self._schema.entities()
            count = await writes.write_nodes(self._bolt, rows, self._batch_rows, fresh=fresh)
        return Written(rows=count)

    async def upsert_edges(
        self, org_id: UUID, batch: pa.RecordBatch, seen_at: datetime, *, fresh: bool = False
    ) -> Written:
        """Write a batch of schema ``EDGES``; rows whose ends are not both there are left out.

        With ``fresh`` the batch is one transaction, however long it is, unless that is too much.

        Raises:
            InvalidError: a type or the properties of a row cannot be stored.
        """
        groups = await asyncio.to_thread(edge_rows, org_id, batch, seen_at)
        total = 0
        async with self._writing:
            await self._schema.entities()
            for type_ in groups:
                await self._schema.edges(type_)
            if fresh:
                lists = {type_: list(rows.values()) for type_, rows in groups.items()}
                count = await writes.load_edges(self._bolt, org_id, lists, self._batch_rows)
                return Written(rows=count)
            for type_, rows in groups.items():
                total += await writes.write_edges(
                    self._bolt, org_id, type_, list(rows.values()), self._batch_rows
                )
        return Written(rows=total)

    async def append_events(self, org_id: UUID, batch: pa.RecordBatch) -> Written:
        """Write events as nodes ``Event`` with their own label beside it, kept 14 days.

        Raises:
            InvalidError: a label or the properties of an event cannot be stored.
        """
        for seen_at, nodes in await asyncio.to_thread(events.event_nodes, org_id, batch):
            await self.upsert_nodes(org_id, nodes, seen_at)
        return Written(rows=batch.num_rows)

    async def holds(self, org_id: UUID, source_id: UUID) -> bool:
        """Whether there is any entity of a source, archived ones included."""
        return await writes.holds(self._bolt, org_id, source_id)

    async def archive(
        self, org_id: UUID, kind: EntityKind, ids: Sequence[str], at: datetime
    ) -> Written:
        """Hide live entities from every read that does not ask for archived ones."""
        archive = writes.archive_nodes if kind == "node" else writes.archive_edges
        async with self._writing:
            await self._schema.entities()
            changed = await archive(self._bolt, org_id, ids, stamp(at), self._batch_rows)
        return Written(rows=changed)

    async def prune(self, org_id: UUID, source_id: UUID, archived_before: datetime) -> int:
        """Delete entities of a source that were archived before a time; returns their number.

        Events of the organisation that are over their time go along.
        """
        async with self._writing:
            over = await events.expire(self._bolt, org_id, datetime.now(UTC))
            return over + await writes.prune(self._bolt, org_id, source_id, stamp(archived_before))

    async def erase(self, org_id: UUID) -> AsyncGenerator[int]:
        """Delete an organisation's whole graph, its events too; yields what each step deleted."""
        async with self._writing:
            async for gone in writes.erase(self._bolt, org_id):
                yield gone

    async def existing(self, org_id: UUID, ids: Sequence[str]) -> set[str]:
        """Those of the node ids that are live."""
        return await reads.existing(self._bolt, org_id, ids)

    async def node(self, scope: Scope, node_id: str) -> Node | None:
        """A live node with its degree, or None."""
        return await reads.node(self._bolt, scope, node_id)

    async def nodes_by_id(self, scope: Scope, ids: Sequence[str]) -> list[Node]:
        """Live nodes for ids, in the order of the ids; absent ones are left out."""
        return await reads.nodes_by_id(self._bolt, scope, ids)

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
        """What lies within ``depth`` (1–3) hops; at most ``limit`` (≤ 2,000) nodes.

        Raises:
            InvalidError: depth or limit out of bounds.
        """
        return await reads.neighbors(
            self._bolt, scope, node_id, depth=depth, direction=direction, types=types, limit=limit
        )

    async def overview(self, scope: Scope, limit: int = 800) -> Subgraph:
        """The best-connected nodes and the edges among them."""
        return await reads.overview(self._bolt, scope, limit)

    async def search(self, scope: Scope, query: SearchQuery) -> SearchAnswer:
        """Full-text search with facets; see `agentcy_ray.context.basic.search`."""
        return await search.search(self._bolt, scope, query)

    async def query(self, scope: Scope, query: Query) -> QueryResult:
        """Run a read-only Cypher query inside the scope.

        Raises:
            CapabilityError: another language.
            QueryRejectedError, QueryTimeoutError: see `agentcy_ray.context.basic.query`.
        """
        if query.language != "cypher":
            raise CapabilityError(
                f"the Basic engine answers Cypher, not {query.language}; for it set {ADVANCED}",
                capability=query.language,
                engine="basic",
                set=ADVANCED,
            )
        return await run_query(self._bolt, scope, query)

    async def arrow(self, scope: Scope, query: Query) -> AsyncIterator[pa.RecordBatch]:
        """The rows of ``query``, gathered and then made into Arrow batches.

        Raises:
            CapabilityError, QueryRejectedError, QueryTimeoutError: as ``query``.
        """
        for batch in await asyncio.to_thread(as_batches, await self.query(scope, query)):
            yield batch

    async def native(
        self, org_id: UUID, language: Language, text: str, *, limit: int, timeout_ms: int
    ) -> NativeResult:
        """Refuse: organisations share the database of this engine.

        Raises:
            CapabilityError: always.
        """
        raise CapabilityError(
            "the Basic engine keeps all organisations in one database, so it answers scoped"
            f" queries alone; for native ones set {ADVANCED}",
            capability="native",
            engine="basic",
            set=ADVANCED,
        )

    async def schema(self, scope: Scope) -> GraphSchema:
        """Labels, edge types and their property names."""
        return await facts.schema(self._bolt, scope)

    async def stats(self, scope: Scope) -> GraphStats:
        """Counts by label, type and realm."""
        return await facts.stats(self._bolt, scope)

    def export_nodes(self, org_id: UUID, source_id: UUID) -> AsyncIterator[pa.RecordBatch]:
        """Live nodes of a source as ``NODES`` batches, for verification."""
        return reads.export_nodes(self._bolt, org_id, source_id)

    async def ping(self) -> None:
        """Return when the server answers, at once when it does not listen.

        Raises:
            StoreUnavailableError: it does not answer.
        """
        await self._bolt.ping()

    async def close(self) -> None:
        """Give connections back."""
        await self._bolt.close()
