"""An organisation with one package of texts, and a space to fill from it, for ``backfill``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import orjson
import pyarrow as pa

from agentcy_ray.core.ids import new_id
from agentcy_ray.ingest.addressing import PACKAGE_NODES
from agentcy_ray.ingest.backfill.records import Backfill, BackfillOptions
from agentcy_ray.ingest.backfill.runner import Backfiller, no_probe
from agentcy_ray.ingest.backfill.store import BackfillStore
from agentcy_ray.ingest.backfill.work import Probe
from agentcy_ray.ingest.chains import Totals, insert_package
from agentcy_ray.ingest.manifest import Manifest
from agentcy_ray.ingest.packages import upload
from agentcy_ray.ingest.segments import write_segments
from agentcy_ray.ingest.state import Layer
from agentcy_ray.jobs.postgres_queue import PostgresQueue
from agentcy_ray.jobs.worker import Beat
from agentcy_ray.retrieval.chunkers import Chunkers
from agentcy_ray.retrieval.embedder import EmbedderInfo, MeteredEmbedder
from agentcy_ray.retrieval.local_embedder import bundled_tokenizer
from agentcy_ray.retrieval.one_embedder import OneEmbedder
from agentcy_ray.retrieval.space import Space, Storage
from agentcy_ray.retrieval.spaces import SpaceStore
from agentcy_ray.stores.objects import open_objects
from benchmarks.stores import Bench

PART = 50_000


class NoFinish:
    """Builds no index: what is measured ends when the last chunk lies in the table."""

    async def index(self, space: Space, tell: Callable[[str], None]) -> None:
        """Nothing."""

    async def recall(self, space: Space) -> Mapping[str, Any]:
        """No figure."""
        return {}


async def packaged(bench: Bench, texts: Sequence[str] | int) -> UUID:
    """A source whose current package holds one node a text, written as a sync would leave it.

    Args:
        bench: open stores.
        texts: titles of the nodes; a number = so many short ones.
    """
    org_id, source_id, package_id = bench.owner.org_id, new_id(), new_id()
    folder = bench.folder / package_id.hex
    segments = await asyncio.to_thread(write_segments, "nodes", _tables(texts, source_id), folder)
    count = sum(segment.rows for segment in segments)
    manifest = Manifest(
        package_id=package_id, org_id=org_id, source_id=source_id, connector="memory",
        connector_version="1", state="full", segments=tuple(segments),
        counts={"nodes": count, "edges": 0, "documents": 0}, created_at=datetime.now(UTC),
    ).sealed()  # fmt: skip
    layer = Layer(manifest, {segment.path: folder / segment.path for segment in segments})
    await upload(open_objects(bench.settings), layer)
    async with bench.db.system() as connection:
        await connection.execute(
            "INSERT INTO sources (id, org_id, name, connector, realm, status)"
            " VALUES ($1, $2, $3, 'memory', 'development', 'synced')",
            source_id, org_id, f"texts-{source_id.hex}",
        )  # fmt: skip
        await insert_package(connection, manifest, Totals(nodes=count))
        await connection.execute(
            "UPDATE packages SET published_at = now() WHERE id = $1", package_id
        )
        await connection.execute(
            "UPDATE sources SET current_package_id = $2 WHERE id = $1", source_id, package_id
        )
    return source_id


async def forget(bench: Bench, source_id: UUID) -> None:
    """Delete a source with its packages."""
    async with bench.db.system() as connection:
        await connection.execute("DELETE FROM sources WHERE id = $1", source_id)


async def begun(
    bench: Bench, info: EmbedderInfo, options: BackfillOptions, storage: Storage | None = None
) -> tuple[Space, Backfill]:
    """A new space, and the backfill that is asked for it."""
    spaces = SpaceStore(bench.db, bench.settings)
    org_id = bench.owner.org_id
    space = await spaces.create(org_id, info, storage=storage)
    store = BackfillStore(bench.db, PostgresQueue(bench.settings, bench.db), spaces)
    return space, await store.start(org_id, space.id, options=options)


async def attempt(
    bench: Bench, backfill: Backfill, embedder: MeteredEmbedder, probe: Probe = no_probe
) -> None:
    """Carry a backfill out, or go on with it, without indexes."""
    assert backfill.job_id is not None
    queue = PostgresQueue(bench.settings, bench.db)
    job = await queue.store.get(backfill.org_id, backfill.job_id)
    filler = Backfiller(
        bench.db, open_objects(bench.settings), SpaceStore(bench.db, bench.settings),
        OneEmbedder(embedder),
        Chunkers(bundled_tokenizer(), bench.settings), NoFinish(), bench.settings, {},
        probe=probe,
    )  # fmt: skip
    await filler.handle(job, Beat(1, last_attempt=False))


async def dropped(bench: Bench, space: Space) -> None:
    """Take a space away."""
    async with bench.db.system() as connection:
        await connection.execute("DELETE FROM embedding_spaces WHERE id = $1", space.id)


def _tables(texts: Sequence[str] | int, source_id: UUID) -> Iterator[pa.Table]:
    count = texts if isinstance(texts, int) else len(texts)
    for start in range(0, count, PART):
        rows = range(start, min(start + PART, count))
        shown = [f"text number {n} of many" for n in rows] if isinstance(texts, int) else (
            texts[start : start + PART]
        )  # fmt: skip
        names = [f"t{n}" for n in rows]

        def same(value: Any, count: int = len(rows)) -> list[Any]:
            return [value] * count

        yield pa.table(
            {
                "id": [f"n_{n:026d}" for n in rows],
                "labels": same(["Text"]),
                "realm": same("development"),
                "name": names,
                "properties": [orjson.dumps({"title": text}).decode() for text in shown],
                "connector": same("memory"),
                "source_id": same(source_id.hex),
                "external_id": names,
                "content_hash": [f"{n:032x}" for n in rows],
                "text_hash": [f"{n:032x}" for n in rows],
            },
            schema=PACKAGE_NODES,
        )
