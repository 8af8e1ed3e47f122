"""``publish_rate``: entities and edges that a sync publishes a second, against raw Bolt writes.

Subject: the publish stage of a real sync of a generated git repository, its vectors left out.
Control: the same rows, as the property maps that the engine stores, by the official driver:
``UNWIND … CREATE`` in batches of the same size, in managed transactions. That is the fastest write
there is, and it cannot be repeated. (``MERGE`` is no control here: on two labels, or on an edge
with an id, the embedded server scans for it.)
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from neo4j import AsyncDriver, AsyncGraphDatabase

from agentcy_ray.connectors.registry import builtin_registry
from agentcy_ray.connectors.source_records import NewSource
from agentcy_ray.connectors.sources import SourceStore
from agentcy_ray.context.basic.layout import edge_rows, node_rows
from agentcy_ray.context.engine import ContextEngine
from agentcy_ray.core.batches import EDGES, NODES
from agentcy_ray.ingest.publish import Stores
from agentcy_ray.ingest.runner import SyncRunner
from agentcy_ray.ingest.service import source_opener
from agentcy_ray.ingest.syncs import SyncRuns
from agentcy_ray.jobs.postgres_queue import PostgresQueue
from agentcy_ray.jobs.worker import Beat
from agentcy_ray.retrieval.embedder import EmbedderInfo, Vectors, vectors_of
from agentcy_ray.retrieval.one_embedder import OneEmbedder
from agentcy_ray.retrieval.spaces import Space, SpaceStore
from agentcy_ray.stores.keys.opening import open_vault
from agentcy_ray.stores.objects import open_objects
from benchmarks.figures import Figure, compared
from benchmarks.fixtures import make_repository
from benchmarks.stores import Bench, fresh_stores

COMMITS, ROUNDS = 3_000, 3
Rows = list[dict[str, Any]]


class _NoVectors:
    """A vector index and an embedder that keep nothing: this figure is about the graph."""

    info = EmbedderInfo("local:none", "none/8", 8, 512)

    async def embed(self, texts: Sequence[str]) -> Vectors:
        return vectors_of(np.ones((len(texts), 8), np.float32))

    async def existing_keys(self, space: Space, node_ids: Sequence[str]) -> set[str]:
        return set()

    async def upsert(self, space: Space, chunks: pa.RecordBatch, vectors: Vectors) -> int:
        return chunks.num_rows

    async def refresh(self, space: Space, chunks: pa.RecordBatch) -> int:
        return 0

    async def refresh_nodes(self, space: Space, chunks: pa.RecordBatch) -> int:
        return 0

    async def replace_node_chunks(
        self, space: Space, node_ids: Sequence[str], keep_keys: Sequence[str]
    ) -> int:
        return 0

    async def archive_nodes(self, space: Space, node_ids: Sequence[str], at: datetime) -> int:
        return 0

    async def count(self, space: Space, source_id: UUID | None = None) -> int:
        return 0

    def chunk(self, text: str, media_type: str = "text/plain") -> list[str]:
        return [text[:100]]


class _NoCut:
    """Chunkers of a kind that cuts nothing."""

    def of(self, chunking: str) -> _NoVectors:
        return _NoVectors()


def stores_without_vectors(engine: ContextEngine, spaces: SpaceStore) -> Stores:
    """Stores of a sync that is to write the graph alone."""
    none, cut = _NoVectors(), _NoCut()
    return Stores(engine, none, spaces, OneEmbedder(none), cut, "none")  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True)
class _Package:
    """Rows of a package, ready for Bolt."""

    nodes: dict[str, Rows]
    edges: dict[str, Rows]

    @property
    def size(self) -> int:
        return sum(map(len, (*self.nodes.values(), *self.edges.values())))


async def run() -> list[Figure]:
    """Rows a second of both, in turns, each into ids of its own."""
    ours: list[float] = []
    theirs: list[float] = []
    async with fresh_stores() as bench:
        place = make_repository(bench.folder / "repo", commits=COMMITS)
        at = bench.endpoints
        async with AsyncGraphDatabase.driver(
            at.neo4j_uri, auth=(at.neo4j_user, at.neo4j_password)
        ) as driver:
            for number in range(ROUNDS):
                rate, package = await _publish(bench, str(place), number)
                ours.append(rate)
                theirs.append(await _raw(bench, driver, _renamed(package, f"raw{number}")))
    return [
        compared("publish_rate", "rows/s", "raw Bolt UNWIND", ours, theirs, at_least=0.8),
    ]


async def _publish(bench: Bench, url: str, number: int) -> tuple[float, _Package]:
    settings, db = bench.settings, bench.db
    registry, objects = builtin_registry(settings), open_objects(settings)
    sources = SourceStore(db, open_vault(settings), registry)
    new = NewSource(name=f"repo{number}", connector="git", config={"url": url})
    source = await sources.create(bench.owner, new)
    run = await SyncRuns(db, PostgresQueue(settings, db)).request(bench.owner, source.id)
    stores = stores_without_vectors(bench.engine, SpaceStore(db, settings))
    opener = source_opener(sources, registry, objects)
    runner = SyncRunner(db, objects, stores, opener, settings)
    await runner.run(bench.owner.org_id, run.id, "benchmark", Beat(1))
    done = await SyncRuns(db, PostgresQueue(settings, db)).get(bench.owner.org_id, run.id)
    assert done.status == "synced", done.error
    package = _read(bench, source.id)
    return package.size / done.counts["seconds"]["publish"], package


def _read(bench: Bench, source_id: UUID) -> _Package:
    """The rows of the source's package as the engine stores them, grouped as Cypher needs them."""
    folder, org, now = bench.settings.state_dir / "objects", bench.owner.org_id, datetime.now(UTC)
    nodes: dict[str, Rows] = {}
    edges: dict[str, Rows] = {}
    for path in folder.rglob("*.parquet"):
        if source_id.hex not in str(path).replace("-", ""):
            continue
        for batch in pq.ParquetFile(path).iter_batches() if path.parent.name == "nodes" else ():
            for row in node_rows(org, batch.select(NODES.names).cast(NODES), now):
                nodes.setdefault(":".join(row["_labels"]), []).append(row)
        for batch in pq.ParquetFile(path).iter_batches() if path.parent.name == "edges" else ():
            for kind, rows in edge_rows(org, batch.select(EDGES.names).cast(EDGES), now).items():
                edges.setdefault(kind, []).extend(rows.values())
    return _Package(nodes, edges)


