"""Everything that a sync needs, on real stores, and a look at what it left in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import orjson

from agentcy_ray.context.engine import ContextEngine, Query, Scope
from agentcy_ray.core.ids import new_id, node_id
from agentcy_ray.core.settings import Settings
from agentcy_ray.core.tenancy import Principal, Role
from agentcy_ray.ingest.publish import Stores
from agentcy_ray.ingest.runner import SyncRunner, no_probe
from agentcy_ray.ingest.syncs import SyncRun, SyncRuns
from agentcy_ray.jobs.postgres_queue import PostgresQueue
from agentcy_ray.jobs.worker import Beat
from agentcy_ray.retrieval.embedder import EmbedderInfo, Vectors, vectors_of
from agentcy_ray.stores.objects import ObjectStore
from agentcy_ray.stores.postgres import Database
from tests.ingest.memory_source import EdgeKey, Graph, MemorySource, NodeKey

REALM = "development"


@dataclass
class WordEmbedder:
    """A tiny real embedder: hashed words, so that equal texts have equal vectors."""

    texts: list[str] = field(default_factory=list)
    error: Exception | None = None
    info: EmbedderInfo = field(default_factory=lambda: EmbedderInfo("words", "words/1", 16, 512))

    async def embed(self, texts: Sequence[str]) -> Vectors:
        if self.error is not None and texts:
            raise self.error
        self.texts += texts
        vectors = np.zeros((len(texts), self.info.dim), dtype=np.float32)
        for row, text in enumerate(texts):
            vectors[row, 0] = 0.1
            for word in text.split():
                vectors[row, sum(word.encode()) % self.info.dim] += 1
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors_of(vectors / np.maximum(norms, 1e-9))


@dataclass
class House:
    """One organisation with one source, and the rooms that sync it."""

    db: Database
    settings: Settings
    objects: ObjectStore
    stores: Stores
    embedder: WordEmbedder
    source: MemorySource
    org_id: UUID
    source_id: UUID
    claims: int = 0

    @property
    def engine(self) -> ContextEngine:
        return self.stores.engine

    @property
    def principal(self) -> Principal:
        return Principal(user_id=new_id(), org_id=self.org_id, role=Role.OWNER)

    @property
    def syncs(self) -> SyncRuns:
        return SyncRuns(self.db, PostgresQueue(self.settings, self.db))

    def runner(self, **how: Any) -> SyncRunner:
        given = {"probe": no_probe, **how}
        objects = given.pop("objects", self.objects)
        stores = given.pop("stores", self.stores)
        return SyncRunner(self.db, objects, stores, self.source.open, self.settings, **given)

    async def request(self, **how: Any) -> SyncRun:
        return await self.syncs.request(self.principal, self.source_id, **how)

    async def carry_out(self, run: SyncRun, *, last_attempt: bool = True, **how: Any) -> SyncRun:
        """One attempt at a run, as a worker would make it; the job is settled by hand."""
        self.claims += 1
        beat = how.pop("beat", None) or Beat(self.claims, last_attempt=last_attempt)
        try:
            await self.runner(**how).run(self.org_id, run.id, f"w{self.claims}", beat)
        finally:
            await self.settle(run)
        return await self.syncs.get(self.org_id, run.id)

    async def settle(self, run: SyncRun) -> None:
        """End the job of a run that has ended."""
        async with self.db.system() as connection:
            await connection.execute(
                "UPDATE jobs SET status = 'succeeded' WHERE id = $1 AND EXISTS (SELECT 1 FROM"
                " sync_runs WHERE job_id = $1 AND ended_at IS NOT NULL)",
                run.job_id,
            )

    async def sync(self, **how: Any) -> SyncRun:
        """Request and carry out one sync."""
        mode, force = how.pop("mode", None), how.pop("force", False)
        return await self.carry_out(await self.request(mode=mode, force=force), **how)

    async def revert(self, package_id: UUID) -> SyncRun:
        run = await self.syncs.request_revert(self.principal, self.source_id, package_id)
        return await self.carry_out(run)

    # -- what is in the stores ------------------------------------------------------------

    def node_id(self, key: NodeKey) -> str:
        return node_id(self.org_id, REALM, self.source_id, *key)

    async def nodes(self) -> dict[NodeKey, dict[str, Any]]:
        found: dict[NodeKey, dict[str, Any]] = {}
        async for batch in self.engine.export_nodes(self.org_id, self.source_id):
            for row in batch.to_pylist():
                found[row["labels"][0], row["external_id"]] = orjson.loads(row["properties"])
        return found

    async def edges(self) -> dict[EdgeKey, dict[str, Any]]:
        text = (
            "MATCH (a)-[r]->(b) RETURN labels(a) AS la, a.external_id AS a, type(r) AS t,"
            " labels(b) AS lb, b.external_id AS b, r.step AS step"
        )
        scope = Scope(org_id=self.org_id, realms=(REALM,))
        result = await self.engine.query(scope, Query(text=text, limit=10_000))
        assert not result.truncated
        found: dict[EdgeKey, dict[str, Any]] = {}
        for src_labels, src, kind, dst_labels, dst, step in result.rows:
            ends = ((_own(src_labels), src), kind, (_own(dst_labels), dst))
            found[ends] = {} if step is None else {"step": step}
        return found

    async def chunks(self) -> dict[NodeKey, list[str]]:
        """Live chunk texts by node, ordered."""
        space = await self.stores.spaces.active(self.org_id)
        if space is None:
            return {}
        async with self.db.tenant(self.org_id) as connection:
            rows = await connection.fetch(
                f"SELECT labels[1] AS label, external_id, text FROM {space.table_name}"
                " WHERE archived_at IS NULL AND source_id = $1 ORDER BY text",
                self.source_id,
            )
        found: dict[NodeKey, list[str]] = {}
        for row in rows:
            found.setdefault((row["label"], row["external_id"]), []).append(row["text"])
        return found

    async def space_is_empty(self) -> bool:
        """Whether nothing was ever embedded."""
        return await self.stores.spaces.active(self.org_id) is None

    async def hits(self) -> dict[NodeKey, dict[str, Any]]:
        """Properties beside the live chunks, by node."""
        space = await self.stores.spaces.active(self.org_id)
        assert space is not None
        async with self.db.tenant(self.org_id) as connection:
            rows = await connection.fetch(
                f"SELECT labels[1] AS label, external_id, properties FROM {space.table_name}"
                " WHERE archived_at IS NULL AND source_id = $1",
                self.source_id,
            )
        return {(row["label"], row["external_id"]): row["properties"] for row in rows}

    async def cursors(self) -> dict[str, Any]:
        async with self.db.tenant(self.org_id) as connection:
            rows = await connection.fetch("SELECT stream, cursor FROM source_cursors")
        return {row["stream"]: row["cursor"] for row in rows}

    async def row(self) -> dict[str, Any]:
        async with self.db.tenant(self.org_id) as connection:
            row = await connection.fetchrow("SELECT * FROM sources WHERE id = $1", self.source_id)
        assert row is not None
        return dict(row)

    async def dangling(self) -> int:
        async with self.db.tenant(self.org_id) as connection:
            return int(await connection.fetchval("SELECT count(*) FROM dangling_edges"))

    async def assert_holds(self, graph: Graph) -> None:
        """Engine and vectors show exactly this graph."""
        assert await self.nodes() == graph.nodes
        assert await self.edges() == graph.visible()
        assert await self.space_is_empty() or await self.hits() == graph.nodes
        chunks = await self.chunks()
        assert chunks.keys() == graph.nodes.keys()
        for key, texts in chunks.items():
            body = graph.documents.get(key)
            assert (body is not None and body in texts) or len(texts) == 1, (key, texts)
            assert sum(str(graph.nodes[key]["name"]) in text for text in texts) >= 1

    def files(self) -> list[Path]:
        root = self.settings.state_dir / "ingest"
        return [path for path in root.rglob("*") if path.is_file()] if root.exists() else []


def _own(labels: Sequence[str]) -> str:
    return next(label for label in labels if label != "Entity")
