"""Streaming batches: keys, slices under way, back-pressure, rows put aside."""

from __future__ import annotations

import asyncio
from uuid import UUID

import pyarrow as pa
import pytest

from agentcy_ray.context.kyma import KymaClient
from agentcy_ray.core.errors import EngineRefusedError, InvalidError
from agentcy_ray.core.metrics import Metrics
from tests.context.kyma.conftest import Open
from tests.context.kyma.stub import StubKyma, failure

TABLE = "context_nodes"


def batch(rows: int, size: int = 100) -> pa.RecordBatch:
    return pa.record_batch({
        "id": [f"n{i}" for i in range(rows)], "name": ["x" * size for _ in range(rows)],
    })  # fmt: skip


@pytest.mark.requirement("KYMA-02")
async def test_a_batch_travels_in_slices_under_derived_keys(
    stub: StubKyma, open_client: Open
) -> None:
    client, metrics = open_client(slice_bytes=2000), Metrics()
    written = await client.ingest("kyma", TABLE, batch(100), key_scope="p1")

    keys = [UUID(seen.headers["x-idempotency-key"]) for seen in stub.ingests()]
    assert written.slices == len(keys) == len(set(keys)) > 5
    assert {key.version for key in keys} == {5}
    assert all(len(seen.body) <= 2000 for seen in stub.ingests())
    assert sorted(stub.rows(), key=lambda r: int(r["id"][1:])) == batch(100).to_pylist()

    # Another process that writes the same again, under its own counters, stores nothing twice.
    again = open_client(slice_bytes=2000, metrics=metrics)
    replay = await again.ingest("kyma", TABLE, batch(100), key_scope="p1")
    assert (replay.rows, replay.replayed) == (0, 100)
    assert metrics.kyma_rows.of("replayed").value == 100
    assert metrics.kyma_slices.of("replayed").value == written.slices
    # Other rows, another scope, another table: other keys.
    await again.ingest("kyma", TABLE, batch(100), key_scope="p2")
    await again.ingest("kyma", "context_edges", batch(100), key_scope="p1")
    assert len({s.headers["x-idempotency-key"] for s in stub.ingests()}) == 3 * written.slices


@pytest.mark.requirement("KYMA-03")
async def test_a_write_that_broke_off_goes_on_behind_what_was_acknowledged(
    stub: StubKyma, open_client: Open
) -> None:
    client = open_client(slice_bytes=2000, max_in_flight=1)
    # The third slice meets a token that was taken away; the first two are stored.
    stub.then("/v1/ingest", None, None, failure(403, "forbidden"))

    with pytest.raises(EngineRefusedError, match="write role"):
        await client.ingest("kyma", TABLE, batch(60), key_scope="p1")
    resumed = await client.ingest("kyma", TABLE, batch(60), key_scope="p1")

    assert resumed.replayed > 0
    assert resumed.rows + resumed.replayed == 60
    assert len(stub.rows()) == 60


async def test_a_producer_waits_while_a_table_has_its_slices_under_way(
    stub: StubKyma, open_client: Open
) -> None:
    client = open_client(slice_bytes=2000, max_in_flight=3)
    await client.ingest("kyma", TABLE, batch(1), key_scope="first")  # the table is known now
    stub.hold, stub.most_under_way = asyncio.Event(), 0

    writing = [
        asyncio.create_task(client.ingest("kyma", TABLE, batch(40, 50 + i), key_scope="p"))
        for i in range(3)
    ]
    while stub.under_way < 3:
        stub.arrived.clear()
        await asyncio.wait_for(stub.arrived.wait(), 60)
    other = asyncio.create_task(client.ingest("kyma", "context_edges", batch(1), key_scope="p"))
    while stub.under_way < 4:  # another table has its own
        stub.arrived.clear()
        await asyncio.wait_for(stub.arrived.wait(), 60)
    stub.hold.set()
    results = await asyncio.wait_for(asyncio.gather(*writing, other), 60)

    assert sum(result.rows for result in results) == 121
    assert stub.most_under_way <= 4


async def test_one_key_is_never_under_way_twice(client: KymaClient, stub: StubKyma) -> None:
    await client.ingest("kyma", TABLE, batch(1), key_scope="first")  # the table is known now
    stub.hold, stub.most_under_way = asyncio.Event(), 0
    stub.arrived.clear()
    writing = [
        asyncio.create_task(client.ingest("kyma", TABLE, batch(5), key_scope="p")) for _ in range(3)
    ]
    await asyncio.wait_for(stub.arrived.wait(), 60)
    stub.hold.set()
    results = await asyncio.wait_for(asyncio.gather(*writing), 60)

    assert sorted((done.rows, done.replayed) for done in results) == [(0, 5), (0, 5), (5, 0)]
    assert stub.most_under_way == 1


async def test_one_request_makes_a_table_before_others_fill_it(
    stub: StubKyma, open_client: Open
) -> None:
    client = open_client(slice_bytes=2000)
    stub.hold = asyncio.Event()
    writing = asyncio.create_task(client.ingest("kyma", TABLE, batch(100), key_scope="p"))
    await asyncio.wait_for(stub.arrived.wait(), 60)
    assert stub.most_under_way == 1
    stub.hold.set()

    assert (await asyncio.wait_for(writing, 60)).rows == 100


@pytest.mark.requirement("KYMA-04")
async def test_rows_that_kyma_refuses_are_named_and_all_others_stored(
    stub: StubKyma, client: KymaClient
) -> None:
    stub.refuse = lambda row: row["id"] in {"n7", "n30"}

    written = await client.ingest("kyma", TABLE, batch(40), key_scope="p")

    assert [rejected.row for rejected in written.rejected] == [7, 30]
    assert written.rejected[0].reason == "a line does not fit a column"
    assert written.rows == 38
    assert {row["id"] for row in stub.rows()} == {f"n{i}" for i in range(40)} - {"n7", "n30"}


async def test_a_batch_that_is_wrong_as_a_whole_is_refused_soon(
    stub: StubKyma, client: KymaClient
) -> None:
    stub.refuse = lambda row: True

    with pytest.raises(EngineRefusedError, match="more than 100 rows"):
        await client.ingest("kyma", TABLE, batch(5000), key_scope="p")

    assert len(stub.ingests()) < 500


async def test_columns_that_kyma_would_drop_are_refused_before_anything_is_sent(
    stub: StubKyma, client: KymaClient
) -> None:
    wide = pa.record_batch({f"c{i}": ["x"] for i in range(33)})

    with pytest.raises(InvalidError, match="32 columns"):
        await client.ingest("kyma", TABLE, wide, key_scope="p")
    assert stub.ingests() == []

    await client.ingest("kyma", TABLE, wide.select(wide.schema.names[:20]), key_scope="p")
    assert (await client.ingest("kyma", TABLE, wide, key_scope="p")).rows == 1


async def test_typed_columns_of_the_catalog_get_their_own_json(
    stub: StubKyma, client: KymaClient
) -> None:
    columns = [{"name": "n", "type": "long", "nullable": True}]
    stub.databases = [{"name": "kyma", "tables": [{"name": "typed", "columns": columns}]}]

    await client.ingest("kyma", "typed", pa.record_batch({"n": [1], "m": [2]}), key_scope="p")

    assert stub.rows() == [{"n": 1, "m": "2"}]
