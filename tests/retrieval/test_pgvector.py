"""The vector table: written twice the same, refreshed, replaced, archived, and nobody else's."""

from __future__ import annotations

import asyncio
from uuid import UUID

import numpy as np
import pytest

from agentcy_ray.core.errors import EmbedderUnavailableError, InvalidError
from agentcy_ray.core.settings import Settings
from agentcy_ray.retrieval.embedder import matrix_of, no_vectors
from agentcy_ray.retrieval.one_embedder import OneEmbedder
from agentcy_ray.retrieval.pgvector import PgVectorIndex
from agentcy_ray.retrieval.queries import HybridQuery
from agentcy_ray.retrieval.search import SearchService
from agentcy_ray.retrieval.spaces import Space, SpaceStore
from agentcy_ray.retrieval.statements import hybrid_statement
from agentcy_ray.stores.postgres import Database
from tests.retrieval.chunks import SOURCE, ChosenEmbedder, Versioned, at, batch, chunk
from tests.retrieval.conftest import MakeOrg

DIM = 8


@pytest.fixture
def chosen() -> ChosenEmbedder:
    return ChosenEmbedder(DIM)


@pytest.fixture
async def space(org: UUID, spaces: SpaceStore, chosen: ChosenEmbedder) -> Space:
    return await spaces.ensure_active(org, chosen.info)


@pytest.mark.requirement("RAG-01")
async def test_a_space_is_a_table_of_halfvec_under_a_partial_hnsw_index(
    db: Database, space: Space
) -> None:
    async with db.system() as connection:
        indexes = await connection.fetch(
            "SELECT indexdef FROM pg_indexes WHERE tablename = $1", space.table_name
        )
        kind = await connection.fetchval(
            "SELECT format_type(atttypid, atttypmod) FROM pg_attribute "
            "WHERE attrelid = $1::text::regclass AND attname = 'embedding'",
            space.table_name,
        )
    assert kind == f"halfvec({DIM})"
    hnsw = [row[0] for row in indexes if "hnsw" in row[0]]
    assert len(hnsw) == 1
    assert "halfvec_cosine_ops" in hnsw[0]
    assert "m='16', ef_construction='128'" in hnsw[0]
    assert "archived_at IS NULL" in hnsw[0]


async def test_many_processes_that_ask_for_the_space_at_once_get_the_same_one(
    org: UUID, db: Database, settings: Settings, chosen: ChosenEmbedder
) -> None:
    stores = [SpaceStore(db, settings) for _ in range(5)]
    made = await asyncio.gather(*(store.ensure_active(org, chosen.info) for store in stores))
    assert len({space.id for space in made}) == 1


async def test_a_space_refuses_the_vectors_of_another_embedder(
    org: UUID, spaces: SpaceStore, space: Space
) -> None:
    other = ChosenEmbedder(DIM + 1)
    with pytest.raises(EmbedderUnavailableError, match="EMBEDDING_MODEL=local:chosen"):
        await spaces.ensure_active(org, other.info)


async def test_writing_the_same_chunks_twice_changes_nothing(
    index: PgVectorIndex, space: Space, chosen: ChosenEmbedder
) -> None:
    rows = [chunk(f"n_{i}", f"text {i}", properties={"size": i}) for i in range(50)]
    vectors = await chosen.embed([row["text"] for row in rows])
    assert await index.upsert(space, batch(rows), vectors) == 50
    assert await index.upsert(space, batch(rows), vectors) == 0
    assert await index.refresh(space, batch(rows)) == 0
    assert await index.count(space) == 50
    assert await index.count(space, SOURCE) == 50
    assert await index.count(space, UUID(int=1)) == 0


async def test_a_batch_larger_than_a_transaction_and_with_a_doubled_row_is_written_once(
    org: UUID, db: Database, spaces: SpaceStore, chosen: ChosenEmbedder
) -> None:
    space = await spaces.ensure_active(org, chosen.info)
    small = PgVectorIndex(db, Settings.load({}, pipeline_batch_size=7))
    rows = [chunk(f"n_{i}", f"text {i}") for i in range(20)]
    rows.append(rows[19])
    vectors = await chosen.embed([row["text"] for row in rows])
    assert await small.upsert(space, batch(rows), vectors) == 20


