"""The client over HTTP: what it sends, what answers mean, what it repeats."""

from __future__ import annotations

import asyncio
import socket

import pyarrow as pa
import pytest
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse

from agentcy_ray.context.kyma import Budgets, KymaAddress, KymaClient
from agentcy_ray.core.errors import (
    ConfigError,
    EngineBusyError,
    EngineError,
    EngineRefusedError,
    MissingDataError,
    QueryRejectedError,
    QueryTimeoutError,
    QueryTooCostlyError,
    StoreUnavailableError,
)
from tests.context.kyma.conftest import Open
from tests.context.kyma.stub import StubKyma, failure, ndjson

ROWS = pa.record_batch({"id": ["a", "b"], "version": ["1", "2"]})


@pytest.mark.requirement("KYMA-01")
async def test_requests_carry_the_token_the_database_and_both_generations_of_headers(
    client: KymaClient, stub: StubKyma
) -> None:
    stub.then("/v1/query", ndjson({"n": 2}))

    answer = await client.read("kyma_x", "SELECT count(*) AS n FROM context_nodes", timeout_ms=900)

    seen = stub.seen[-1]
    assert answer.to_pydict() == {"n": [2]}
    assert seen.headers["authorization"] == "Bearer devtok"
    assert seen.headers["x-database"] == "kyma_x"
    assert seen.headers["content-type"] == "application/sql"
    assert seen.headers["x-kyma-max-wall-clock-ms"] == "900"
    assert seen.headers["x-pensieve-max-wall-clock-ms"] == "900"


async def test_one_generation_of_headers_is_sent_when_one_is_asked_for(stub: StubKyma) -> None:
    client = KymaClient.open(KymaAddress(stub.url, "off", None, "pensieve"))
    stub.token = ""
    with pytest.raises(EngineRefusedError):
        await client.read("kyma", "SELECT 1", timeout_ms=900)
    await client.close()

    assert "x-kyma-max-wall-clock-ms" not in stub.seen[-1].headers
    assert "authorization" not in stub.seen[-1].headers


async def test_a_schema_restores_what_ndjson_leaves_out(client: KymaClient, stub: StubKyma) -> None:
    stub.then(
        "/v1/query",
        ndjson(
            {"at": "2026-06-01T10:00:00.25", "props": b'{"a":1}'.hex(), "n": 2**60},
            {"at": "2026-06-01T10:00:00", "ok": True},
            {},
        ),
    )
    schema = pa.schema([
        ("n", pa.int64()), ("props", pa.binary()), ("at", pa.timestamp("us", "UTC")),
        ("ok", pa.bool_()), ("gone", pa.string()),
    ])  # fmt: skip

    table = await client.read("kyma", "SELECT 1", timeout_ms=900, schema=schema)

    assert table.schema == schema
    assert table.column("n").to_pylist() == [2**60, None, None]
    assert table.column("props").to_pylist() == [b'{"a":1}', None, None]
    assert table.column("at").cast(pa.int64()).to_pylist()[0] == 1_780_308_000_250_000
    assert table.column("ok").to_pylist() == [None, True, None]
    assert table.column("gone").null_count == 3


@pytest.mark.parametrize(
    ("answer", "error", "says"),
    [
        (PlainTextResponse("unknown token", 401), EngineRefusedError, "KYMA_TOKEN"),
        (
            PlainTextResponse("token role `Read` below required `Write`", 403),
            EngineRefusedError,
            "read role",
        ),
        (failure(404, "database_empty"), MissingDataError, "nothing in 'kyma' yet"),
        (failure(404, "endpoint"), EngineRefusedError, "KYMA_BASE_URL"),
        (failure(400, "sql_parse_error", "no column x"), EngineRefusedError, "no column x"),
        (failure(429, "memory_exceeded"), QueryTooCostlyError, "narrow it"),
        (failure(429, "wall_clock_exceeded"), QueryTimeoutError, "time limit"),
        (failure(500, "query_execution_error", "divide by zero"), EngineError, "divide by zero"),
    ],
)
async def test_an_answer_means_what_its_status_and_code_say(
    client: KymaClient, stub: StubKyma, answer: PlainTextResponse, error: type[Exception], says: str
) -> None:
    stub.then("/v1/query", answer)

    with pytest.raises(error, match=says):
        await client.read("kyma", "SELECT 1", timeout_ms=900)

    assert len(stub.seen) == 1  # none of these is worth a repeat


