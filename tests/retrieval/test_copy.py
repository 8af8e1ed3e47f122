"""Rows by binary COPY: what was written is read back, and what was there before is left alone."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import asyncpg
import numpy as np
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentcy_ray.core.errors import InvalidError
from agentcy_ray.retrieval.bulk_copy import copy_chunks
from agentcy_ray.retrieval.embedder import EmbedderInfo, vectors_of
from agentcy_ray.retrieval.pgvector import PgVectorIndex
from agentcy_ray.retrieval.space import Storage
from agentcy_ray.retrieval.spaces import Space, SpaceStore
from agentcy_ray.stores.postgres import Database
from tests.retrieval.chunks import batch, chunk, units
from tests.retrieval.conftest import MakeOrg

DIM = 5
INFO = EmbedderInfo("local:x", "x/5", DIM, 512)
STORAGES: tuple[Storage, ...] = ("vector", "halfvec")

words = st.text(max_size=12)
json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)
rows = st.fixed_dictionaries({
    "text": words,
    "name": words,
    "realm": words,
    "labels": st.lists(words, max_size=3),
    "url": st.none() | words,
    "properties": st.dictionaries(words, json, max_size=3),
    "seen_at": st.none()
    | st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)),
    "source_id": st.uuids().map(lambda value: value.hex),
})


@pytest.fixture(scope="module")
async def tables(make_org: MakeOrg, spaces: SpaceStore) -> dict[str, Space]:
    org = await make_org()
    return {kind: await spaces.create(org, INFO, storage=kind) for kind in STORAGES}


def _clean(value: Any) -> Any:
    match value:
        case str():
            return value.replace("\x00", "")
        case list():
            return [_clean(item) for item in value]
        case dict():
            return {_clean(key): _clean(item) for key, item in value.items()}
        case _:
            return value


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(made=st.lists(rows, min_size=1, max_size=6), skip=st.integers(0, 2), seed=st.integers(0, 9))
@pytest.mark.parametrize("storage", STORAGES)
async def test_what_is_copied_is_read_back(
    tables: dict[str, Space], db: Database, storage: str, made: list[Any], skip: int, seed: int
) -> None:
    space = tables[storage]
    given_rows = [chunk(f"n_{i}", chunk_key=f"{i}", **row) for i, row in enumerate(made)]
    matrix = units(np.random.default_rng(seed).standard_normal((len(made), DIM)))
    # Sliced, since what is inside a slice begins elsewhere in its buffers.
    wanted, vectors = given_rows[skip:], vectors_of(matrix).slice(skip)
    async with db.tenant(space.org_id) as connection:
        written = await copy_chunks(connection, space, batch(given_rows).slice(skip), vectors)
        stored = await connection.fetch(
            f"SELECT *, embedding::text AS numbers FROM {space.table_name} ORDER BY chunk_key"
        )
        await connection.execute(f"DELETE FROM {space.table_name}")
    assert written == len(stored) == len(wanted)
    for i, (row, sent) in enumerate(zip(stored, wanted, strict=True)):
        for name in ("node_id", "realm", "name", "text", "url", "connector", "labels"):
            assert row[name] == _clean(sent[name]), name
        assert row["properties"] == _clean(orjson.loads(sent["properties"]))
        assert row["seen_at"] == sent["seen_at"]
        assert row["source_id"] == UUID(hex=sent["source_id"])
        assert (row["org_id"], row["archived_at"]) == (space.org_id, None)
        kind = np.float16 if storage == "halfvec" else np.float32
        numbers = np.array(orjson.loads(row["numbers"]), dtype=kind)
        np.testing.assert_array_equal(numbers, matrix[skip + i].astype(kind))


async def test_a_row_that_is_there_is_left_as_it_is_and_a_doubled_one_written_once(
    make_org: MakeOrg, spaces: SpaceStore, index: PgVectorIndex, db: Database
) -> None:
    org = await make_org()
    space = await spaces.create(org, INFO)
    live = chunk("n_1", "one", properties={"by": "publish"})
    await index.upsert(space, batch([live]), vectors_of(np.eye(1, DIM, dtype=np.float32)))
    block = [chunk(f"n_{i}", "one", properties={"by": "backfill"}) for i in (0, 1, 2, 2)]
    vectors = vectors_of(units(np.ones((4, DIM))))
    async with db.tenant(org) as connection:
        assert await copy_chunks(connection, space, batch(block), vectors) == 2
        assert await copy_chunks(connection, space, batch(block), vectors) == 0
        again = [chunk("n_9", "nine")]
        assert await copy_chunks(connection, space, batch(again), vectors.slice(0, 1)) == 1
    async with db.tenant(org) as connection:
        stored = await connection.fetch(
            f"SELECT node_id, properties, embedding::text FROM {space.table_name} ORDER BY node_id"
        )
    assert [row[0] for row in stored] == ["n_0", "n_1", "n_2", "n_9"]
    assert (stored[1][1], stored[1][2]) == ({"by": "publish"}, "[1,0,0,0,0]")


async def test_a_block_goes_with_the_transaction_that_carries_it(
    make_org: MakeOrg, spaces: SpaceStore, db: Database, index: PgVectorIndex
) -> None:
    org = await make_org()
    space = await spaces.create(org, INFO)
    vectors = vectors_of(units(np.ones((1, DIM))))

    async def fails() -> None:
        async with db.tenant(org) as connection:
            await copy_chunks(connection, space, batch([chunk("n_1", "one")]), vectors)
            await connection.execute("SELECT 1 / 0")

    with pytest.raises(asyncpg.DivisionByZeroError):
        await fails()
    assert await index.count(space) == 0


async def test_writers_that_meet_on_the_same_rows_in_other_orders_both_end(
    make_org: MakeOrg, spaces: SpaceStore, db: Database, index: PgVectorIndex
) -> None:
    org = await make_org()
    space = await spaces.create(org, INFO)
    made = [chunk(f"n_{i}", f"text {i}") for i in range(400)]
    vectors = vectors_of(units(np.ones((400, DIM))))

    async def copy(order: list[dict[str, Any]]) -> int:
        async with db.tenant(org) as connection:
            return await copy_chunks(connection, space, batch(order), vectors)

    written = await asyncio.gather(
        copy(made), copy(made[::-1]), index.upsert(space, batch(made[200:] + made[:200]), vectors)
    )
    assert sum(written) == 400
    assert await index.count(space) == 400


@pytest.mark.requirement("TEN-06")
async def test_a_block_does_not_reach_the_table_of_another_organisation(
    make_org: MakeOrg, spaces: SpaceStore, db: Database, index: PgVectorIndex
) -> None:
    org, other = await make_org(), await make_org()
    space = await spaces.create(org, INFO)
    vectors = vectors_of(units(np.ones((1, DIM))))
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with db.tenant(other) as connection:
            await copy_chunks(connection, space, batch([chunk("n_1", "one")]), vectors)
    assert await index.count(space) == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
async def test_a_vector_that_is_not_finite_is_refused_by_name(
    tables: dict[str, Space], index: PgVectorIndex, bad: float
) -> None:
    vectors = vectors_of(np.full((1, DIM), bad, dtype=np.float32))
    with pytest.raises(InvalidError, match="not finite"):
        await index.upsert(tables["halfvec"], batch([chunk("n_a", "one")]), vectors)