def _renamed(package: _Package, prefix: str) -> _Package:
    def rename(rows: Rows) -> Rows:
        keys = ("id", "_src", "_dst")
        return [
            {**row, **{key: f"{prefix}_{row[key]}" for key in keys if key in row}} for row in rows
        ]

    return _Package(
        {label: rename(rows) for label, rows in package.nodes.items()},
        {kind: rename(rows) for kind, rows in package.edges.items()},
    )


async def _raw(bench: Bench, driver: AsyncDriver, package: _Package) -> float:
    ends = "MATCH (a:Entity {id: row._src}) MATCH (b:Entity {id: row._dst})"
    began = time.perf_counter()
    async with driver.session(database=bench.endpoints.neo4j_database) as session:
        for label, rows in package.nodes.items():
            text = f"UNWIND $rows AS row CREATE (n:Entity:{label}) SET n = row"
            await _write(bench, session, text, rows)
        for kind, rows in package.edges.items():
            text = f"UNWIND $rows AS row {ends} CREATE (a)-[r:{kind}]->(b) SET r = row"
            await _write(bench, session, text, rows)
    return package.size / (time.perf_counter() - began)


async def _write(bench: Bench, session: Any, text: str, rows: Rows) -> None:
    size = bench.settings.pipeline_batch_size
    for start in range(0, len(rows), size):
        await session.execute_write(_run, text, rows[start : start + size])


async def _run(transaction: Any, text: str, rows: Rows) -> None:
    await (await transaction.run(text, rows=rows)).consume()