async def test_a_used_up_budget_is_named_in_either_generation(
    client: KymaClient, stub: StubKyma
) -> None:
    for header in ("x_kyma_budget_limit", "x_pensieve_budget_limit"):
        stub.then("/v1/query", failure(429, "memory_exceeded", **{header: "1048576 memory"}))
        with pytest.raises(QueryTooCostlyError) as caught:
            await client.read("kyma", "SELECT 1", timeout_ms=900)
        assert caught.value.details["limit"] == "1048576 memory"


async def test_a_table_that_is_not_there_yet_is_told_from_a_wrong_text(
    client: KymaClient, stub: StubKyma
) -> None:
    unknown = failure(400, "sql_parse_error", "table 'context_edges' not found")
    sql = (
        "WITH own AS (SELECT * FROM context_edges) SELECT * FROM own JOIN context_nodes USING (id)"
    )
    stub.then("/v1/query", unknown, unknown)

    with pytest.raises(MissingDataError) as caught:
        await client.read("kyma", sql, timeout_ms=900)

    assert caught.value.details == {"database": "kyma", "table": "context_edges"}
    stub.then("/v1/query", failure(400, "sql_parse_error", "no such function"))
    with pytest.raises(EngineRefusedError, match="no such function"):
        await client.read("kyma", sql, timeout_ms=900)


async def test_admission_control_and_gateways_are_waited_for(
    client: KymaClient, stub: StubKyma
) -> None:
    stub.then("/v1/query", failure(429, "too_many_requests", retry_after="0"))
    stub.then("/v1/query", PlainTextResponse("bad gateway", 502), ndjson({"a": 1}))

    assert (await client.read("kyma", "SELECT 1", timeout_ms=900)).num_rows == 1

    stub.then("/v1/query", *[failure(429, "too_many_requests", retry_after="0")] * 3)
    with pytest.raises(EngineBusyError):
        await client.read("kyma", "SELECT 1", timeout_ms=900)


@pytest.mark.requirement("KYMA-03")
@pytest.mark.parametrize("status", [401, 403, 404])
async def test_a_refused_slice_is_sent_once(
    client: KymaClient, stub: StubKyma, status: int
) -> None:
    stub.then("/v1/ingest", failure(status, "table_not_found" if status == 404 else "forbidden"))

    with pytest.raises(EngineError):
        await client.ingest("kyma", "context_nodes", ROWS, key_scope="p1")

    assert len(stub.ingests()) == 1


@pytest.mark.requirement("KYMA-03")
@pytest.mark.parametrize("status", [400, 413])
async def test_a_slice_that_does_not_suit_is_halved_and_no_part_is_sent_twice(
    client: KymaClient, stub: StubKyma, status: int
) -> None:
    stub.then("/v1/ingest", failure(status, "bad_request_body"))

    assert (await client.ingest("kyma", "context_nodes", ROWS, key_scope="p1")).rows == 2

    keys = [seen.headers["x-idempotency-key"] for seen in stub.ingests()]
    assert len(keys) == len(set(keys)) == 3


@pytest.mark.requirement("KYMA-03")
async def test_a_storm_of_429_and_500_ends_with_every_row_stored_once(
    client: KymaClient, stub: StubKyma
) -> None:
    stub.then("/v1/ingest", failure(429, "rate_limited", retry_after="0"))
    stub.then("/v1/ingest", failure(500, "ingest_failed"), failure(503, ""))

    written = await client.ingest("kyma", "context_nodes", ROWS, key_scope="p1")

    assert (written.rows, written.replayed, written.rejected) == (2, 0, ())
    assert len({seen.headers["x-idempotency-key"] for seen in stub.ingests()}) == 1
    assert stub.rows() == ROWS.to_pylist()


