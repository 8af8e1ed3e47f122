"""The client against an engine: the embedded one, or a real kyma named by KYMA_TEST_URL."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID, uuid4

import httpx2
import orjson
import pyarrow as pa
import pytest
from pydantic import SecretStr

from agentcy_ray.context.advanced import AdvancedEngine
from agentcy_ray.context.advanced.databases import Databases
from agentcy_ray.context.advanced.store import Store
from agentcy_ray.context.kyma import Budgets, KymaAddress, KymaClient
from agentcy_ray.core import batches
from agentcy_ray.core.batches import vectors_field
from agentcy_ray.core.errors import (
    EngineRefusedError,
    MissingDataError,
    QueryRejectedError,
    QueryTimeoutError,
    StoreUnavailableError,
)
from agentcy_ray.devkyma.config import Config, Role
from agentcy_ray.devkyma.faults import Faults
from agentcy_ray.devkyma.server import serve
from tests.conformance.graphs import SEEN, Graph
from tests.context.kyma.conftest import QUICK

AT = datetime(2026, 6, 1, 10, 0, 0, 125000, UTC)
EVENTS = pa.record_batch({
    "at": pa.array([AT, AT, None], pa.timestamp("us", "UTC")),
    "label": ["tool_call", None, "incident"],
    "props": ['{"ok": true}', None, '{"text": "a\\nb \\u001f \\"c\\""}'],
    "facts": ["\x1fok\x1ebtrue\x1f", "\x1f", 'quote " \\ \n tab\t é 漢 \u2028'],
    "duration_ms": pa.array([12, None, 2**62], pa.int64()),
    "share": [0.5, 1e300, None],
})  # fmt: skip
STORED = pa.schema([
    ("at", pa.timestamp("us", "UTC")), ("label", pa.string()), ("props", pa.binary()),
    ("facts", pa.string()), ("duration_ms", pa.string()), ("share", pa.string()),
])  # fmt: skip
COLUMNS = {"at": "timestamp", "props": "dynamic", "external_id": "long"}


@dataclass(frozen=True)
class Kyma:
    address: KymaAddress
    faults: Faults | None
    """None: a real one, which has no switches."""

    def client(
        self, *, flight: bool = True, token: str | None = None, **more: object
    ) -> KymaClient:
        own = self.address
        address = KymaAddress(
            own.base_url,
            own.flight_url if flight else "off",
            SecretStr(token) if token else own.token,
        )
        return KymaClient.open(address, patience=QUICK, **more)  # pyright: ignore[reportArgumentType]


@pytest.fixture(scope="module")
async def kyma(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Kyma]:
    if url := os.environ.get("KYMA_TEST_URL"):
        token = os.environ.get("KYMA_TEST_TOKEN")
        flight = os.environ.get("KYMA_TEST_FLIGHT_URL")
        yield Kyma(KymaAddress(url, flight, SecretStr(token) if token else None), None)
        return
    config = Config(
        str(tmp_path_factory.mktemp("kyma")),
        tokens={"writer": Role.WRITE, "reader": Role.READ, "operator": Role.ADMIN},
        test_switches=True,
    )
    async with serve(config) as engine:
        address = KymaAddress(engine.http_url, engine.flight_url, SecretStr("writer"))
        yield Kyma(address, engine.faults)


@pytest.fixture
def database() -> str:
    return f"t_{uuid4().hex[:12]}"


@pytest.mark.requirement("KYMA-02")
@pytest.mark.parametrize("flight", [True, False])
async def test_what_is_written_is_read_back_in_arrow(
    kyma: Kyma, database: str, flight: bool
) -> None:
    client = kyma.client(flight=flight)
    written = await client.ingest(database, "context_events", EVENTS, key_scope="p")
    replay = await client.ingest(database, "context_events", EVENTS, key_scope="p")

    sql = "SELECT * FROM context_events ORDER BY facts"
    table = await client.read(database, sql, timeout_ms=10_000, schema=STORED)
    columns = (await client.tables(database))["context_events"]
    await client.close()

    assert (written.rows, replay.rows, replay.replayed) == (3, 0, 3)
    rows = sorted(EVENTS.to_pylist(), key=lambda row: row["facts"])
    assert table.column("facts").to_pylist() == [row["facts"] for row in rows]
    assert table.column("at").to_pylist() == [row["at"] for row in rows]
    assert table.column("label").to_pylist() == [row["label"] for row in rows]
    assert table.column("duration_ms").to_pylist() == [
        None if row["duration_ms"] is None else str(row["duration_ms"]) for row in rows
    ]
    assert [text and orjson.loads(text) for text in table.column("props").to_pylist()] == [
        row["props"] and orjson.loads(row["props"]) for row in rows
    ]
    assert columns["duration_ms"] == "string"


def sample(schema: pa.Schema) -> pa.RecordBatch:
    """Two rows of a batch schema: one with a value in every column, one with as few as it may."""
    row: dict[str, object] = {}
    for field in schema:
        if pa.types.is_timestamp(field.type):
            row[field.name] = AT
        elif pa.types.is_fixed_size_list(field.type):
            row[field.name] = [0.1, -2.5, 3e-20]
        elif pa.types.is_floating(field.type):
            row[field.name] = 0.1
        elif pa.types.is_list(field.type):
            row[field.name] = ["File", 'a "b"']
        else:
            row[field.name] = (
                '{"k": "é\\n"}' if field.name in {"props", "properties"} else "é\n\x1f"
            )
    few = {name: value for name, value in row.items() if not schema.field(name).nullable}
    return pa.RecordBatch.from_pylist([row, few], schema)


@pytest.mark.requirement("KYMA-09")
@pytest.mark.parametrize("flight", [True, False])
async def test_every_type_of_the_batch_schemas_survives_the_way_in_and_back(
    kyma: Kyma, database: str, flight: bool
) -> None:
    schemas = {
        name.lower(): schema
        for name, schema in vars(batches).items()
        if isinstance(schema, pa.Schema)
    }
    schemas["vectors"] = pa.schema([vectors_field(3)])
    assert len(schemas) > 10
    client = kyma.client(flight=flight)
    for table, schema in schemas.items():
        batch = sample(schema)
        await client.ingest(database, table, batch, key_scope="p")
        columns = [field for field in schema if field.name != "props"]
        names = ", ".join(f'"{field.name}"' for field in columns)
        back = await client.read(
            database, f"SELECT {names} FROM {table} ORDER BY {names}", timeout_ms=10_000,
            schema=pa.schema(columns),
        )  # fmt: skip
        expected = pa.Table.from_batches([batch.select([f.name for f in columns])])
        assert sorted(map(repr, back.to_pylist())) == sorted(map(repr, expected.to_pylist())), table
        assert back.schema.types == [field.type for field in columns]
    await client.close()


async def test_nothing_there_yet_is_told_from_a_wrong_text(kyma: Kyma, database: str) -> None:
    for client in (kyma.client(), kyma.client(flight=False)):
        with pytest.raises(MissingDataError):
            await client.read(f"{database}_x", "SELECT * FROM context_nodes", timeout_ms=10_000)
        await client.ingest(database, "context_nodes", EVENTS, key_scope="p")
        with pytest.raises(MissingDataError, match="context_edges"):
            await client.read(
                database, "SELECT 1 FROM context_nodes a, context_edges b", timeout_ms=10_000
            )
        with pytest.raises(EngineRefusedError):
            await client.read(database, "SELECT nope(id) FROM context_nodes", timeout_ms=10_000)
        empty = await client.read(
            database, "SELECT label FROM context_nodes WHERE 1 = 0", timeout_ms=10_000
        )
        assert empty.num_rows == 0
        await client.close()


@pytest.mark.requirement("KYMA-04")
async def test_a_row_that_does_not_fit_is_put_aside(kyma: Kyma, database: str) -> None:
    client = kyma.client()
    batch = pa.record_batch({"at": [AT.isoformat(), "soon", None], "label": ["a", "b", "c"]})

    written = await client.ingest(database, "context_events", batch, key_scope="p")
    table = await client.read(
        database, "SELECT label FROM context_events ORDER BY label", timeout_ms=10_000
    )
    await client.close()

    assert (written.rows, [rejected.row for rejected in written.rejected]) == (2, [1])
    assert table.column("label").to_pylist() == ["a", "c"]


@pytest.mark.requirement("KYMA-04")
async def test_a_node_that_does_not_fit_a_typed_table_is_named_and_the_others_stored(
    kyma: Kyma, database: str
) -> None:
    if kyma.faults is None:
        pytest.skip("a real kyma makes typed tables by its command line only")
    table = {"database": database, "table": "context_nodes", "columns": COLUMNS}
    async with httpx2.AsyncClient(base_url=kyma.address.base_url, timeout=60) as operator:
        operator.headers["authorization"] = "Bearer operator"
        (await operator.post("/dev/tables", json=table)).raise_for_status()
    graph = Graph(uuid4())
    graph.node("7")
    worded = graph.node("seven")

    async def first() -> UUID:
        return graph.org

    client = kyma.client()
    store = Store(client, Databases(database, first))
    engine = AdvancedEngine(store, {}, embedded=True, own_bucket=False)
    written = await engine.upsert_nodes(graph.org, graph.node_batch(), SEEN)
    await engine.close()

    assert written.rows == 1
    assert [refused.id for refused in written.refused] == [worded]


async def test_native_languages_are_probed_and_passed_through(kyma: Kyma, database: str) -> None:
    client = kyma.client()
    await client.ingest(database, "context_events", EVENTS, key_scope="p")

    probe = await client.probe(database)
    counted = await client.native(
        database, "sql", "SELECT count(*) AS n FROM context_events", Budgets()
    )
    with pytest.raises(QueryRejectedError):
        await client.native(database, "sql", "DROP TABLE context_events", Budgets())
    await client.close()

    assert probe.version
    assert probe.flight
    assert (counted.records(), counted.rows) == ([{"n": 3}], 1)


async def test_a_token_without_the_write_role_is_refused(kyma: Kyma, database: str) -> None:
    if kyma.faults is None:
        pytest.skip("needs a read-only token of the embedded engine")
    client = kyma.client(token="reader")
    with pytest.raises(EngineRefusedError, match="write role"):
        await client.ingest(database, "context_events", EVENTS, key_scope="p")
    await client.close()


async def test_a_query_that_takes_too_long_is_stopped(kyma: Kyma, database: str) -> None:
    client = kyma.client(flight=False)
    many = pa.record_batch({"label": [str(i) for i in range(2000)]})
    await client.ingest(database, "context_events", many, key_scope="p")
    pairs = "SELECT count(*) AS n FROM context_events a, context_events b, context_events c"
    with pytest.raises(QueryTimeoutError):
        await client.read(
            database,
            f"{pairs} WHERE concat(a.label, b.label, c.label) LIKE '%7%9%'",
            timeout_ms=100,
        )
    await client.close()


@pytest.fixture
def faults(kyma: Kyma) -> Iterator[Faults]:
    if kyma.faults is None:
        pytest.skip("needs the switches of the embedded engine")
    yield kyma.faults
    kyma.faults.set(Faults().shown())


@pytest.mark.requirement("KYMA-03")
async def test_storms_and_lost_answers_store_every_row_once(
    kyma: Kyma, faults: Faults, database: str
) -> None:
    client = kyma.client(slice_bytes=4096)
    batch = pa.record_batch({"label": [f"row {i}" for i in range(1000)]})
    faults.set({"ingest_429": 1, "ingest_500": 1, "ingest_lost_acks": 1, "retry_after_s": 1})

    written = await client.ingest(database, "context_events", batch, key_scope="p")
    table = await client.read(database, "SELECT label FROM context_events", timeout_ms=60_000)
    await client.close()

    assert written.rows + written.replayed == 1000
    assert written.replayed > 0  # an answer was lost behind a commit
    assert sorted(table.column("label").to_pylist()) == sorted(batch.column("label").to_pylist())


async def test_a_publish_meets_a_kyma_that_is_down_and_loses_nothing(
    kyma: Kyma, faults: Faults, database: str
) -> None:
    client = kyma.client(slice_bytes=4096)
    batch = pa.record_batch({"label": [f"row {i}" for i in range(1000)]})
    faults.set({"ingest_500": 50})
    with pytest.raises(StoreUnavailableError) as caught:
        await client.ingest(database, "context_events", batch, key_scope="p")
    assert caught.value.transient

    faults.set({"ingest_500": 0})
    written = await client.ingest(database, "context_events", batch, key_scope="p")
    answer = await client.native(
        database, "sql", "SELECT count(*) AS n FROM context_events", Budgets()
    )
    await client.close()

    assert written.rows + written.replayed == 1000
    assert answer.records() == [{"n": 1000}]


async def test_a_slow_flight_meets_its_deadline_and_one_that_is_down_is_done_without(
    kyma: Kyma, faults: Faults, database: str
) -> None:
    client = kyma.client()
    await client.ingest(database, "context_events", EVENTS, key_scope="p")
    sql = "SELECT label FROM context_events"
    assert (await client.read(database, sql, timeout_ms=10_000)).num_rows == 3

    faults.set({"flight_delay_ms": 600})
    with pytest.raises(QueryTimeoutError):
        await client.read(database, sql, timeout_ms=100)
    faults.set({"flight_delay_ms": 0, "flight_down": True})
    assert (await client.read(database, sql, timeout_ms=10_000)).num_rows == 3
    await client.close()
