"""``AdvancedEngine``: the ``ContextEngine`` protocol over kyma."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from uuid import UUID

import pyarrow as pa

from agentcy_ray.context.advanced import counts, reads, search, writes
from agentcy_ray.context.advanced.query import (
    Planners,
    native_query,
    run_query,
    stream_query,
)
from agentcy_ray.context.advanced.store import Store
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


class AdvancedEngine:
    """A graph in kyma: an append-only store, of which every read sees the newest rows.

    Of two writes the one with the later ``seen_at`` counts, whenever it arrives; an archiving
    counts after what it hides. A write is visible when it returns.
    """

    def __init__(
        self, store: Store, planners: Planners, *, embedded: bool, own_bucket: bool
    ) -> None:
        self._store = store
        self._planners = planners
        self._capabilities = Capabilities(
            engine="advanced",
            backing="embedded kyma-compatible engine" if embedded else "kyma of KYMA_BASE_URL",
            cypher="cypher" in planners,
            kql="kql" in planners,
            sql="sql" in planners,
            time_series=True,
            schema_evolution=True,
            arrow_native=True,
            ingest=("ndjson",) if embedded else ("ndjson", "otlp", "kafka", "file_drop"),
            writers="many",
            vectors="pgvector",
            byo_bucket=own_bucket,
            typed_columns=False,
            graph_registered=False,
        )

    @property
    def capabilities(self) -> Capabilities:
        """What this engine can do."""
        return self._capabilities

    @property
    def store(self) -> Store:
        """Where it reads and appends; for what moves into it."""
        return self._store

    async def capabilities_of(self, org_id: UUID) -> Capabilities:
        """The same for every organisation."""
        return self._capabilities

    async def prepare(self) -> None:
        """Nothing: the first write of an organisation makes its tables."""

    async def upsert_nodes(
        self, org_id: UUID, batch: pa.RecordBatch, seen_at: datetime, *, fresh: bool = False
    ) -> Written:
        """Write a batch of schema ``NODES``; ``archived_at`` is cleared, ``first_seen`` kept.

        Raises:
            InvalidError: a label or the properties of a row cannot be stored.
        """
        return await writes.write_nodes(self._store, org_id, batch, seen_at)

    async def upsert_edges(
        self, org_id: UUID, batch: pa.RecordBatch, seen_at: datetime, *, fresh: bool = False
    ) -> Written:
        """Write a batch of schema ``EDGES``; rows whose ends are not both there are left out.

        Raises:
            InvalidError: a type or the properties of a row cannot be stored.
        """
        return await writes.write_edges(self._store, org_id, batch, seen_at, fresh=fresh)

    async def append_events(self, org_id: UUID, batch: pa.RecordBatch) -> Written:
        """Add a batch of schema ``EVENTS`` to ``context_events``.

        Raises:
            InvalidError: the properties of an event are no JSON object.
        """
        return await writes.write_events(self._store, org_id, batch)

    async def holds(self, org_id: UUID, source_id: UUID) -> bool:
        """Whether there is any entity of a source, archived ones included."""
        return await writes.holds(self._store, org_id, source_id)

    async def archive(
        self, org_id: UUID, kind: EntityKind, ids: Sequence[str], at: datetime
    ) -> Written:
        """Hide live entities from every read that does not ask for archived ones."""
        return Written(rows=await writes.archive(self._store, org_id, kind, ids, at))

    async def prune(self, org_id: UUID, source_id: UUID, archived_before: datetime) -> int:
        """Let entities of a source that were archived before a time be gone; returns their number.

        Nothing shows them from then on; their rows stay in kyma's files (docs/decisions.md).
        """
        now = datetime.now(UTC)
        return await writes.prune(self._store, org_id, source_id, archived_before, now)

    def erase(self, org_id: UUID) -> AsyncIterator[int]:
        """Let an organisation's whole graph be gone, as ``prune``; yields what each step took."""
        return writes.erase(self._store, org_id, datetime.now(UTC))

    async def existing(self, org_id: UUID, ids: Sequence[str]) -> set[str]:
        """Those of the node ids that are live."""
        return await writes.existing(self._store, org_id, ids)

    async def node(self, scope: Scope, node_id: str) -> Node | None:
        """A live node with its degree, or None."""
        return await reads.node(self._store, scope, node_id)

    async def nodes_by_id(self, scope: Scope, ids: Sequence[str]) -> list[Node]:
        """Live nodes for ids, in the order of the ids; absent ones are left out."""
        return await reads.nodes_by_id(self._store, scope, ids)

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
            self._store, scope, node_id, depth=depth, direction=direction, types=types, limit=limit
        )

    async def overview(self, scope: Scope, limit: int = 800) -> Subgraph:
        """The best-connected nodes and the edges among them."""
        return await reads.overview(self._store, scope, limit)

    async def search(self, scope: Scope, query: SearchQuery) -> SearchAnswer:
        """Full-text search with facets; see `agentcy_ray.context.advanced.search`."""
        return await search.search(self._store, scope, query)

    async def query(self, scope: Scope, query: Query) -> QueryResult:
        """Run a read-only query inside the scope.

        Raises:
            CapabilityError, QueryRejectedError, QueryTimeoutError: see
                `agentcy_ray.context.advanced.query`.
        """
        return await run_query(self._store, self._planners, scope, query)

    async def arrow(self, scope: Scope, query: Query) -> AsyncIterator[pa.RecordBatch]:
        """The rows of ``query`` as kyma sends them, batch by batch. Raises as ``query``."""
        async with aclosing(stream_query(self._store, self._planners, scope, query)) as batches:
            async for batch in batches:
                yield batch

    async def native(
        self, org_id: UUID, language: Language, text: str, *, limit: int, timeout_ms: int
    ) -> NativeResult:
        """Hand a text to kyma as it stands, on the organisation's database.

        Raises:
            QueryRejectedError, QueryTimeoutError: see the protocol.
        """
        return await native_query(
            self._store, org_id, language, text, limit=limit, timeout_ms=timeout_ms
        )

    async def schema(self, scope: Scope) -> GraphSchema:
        """Labels, edge types and their property names."""
        return await counts.schema(self._store, scope)

    async def stats(self, scope: Scope) -> GraphStats:
        """Counts by label, type and realm."""
        return await counts.stats(self._store, scope)

    def export_nodes(self, org_id: UUID, source_id: UUID) -> AsyncIterator[pa.RecordBatch]:
        """Live nodes of a source as ``NODES`` batches, for verification."""
        return reads.export_nodes(self._store, org_id, source_id)

    async def ping(self) -> None:
        """Return when kyma answers.

        Raises:
            StoreUnavailableError: it does not answer.
        """
        await self._store.client.ping()

    async def close(self) -> None:
        """Give connections back."""
        await self._store.client.close()