async def test_the_vectors_of_the_table_are_those_that_were_written(
    db: Database, index: PgVectorIndex, space: Space, chosen: ChosenEmbedder
) -> None:
    rows = [chunk(f"n_{i}", f"text {i}") for i in range(5)]
    vectors = await chosen.embed([row["text"] for row in rows])
    await index.upsert(space, batch(rows), vectors)
    async with db.tenant(space.org_id) as connection:
        stored = await connection.fetch(
            f"SELECT node_id, embedding FROM {space.table_name} ORDER BY node_id"
        )
    read = np.stack([row["embedding"].to_numpy() for row in stored]).astype(np.float32)
    np.testing.assert_allclose(read, matrix_of(vectors), atol=1e-3)


@pytest.mark.requirement("EMB-05")
async def test_existing_keys_say_which_chunks_need_no_vector(
    index: PgVectorIndex, space: Space, chosen: ChosenEmbedder
) -> None:
    old = [chunk("n_a", "one"), chunk("n_a", "two", ordinal=1), chunk("n_b", "three")]
    await index.upsert(space, batch(old), await chosen.embed(["one", "two", "three"]))
    keys = await index.existing_keys(space, ["n_a", "n_zzz"])
    assert keys == {old[0]["chunk_key"], old[1]["chunk_key"]}


async def test_refresh_brings_properties_up_to_date_without_a_vector(
    db: Database, index: PgVectorIndex, space: Space, chosen: ChosenEmbedder
) -> None:
    old = chunk("n_a", "one", properties={"state": "open"})
    await index.upsert(space, batch([old]), await chosen.embed(["one"]))
    new = chunk("n_a", "one", properties={"state": "closed"}, realm="crm")
    unknown = chunk("n_b", "two")
    assert await index.refresh(space, batch([new, unknown])) == 1
    async with db.tenant(space.org_id) as connection:
        row = await connection.fetchrow(f"SELECT realm, properties FROM {space.table_name}")
    assert row is not None
    assert (row["realm"], row["properties"]) == ("crm", {"state": "closed"})


async def test_new_properties_of_a_node_reach_all_its_live_chunks(
    db: Database, index: PgVectorIndex, space: Space, chosen: ChosenEmbedder
) -> None:
    rows = [chunk("n_a", "one"), chunk("n_a", "two", ordinal=1), chunk("n_b", "three")]
    await index.upsert(space, batch(rows), await chosen.embed(["one", "two", "three"]))
    changed = batch([chunk("n_a", "whatever", properties={"state": "closed"})])
    assert await index.refresh_nodes(space, changed) == 2
    assert await index.refresh_nodes(space, changed) == 0
    async with db.tenant(space.org_id) as connection:
        stored = await connection.fetch(f"SELECT node_id, properties FROM {space.table_name}")
    assert {row["node_id"]: row["properties"] for row in stored} == {
        "n_a": {"state": "closed"},
        "n_b": {},
    }


async def test_before_halfvec_existed_vectors_are_kept_and_searched_whole(
    org: UUID, db: Database, settings: Settings, index: PgVectorIndex, chosen: ChosenEmbedder
) -> None:
    old = Versioned(db, settings, (0, 5))
    space = await old.ensure_active(org, chosen.info)
    assert space.storage == "vector"
    rows = [chunk(f"n_{i}", f"text {i}") for i in range(30)]
    await index.upsert(space, batch(rows), await chosen.embed([row["text"] for row in rows]))
    service = SearchService(db, OneEmbedder(chosen), old, settings)
    found = await service.hybrid(org, None, HybridQuery(query="text 7", top_k=1))
    assert found.hits[0].node_id == "n_7"
    assert found.hits[0].scores["vector"] == pytest.approx(1.0)


