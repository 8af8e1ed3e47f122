"""The ``ContextEngine`` protocol and the records that its methods speak.

Callers never ask which engine they hold; they read ``engine.capabilities``. Every method takes a
``Scope``: an engine without one cannot be asked anything, so no call can forget the tenant.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Any, Literal, Protocol
from uuid import UUID

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

Language = Literal["cypher", "kql", "sql"]
Direction = Literal["out", "in", "both"]
EntityKind = Literal["node", "edge"]


class Record(BaseModel):
    """Base of the frozen records below."""

    model_config = ConfigDict(frozen=True)


class Scope(Record):
    """Whose graph, and which part of it. ``realms`` None = every realm of the organisation."""

    org_id: UUID
    realms: tuple[str, ...] | None = None


class Capabilities(Record):
    """What an engine can do; the matrix of the product specification, §12.3."""

    engine: Literal["basic", "advanced"]
    backing: str
    cypher: bool
    kql: bool
    sql: bool
    promql: bool = False
    time_series: bool
    schema_evolution: bool
    arrow_native: bool
    ingest: tuple[str, ...]
    writers: Literal["one", "many"]
    vectors: str
    byo_bucket: bool
    typed_columns: bool
    graph_registered: bool


class SourceRef(Record):
    """Where an entity came from."""

    connector: str
    source_id: str
    external_id: str


class Node(Record):
    """An entity."""

    id: str
    labels: tuple[str, ...]
    realm: str
    name: str
    properties: dict[str, Any]
    source: SourceRef
    first_seen: datetime | None = None
    last_seen: datetime | None = None
    archived_at: datetime | None = None
    content_hash: str = ""
    degree: int | None = None


class Edge(Record):
    """A directed relationship."""

    id: str
    src: str
    dst: str
    type: str
    realm: str
    properties: dict[str, Any] = Field(default_factory=dict)


class Subgraph(Record):
    """Nodes and the edges among them; ``truncated`` when a limit cut it."""

    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    truncated: bool = False


class Query(Record):
    """One read-only query."""

    language: Language = "cypher"
    text: str
    params: dict[str, Any] = Field(default_factory=dict)
    limit: int = 1000
    timeout_ms: int = 30_000
    include_archived: bool = False


class Column(Record):
    """A result column; ``type`` is an Arrow type name, ``node``, ``edge``, ``path`` or ``any``."""

    name: str
    type: str


class QueryResult(Record):
    """Rows of a query, cut at its limit; ``truncated`` says that there were more."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[Any, ...], ...]
    truncated: bool
    took_ms: float
    engine: str
    warnings: tuple[str, ...] = ()
    chart: dict[str, Any] | None = None
    """How the rows may be drawn: ``{kind: bar|line, x, y[], series?}``."""


class NativeResult(Record):
    """The engine's own answer to a text that nobody scoped or rewrote, cut at a limit."""

    rows: tuple[dict[str, Any], ...]
    truncated: bool
    took_ms: float
    engine: str
    database: str


class SearchQuery(Record):
    """Full-text search over names and text properties; at least two characters."""

    text: str
    labels: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    limit: int = 50
    offset: int = 0


class Facet(Record):
    """One value of a facet with the number of hits that carry it."""

    value: str
    count: int


class Bucket(Record):
    """One bar of the time histogram over ``last_seen``."""

    start: datetime
    count: int


class SearchAnswer(Record):
    """Hits with facets and histogram that count the same hits (all of them, not the page)."""

    hits: tuple[Node, ...]
    total: int
    labels: tuple[Facet, ...]
    sources: tuple[Facet, ...]
    interval: str
    histogram: tuple[Bucket, ...]


class LabelSchema(Record):
    """A label or an edge type with its count and the property names seen on it."""

    name: str
    count: int
    properties: tuple[str, ...] = ()


class GraphSchema(Record):
    """What may be asked for; feeds autocomplete."""

    labels: tuple[LabelSchema, ...]
    types: tuple[LabelSchema, ...]


class GraphStats(Record):
    """Counts of live entities."""

    nodes: int
    edges: int
    labels: dict[str, int]
    types: dict[str, int]
    realms: dict[str, int]


class Refused(Record):
    """An entity that the engine's server does not take, with its reason; others were written."""

    id: str
    reason: str


class Written(Record):
    """What one batch changed."""

    rows: int
    refused: tuple[Refused, ...] = ()