async def test_a_kyma_that_stays_away_is_a_transient_error_and_nothing_is_lost(
    stub: StubKyma, open_client: Open
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        away = open_client(f"http://127.0.0.1:{unused.getsockname()[1]}")
    with pytest.raises(StoreUnavailableError, match="agentcy doctor"):
        await away.ingest("kyma", "context_nodes", ROWS, key_scope="p1")

    client = open_client()
    stub.then("/v1/ingest", *[failure(500, "ingest_failed")] * 4)
    with pytest.raises(StoreUnavailableError) as caught:
        await client.ingest("kyma", "context_nodes", ROWS, key_scope="p1")
    assert caught.value.transient
    assert (await client.ingest("kyma", "context_nodes", ROWS, key_scope="p1")).rows == 2
    assert (await client.ingest("kyma", "context_nodes", ROWS, key_scope="p1")).replayed == 2
    assert stub.rows() == ROWS.to_pylist()


async def test_a_token_without_the_write_role_is_named_and_never_shown(
    stub: StubKyma, open_client: Open
) -> None:
    stub.token = "readonly-secret"
    client = open_client(token="readonly-secret")
    echo = "token readonly-secret has role `Read` below required `Write`"
    stub.then("/v1/ingest", PlainTextResponse(echo, 403))

    with pytest.raises(EngineRefusedError, match="write role") as caught:
        await client.ingest("kyma", "context_nodes", ROWS, key_scope="p1")

    assert "readonly-secret" not in f"{caught.value.message}{caught.value.details}"
    assert not caught.value.transient
    assert len(stub.ingests()) == 1


async def test_a_slow_query_ends_at_its_deadline(
    client: KymaClient, stub: StubKyma, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentcy_ray.context.kyma.http._GRACE_MS", 0)
    # The answer to a request for more body than is sent never comes.
    listener = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    silent = KymaClient.open(KymaAddress(f"http://127.0.0.1:{port}", "off"))

    with pytest.raises(QueryTimeoutError, match="20 ms"):
        await silent.read("kyma", "SELECT 1", timeout_ms=20)

    await silent.close()
    listener.close()


async def test_native_text_goes_through_as_it_stands(client: KymaClient, stub: StubKyma) -> None:
    stub.then("/v1/query", ndjson({"Count": 3}, rows_header="x-pensieve-rows"))
    text = "context_events | count"

    answer = await client.native("kyma", "kql", text, Budgets(1000, memory_bytes=1 << 20))

    assert (answer.records(), answer.rows) == ([{"Count": 3}], 1)
    assert stub.seen[-1].body.decode() == text
    assert stub.seen[-1].headers["content-type"] == "application/x-kql"
    assert stub.seen[-1].headers["x-kyma-max-memory-bytes"] == str(1 << 20)
    stub.then("/v1/query", failure(400, "kql_parse_error", "unsupported function: foo/1"))
    with pytest.raises(QueryRejectedError, match="foo/1"):
        await client.native("kyma", "kql", "x | where foo(1)", Budgets())


async def test_the_probe_tells_stages_apart(client: KymaClient, stub: StubKyma) -> None:
    stub.then("/v1/capabilities", HTMLResponse("<html>"))
    stub.then("/v1/query", failure(404, "database_not_found"))
    first = await client.probe()
    assert (first.version, first.mode, first.cypher, first.flight) == (
        "0.0.22", "unknown", None, False,
    )  # fmt: skip

    stub.then("/v1/capabilities", JSONResponse({"mode": "server", "agent": False}))
    stub.then("/v1/query", failure(400, "graph_resolution_error"))
    second = await client.probe()
    assert (second.mode, second.cypher) == ("server", True)
    assert await client.probe() is second


async def test_tables_come_with_their_types(client: KymaClient, stub: StubKyma) -> None:
    column = {"name": "at", "type": "timestamp", "nullable": True}
    stub.databases = [{"name": "kyma", "tables": [{"name": "t", "columns": [column]}]}]

    assert await client.tables("kyma") == {"t": {"at": "timestamp"}}
    assert await client.tables("other") == {}


@pytest.mark.parametrize("url", ["kyma:8080", "ftp://kyma", "http://me:secret@kyma", "http://"])
def test_a_malformed_address_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="KYMA_BASE_URL") as caught:
        KymaAddress(url)
    assert "secret" not in caught.value.message


def test_flight_is_looked_for_at_its_port_and_at_the_one_of_http() -> None:
    assert KymaAddress("http://kyma:8080").flight_candidates == (
        "grpc://kyma:9090", "grpc://kyma:8080",
    )  # fmt: skip
    assert KymaAddress("http://kyma:8080", "off").flight_candidates == ()
    assert KymaAddress("http://kyma", "grpc://f:1").flight_candidates == ("grpc://f:1",)
