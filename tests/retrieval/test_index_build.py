"""Indexes of a filled space: built beside live writes, resumed, and as good as they must be."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import asyncpg
import numpy as np
import pytest

from agentcy_ray.core.errors import ConfigError
from agentcy_ray.core.settings import Settings
from agentcy_ray.retrieval.bulk_copy import copy_chunks
from agentcy_ray.retrieval.embedder import EmbedderInfo, Matrix, metered, vectors_of
from agentcy_ray.retrieval.index_build import BuildProgress, IndexBuilder
from agentcy_ray.retrieval.index_memory import graph_bytes, resources_for
from agentcy_ray.retrieval.one_embedder import OneEmbedder
from agentcy_ray.retrieval.pgvector import PgVectorIndex
from agentcy_ray.retrieval.queries import Filters, HybridQuery
from agentcy_ray.retrieval.recall import recall_at
from agentcy_ray.retrieval.search import SearchService
from agentcy_ray.retrieval.space import Distance, Storage
from agentcy_ray.retrieval.spaces import Space, SpaceStore
from agentcy_ray.stores.postgres import Database
from tests.retrieval.chunks import ChosenEmbedder, at, batch, chunk, units

DIM, ROWS, CLUSTERS = 64, 1_600, 40
INFO = EmbedderInfo("local:x", f"chosen/{DIM}", DIM, 512)
KINDS: list[tuple[Storage, Distance]] = [("halfvec", "cosine"), ("vector", "l2"), ("halfvec", "ip")]
INDEXES = """
SELECT c.relname, i.indisvalid FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
WHERE i.indrelid = $1::text::regclass AND NOT i.indisprimary ORDER BY 1
"""


@dataclass
class Points:
    """Clustered vectors, of which a test takes as many as it wants."""

    seed: int

    def __post_init__(self) -> None:
        self._rng = np.random.default_rng(self.seed)
        self._centres = units(self._rng.standard_normal((CLUSTERS, DIM)))

    def take(self, count: int) -> Matrix:
        noise = self._rng.standard_normal((count, DIM)) * 0.08
        return units(self._centres[self._rng.integers(CLUSTERS, size=count)] + noise)


def _rows(first: int, count: int) -> list[dict[str, Any]]:
    """One in a hundred is rare."""
    return [
        chunk(f"n_{i}", f"text {i}", labels=["Rare" if i % 100 == 0 else "File"])
        for i in range(first, first + count)
    ]


async def _fill(db: Database, space: Space, points: Points) -> None:
    async with db.tenant(space.org_id) as connection:
        await copy_chunks(connection, space, batch(_rows(0, ROWS)), vectors_of(points.take(ROWS)))


async def _indexes(db: Database, space: Space) -> dict[str, bool]:
    async with db.system() as connection:
        rows = await connection.fetch(INDEXES, f"vectors.{space.table_name}")
    return {row[0].removeprefix(f"{space.table_name}_"): row[1] for row in rows}


@pytest.fixture
def builder(db: Database, spaces: SpaceStore, settings: Settings) -> IndexBuilder:
    return IndexBuilder(db, spaces, settings)


@pytest.mark.requirement("RAG-05")
@pytest.mark.parametrize(("storage", "distance"), KINDS)
async def test_recall_holds_after_the_build_after_inserts_and_after_deletes_with_vacuum(
    org: UUID,
    db: Database,
    spaces: SpaceStore,
    index: PgVectorIndex,
    settings: Settings,
    builder: IndexBuilder,
    storage: Storage,
    distance: Distance,
) -> None:
    space = await spaces.create(org, INFO, storage=storage, distance=distance)
    points = Points(3)
    await _fill(db, space, points)
    assert await _indexes(db, space) == {}
    await builder.build(space)
    built = await recall_at(db, spaces, settings, space, sample=30)
    more = _rows(ROWS, 400)
    await index.upsert(space, batch(more), vectors_of(points.take(400)))
    grown = await recall_at(db, spaces, settings, space, sample=30)
    gone = [f"n_{i}" for i in range(0, ROWS, 2)]
    await index.archive_nodes(space, gone[:400], at("2026-01-01"))
    await index.replace_node_chunks(space, gone[400:], [])
    async with db.owner() as connection:
        await connection.execute(f"VACUUM vectors.{space.table_name}")
    shrunk = await recall_at(db, spaces, settings, space, sample=30)
    for recall in (built, grown, shrunk):
        assert recall.mean >= 0.95
        assert (recall.sampled, recall.ef_search, recall.k) == (30, settings.hnsw_ef_search, 10)
    kept = await spaces.get(org, space.id)
    assert kept.recall == shrunk.record()
    assert kept.indexed_at is not None


@pytest.mark.requirement("RAG-05")
@pytest.mark.parametrize("distance", ["l2", "ip"])
async def test_a_filter_that_one_in_a_hundred_passes_still_fills_the_page(
    org: UUID,
    db: Database,
    spaces: SpaceStore,
    settings: Settings,
    builder: IndexBuilder,
    distance: Distance,
) -> None:
    space = await spaces.create(org, INFO, distance=distance)
    points = Points(5)
    await _fill(db, space, points)
    await builder.build(space)
    embedder = ChosenEmbedder(DIM, {"where": points.take(1)[0]})
    service = SearchService(db, OneEmbedder(metered(embedder)), spaces, settings)
    query = HybridQuery(
        query="where", top_k=10, text_weight=0, vector_weight=1, space=space.id,
        filters=Filters(labels=("Rare",)),
    )  # fmt: skip
    hits = (await service.hybrid(org, None, query)).hits
    assert [hit.labels for hit in hits] == [("Rare",)] * 10
    assert all(0 <= hit.scores["vector"] <= 1 for hit in hits)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


async def test_publishes_go_on_while_the_graph_is_built_and_their_rows_are_in_it(
    org: UUID, db: Database, spaces: SpaceStore, index: PgVectorIndex, builder: IndexBuilder
) -> None:
    space = await spaces.create(org, INFO)
    points = Points(7)
    await _fill(db, space, points)
    seen: list[BuildProgress] = []
    late = _rows(ROWS, 40)
    vectors = vectors_of(points.take(40))

    async def report(progress: BuildProgress) -> None:
        if "embedding" in progress.index and not seen:
            seen.append(progress)
            # A plain CREATE INDEX would keep this waiting until it has ended.
            writing.append(asyncio.create_task(index.upsert(space, batch(late), vectors)))

    writing: list[asyncio.Task[int]] = []
    report_made = await builder.build(space, report)
    assert await asyncio.wait_for(writing[0], 60) == 40
    assert [len(report_made.built), seen[0].of, seen[0].total] == [7, 7, ROWS]
    assert await index.count(space) == ROWS + 40
    assert set((await _indexes(db, space)).values()) == {True}
    # The graph was sized for what it had to hold.
    assert report_made.resources is not None
    assert report_made.resources.memory >= report_made.resources.need


async def test_a_build_that_was_cut_short_is_made_anew_and_a_complete_one_left_alone(
    org: UUID,
    db: Database,
    spaces: SpaceStore,
    builder: IndexBuilder,
    superuser_of: Callable[[str], str],
) -> None:
    space = await spaces.create(org, INFO)
    await _fill(db, space, Points(9))
    began = asyncio.Event()

    async def report(progress: BuildProgress) -> None:
        if "embedding" in progress.index:
            began.set()

    first = asyncio.create_task(builder.build(space, report))
    await asyncio.wait_for(began.wait(), 60)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    standing = await _indexes(db, space)
    assert standing.get("embedding_idx") is not True
    # What Postgres leaves behind when it is interrupted late.
    admin = await asyncpg.connect(superuser_of(db._pool._connect_args[0]))
    await admin.execute(
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = $1::text::regclass",
        f"vectors.{space.table_name}_text_idx",
    )
    await admin.close()
    again = await builder.build(space)
    assert {name.rpartition("_idx")[0].rpartition("_")[2] for name in again.built} == {
        "text", "embedding",
    }  # fmt: skip
    assert set((await _indexes(db, space)).values()) == {True}
    assert len(await _indexes(db, space)) == 7
    assert (await builder.build(space)).built == ()


async def test_of_builders_that_meet_one_builds_and_all_find_it_done(
    org: UUID, db: Database, spaces: SpaceStore, builder: IndexBuilder
) -> None:
    space = await spaces.create(org, INFO)
    await _fill(db, space, Points(11))
    reports = await asyncio.gather(*(builder.build(space) for _ in range(2)))
    assert sorted(len(report.built) for report in reports) == [0, 7]


async def test_a_login_that_does_not_own_the_table_is_told_whose_name_to_use(
    org: UUID, db: Database, spaces: SpaceStore, builder: IndexBuilder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    space = await spaces.create(org, INFO)

    async def refused(*_: Any) -> None:
        raise asyncpg.InsufficientPrivilegeError("must be owner of table")

    monkeypatch.setattr(builder, "_make", refused)
    with pytest.raises(ConfigError, match="DATABASE_URL"):
        await builder.build(space)


def test_memory_is_what_the_graph_needs_within_what_the_server_says_it_has() -> None:
    mib = 1024 * 1024

    def server(cache: int | None) -> dict[str, Any]:
        return {
            "maintenance_work_mem": {"value": 64 * mib, "given": False},
            "shared_buffers": {"value": 128 * mib, "given": False},
            "effective_cache_size": {"value": cache or 4096 * mib, "given": cache is not None},
            "max_parallel_maintenance_workers": {"value": 3, "given": False},
        }

    space = Space.model_construct(storage="halfvec", dim=384)
    need = graph_bytes(space, 200_000, 16)
    assert 280 * mib < need < 340 * mib  # 1,484 bytes a row were measured
    assert resources_for(need, server(None)).memory == 128 * mib
    assert resources_for(need, server(8192 * mib)).memory == need
    assert resources_for(need, server(400 * mib)).memory == 200 * mib
    assert resources_for(0, server(8192 * mib)).memory == 64 * mib
    least = resources_for(need, server(8192 * mib)).least()
    assert (least.memory, least.workers) == (64 * mib, 0)


async def test_the_embedded_server_says_how_much_memory_its_machine_has(db: Database) -> None:
    async with db.system() as connection:
        said = await connection.fetchrow(
            "SELECT setting::bigint * 8192 AS cache, source <> 'default' AS given FROM pg_settings"
            " WHERE name = 'effective_cache_size'"
        )
    assert said is not None
    assert said["given"]
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < said["cache"] <= total // 2