class ContextEngine(Protocol):
    """A knowledge graph. Writes are idempotent: the same batch twice leaves the same graph.

    ``seen_at`` grows with each publish of a source: of two rows of one entity the later one counts.
    """

    @property
    def capabilities(self) -> Capabilities:
        """What this engine can do."""
        ...

    async def capabilities_of(self, org_id: UUID) -> Capabilities:
        """What the engine that answers an organisation can do; there may be several engines."""
        ...

    async def prepare(self) -> None:
        """Create constraints and indexes; safe to call again and from several processes."""
        ...

    async def upsert_nodes(
        self, org_id: UUID, batch: pa.RecordBatch, seen_at: datetime, *, fresh: bool = False
    ) -> Written:
        """Write a batch of schema ``NODES``; ``archived_at`` is cleared, ``first_seen`` kept.

        ``fresh``: the engine held nothing of the source when this publish began (``holds``) and
        no row comes twice, so it need not look for what exists.
        """
        ...

    async def upsert_edges(
        self, org_id: UUID, batch: pa.RecordBatch, seen_at: datetime, *, fresh: bool = False
    ) -> Written:
        """Write a batch of schema ``EDGES``; both ends must exist (see ``existing``).

        ``fresh`` as in ``upsert_nodes``.
        """
        ...

    async def append_events(self, org_id: UUID, batch: pa.RecordBatch) -> Written:
        """Add a batch of schema ``EVENTS``; the same batch again adds nothing."""
        ...

    async def holds(self, org_id: UUID, source_id: UUID) -> bool:
        """Whether there is any entity of a source, archived ones included."""
        ...

    async def archive(
        self, org_id: UUID, kind: EntityKind, ids: Sequence[str], at: datetime
    ) -> Written:
        """Hide entities from every read that does not ask for archived ones."""
        ...

    async def existing(self, org_id: UUID, ids: Sequence[str]) -> set[str]:
        """Those of the node ids that are live."""
        ...

    async def prune(self, org_id: UUID, source_id: UUID, archived_before: datetime) -> int:
        """Delete entities of a source that were archived before a time; returns their number."""
        ...

    def erase(self, org_id: UUID) -> AsyncIterator[int]:
        """Delete an organisation's whole graph; yields how many entities each step took.

        One that was cut off is repeated. On an engine that only adds rows nothing shows them any
        more, and they go when it rewrites its files.
        """
        ...

    async def node(self, scope: Scope, node_id: str) -> Node | None:
        """A live node with its degree, or None."""
        ...

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
        """What lies within ``depth`` (1–3) hops; at most ``limit`` (≤ 2,000) nodes."""
        ...

    async def search(self, scope: Scope, query: SearchQuery) -> SearchAnswer:
        """Full-text search with facets."""
        ...

    async def query(self, scope: Scope, query: Query) -> QueryResult:
        """Run a read-only query inside the scope.

        Raises:
            CapabilityError: the engine does not speak the language.
            QueryRejectedError: the text writes, calls procedures, names another database, holds
                several statements or unbounded hops, or does not parse.
            QueryTimeoutError: it ran past ``timeout_ms``.
        """
        ...

    def arrow(self, scope: Scope, query: Query) -> AsyncIterator[pa.RecordBatch]:
        """The rows of ``query`` as Arrow batches of one schema, cut at its limit.

        At least one batch comes, an empty one where there are no rows, so that the schema is
        known. Nodes, edges, paths, lists, maps and columns of mixed types are JSON text.

        Raises:
            CapabilityError, QueryRejectedError, QueryTimeoutError: as ``query``, by the first batch
                or a later one.
        """
        ...

    async def native(
        self, org_id: UUID, language: Language, text: str, *, limit: int, timeout_ms: int
    ) -> NativeResult:
        """Hand a text to the engine as it stands, on the organisation's own database.

        It sees every version of every row, whatever the caller's realms; for administrators.

        Raises:
            CapabilityError: the engine holds organisations in one database.
            QueryRejectedError: the engine does not take the text.
            QueryTimeoutError: it ran past ``timeout_ms``.
        """
        ...

    async def schema(self, scope: Scope) -> GraphSchema:
        """Labels, edge types and their property names."""
        ...

    async def stats(self, scope: Scope) -> GraphStats:
        """Counts by label, type and realm."""
        ...

    async def overview(self, scope: Scope, limit: int = 800) -> Subgraph:
        """A bounded picture of the graph: the best-connected nodes and the edges among them."""
        ...

    async def nodes_by_id(self, scope: Scope, ids: Sequence[str]) -> list[Node]:
        """Live nodes for ids, in the order of the ids; absent ones are left out."""
        ...

    def export_nodes(self, org_id: UUID, source_id: UUID) -> AsyncIterator[pa.RecordBatch]:
        """Live nodes of a source as ``NODES`` batches, for verification."""
        ...

    async def ping(self) -> None:
        """Return when the engine answers.

        Raises:
            StoreUnavailableError: it does not.
        """
        ...

    async def close(self) -> None:
        """Give connections back."""
        ...