async def test_replacing_drops_only_stale_chunks_of_the_named_nodes(
    index: PgVectorIndex, space: Space, chosen: ChosenEmbedder
) -> None:
    rows = [chunk("n_a", "one"), chunk("n_a", "two", ordinal=1), chunk("n_b", "three")]
    await index.upsert(space, batch(rows), await chosen.embed(["one", "two", "three"]))
    assert await index.replace_node_chunks(space, ["n_a"], [rows[0]["chunk_key"]]) == 1
    assert await index.existing_keys(space, ["n_a", "n_b"]) == {
        rows[0]["chunk_key"],
        rows[2]["chunk_key"],
    }


async def test_an_archived_node_leaves_the_live_view_and_comes_back_when_written_again(
    db: Database, index: PgVectorIndex, space: Space, chosen: ChosenEmbedder
) -> None:
    rows = [chunk("n_a", "one"), chunk("n_b", "two")]
    vectors = await chosen.embed(["one", "two"])
    await index.upsert(space, batch(rows), vectors)
    assert await index.archive_nodes(space, ["n_a"], at("2026-01-01")) == 1
    assert await index.archive_nodes(space, ["n_a"], at("2026-01-02")) == 0
    async with db.tenant(space.org_id) as connection:
        live = await connection.fetch(f"SELECT node_id FROM live.{space.table_name}")
    assert [row[0] for row in live] == ["n_b"]
    assert await index.upsert(space, batch(rows), vectors) == 1
    assert await index.count(space) == 2


async def test_text_that_postgres_cannot_hold_is_written_without_the_nul_character(
    index: PgVectorIndex, space: Space, chosen: ChosenEmbedder
) -> None:
    properties = {"a\x00b": ["c\x00"], "literal": "\\u0000", "d": {"e": "\x00f"}}
    row = chunk("n_a", "one\x00two", name="na\x00me", properties=properties)
    assert await index.upsert(space, batch([row]), await chosen.embed(["x"])) == 1


async def test_vectors_of_the_wrong_length_are_refused(index: PgVectorIndex, space: Space) -> None:
    with pytest.raises(InvalidError, match="0 vectors of 3"):
        await index.upsert(space, batch([chunk("n_a", "one")]), no_vectors(3))


@pytest.mark.requirement("TEN-06")
async def test_another_organisation_sees_nothing_of_a_table_even_when_it_names_it(
    db: Database, index: PgVectorIndex, space: Space, chosen: ChosenEmbedder, make_org: MakeOrg
) -> None:
    await index.upsert(space, batch([chunk("n_a", "one")]), await chosen.embed(["one"]))
    async with db.tenant(await make_org()) as connection:
        for table in (space.table_name, f"live.{space.table_name}"):
            assert await connection.fetchval(f"SELECT count(*) FROM {table}") == 0


@pytest.mark.requirement("RAG-02")
async def test_text_search_of_a_request_uses_the_trigram_index(
    db: Database, index: PgVectorIndex, space: Space, chosen: ChosenEmbedder
) -> None:
    rows = [chunk(f"n_{i}", f"note {i} of many words") for i in range(300)]
    await index.upsert(space, batch(rows), await chosen.embed([row["text"] for row in rows]))
    async with db.tenant(space.org_id) as connection:
        await connection.execute("SET LOCAL enable_seqscan = off")
        plan = await connection.fetch(
            f"EXPLAIN SELECT chunk_key FROM live.{space.table_name} WHERE text ILIKE '%payment%'"
        )
    assert any("Index Cond: (text ~~*" in row[0] for row in plan), [row[0] for row in plan]


@pytest.mark.requirement("RAG-02")
async def test_hybrid_is_one_statement_over_vector_distance_and_trigram_similarity(
    space: Space, chosen: ChosenEmbedder
) -> None:
    vector = matrix_of(await chosen.embed(["payment"]))[0]
    made = hybrid_statement(space, vector, None, HybridQuery(query="payment service"), 40)
    assert "embedding <=> " in made.sql
    assert "word_similarity(" in made.sql
    assert ";" not in made.sql
