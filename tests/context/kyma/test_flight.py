"""Reading over Flight: batches as they come, deadlines, an empty answer, and its absence."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import aclosing

import pyarrow as pa
import pytest

from agentcy_ray.context.kyma import KymaClient
from agentcy_ray.context.kyma.address import KymaAddress
from agentcy_ray.context.kyma.flight import ABSENT_SECS, FlightAwayError, FlightDoor
from agentcy_ray.core.errors import (
    EngineError,
    EngineRefusedError,
    MissingDataError,
    QueryTimeoutError,
)
from tests.context.kyma.conftest import Open
from tests.context.kyma.flights import BATCH, ScriptedFlight, silent_flight
from tests.context.kyma.stub import StubKyma, failure, ndjson


@pytest.fixture
def flight() -> Iterator[ScriptedFlight]:
    with ScriptedFlight() as server:
        yield server
        server.go_on.set()


@pytest.fixture
def client(flight: ScriptedFlight, open_client: Open) -> KymaClient:
    return open_client(flight=flight.url)


@pytest.mark.requirement("KYMA-05")
async def test_a_result_comes_in_arrow_without_a_request_over_http(
    client: KymaClient, flight: ScriptedFlight, stub: StubKyma
) -> None:
    table = await client.read("kyma_x", "SELECT 1", timeout_ms=5000)

    assert table.equals(pa.Table.from_batches([BATCH, BATCH]))
    assert flight.tickets[-1] == {"database": "kyma_x", "query": "SELECT 1", "language": "sql"}
    assert stub.seen == []


async def test_a_schema_is_kept_to_over_flight_as_over_http(client: KymaClient) -> None:
    schema = pa.schema([("n", pa.string()), ("gone", pa.binary())])

    table = await client.read("kyma", "SELECT 1", timeout_ms=5000, schema=schema)

    assert table.to_pydict() == {"n": ["1", "2"] * 2, "gone": [None] * 4}


async def test_the_first_batch_is_there_before_the_last_is_made(
    client: KymaClient, flight: ScriptedFlight
) -> None:
    async with aclosing(client.batches("kyma", "slow", timeout_ms=20_000)) as batches:
        assert (await anext(batches)).equals(BATCH)
        flight.go_on.set()
        assert (await anext(batches)).equals(BATCH)


async def test_a_reader_that_leaves_ends_the_stream_at_once(client: KymaClient) -> None:
    async with asyncio.timeout(60):
        async with aclosing(client.batches("kyma", "slow", timeout_ms=60_000)) as batches:
            await anext(batches)


async def test_a_slow_flight_ends_at_its_deadline(client: KymaClient) -> None:
    with pytest.raises(QueryTimeoutError, match="200 ms"):
        await client.read("kyma", "slow", timeout_ms=200)


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ("missing database", MissingDataError, "nothing in 'kyma' yet"),
        ("wrong", EngineRefusedError, "no such function"),
        ("fails", EngineError, "out of memory$"),
        ("breaks off", EngineError, "disk on fire$"),
    ],
)
async def test_a_status_of_flight_means_what_the_contract_says(
    client: KymaClient, text: str, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        await client.read("kyma", text, timeout_ms=5000)


async def test_a_table_that_is_not_there_yet_is_found_out_over_http(
    open_client: Open, flight: ScriptedFlight, stub: StubKyma, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentcy_ray.context.kyma.client.tables_of", lambda sql: ["context_nodes"])
    stub.then("/v1/query", failure(400, "sql_parse_error", "table not found"))

    with pytest.raises(MissingDataError, match="context_nodes"):
        await open_client(flight=flight.url).read("kyma", "wrong", timeout_ms=5000)


async def test_an_answer_without_a_single_message_is_an_empty_table(open_client: Open) -> None:
    with silent_flight() as url:
        client = open_client(flight=url)
        assert (await client.read("kyma", "SELECT 1", timeout_ms=5000)).num_rows == 0
        schema = pa.schema([("id", pa.string())])
        table = await client.read("kyma", "SELECT 1", timeout_ms=5000, schema=schema)
        assert table.equals(schema.empty_table())


@pytest.mark.requirement("KYMA-05")
async def test_without_flight_the_answer_comes_over_http(open_client: Open, stub: StubKyma) -> None:
    client = open_client(flight="grpc://127.0.0.1:1")
    stub.then("/v1/query", ndjson({"id": "a"}))

    assert (await client.read("kyma", "SELECT 1", timeout_ms=5000)).to_pydict() == {"id": ["a"]}


async def test_a_flight_that_goes_away_hands_over_to_http_before_the_first_batch(
    client: KymaClient, stub: StubKyma
) -> None:
    stub.then("/v1/query", ndjson({"id": "a"}))

    assert (await client.read("kyma", "gone", timeout_ms=5000)).to_pydict() == {"id": ["a"]}


async def test_an_absent_flight_is_remembered_and_looked_for_again_later(
    flight: ScriptedFlight,
) -> None:
    clock = [100.0]
    address = KymaAddress("http://127.0.0.1:1", "grpc://127.0.0.1:1")
    door = FlightDoor(address, lambda: clock[0])
    assert not await door.present()
    with pytest.raises(FlightAwayError):
        await anext(door.batches("kyma", "SELECT 1", timeout_ms=1000))

    object.__setattr__(address, "flight_url", flight.url)  # it comes up at that address
    clock[0] += ABSENT_SECS - 1
    assert not await door.present()
    clock[0] += 1
    assert await door.present()
    await door.close()
