"""Arrow out: ``do_get`` with a JSON ticket, and nothing else."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pyarrow as pa
import pyarrow.flight as fl
import pytest

from tests.devkyma.conftest import Talk
from tests.kyma_server import engine_process


@pytest.fixture(autouse=True)
def _flight(talk: Talk) -> None:
    if talk.server.flight_url is None:
        pytest.skip("this server has no Flight port")


async def get(talk: Talk, **ticket: str) -> pa.Table:
    return await asyncio.to_thread(talk.server.do_get, **{"database": talk.database, **ticket})


async def test_types_are_those_of_the_catalog(talk: Talk):
    await talk.ingest({"at": "2026-06-01T10:00:00Z", "label": "a", "props": [1], "realm": "r"})
    table = await get(talk, query="SELECT at, props, realm, count(*) AS n FROM t GROUP BY 1, 2, 3")
    assert table.schema.types == [pa.timestamp("ns"), pa.binary(), pa.string(), pa.int64()]
    assert table.to_pylist()[0]["props"] == b"[1]"


async def test_texts_are_plain_however_deep_they_lie(talk: Talk):
    await talk.ingest({"label": "a", "body": "b"})
    query = "SELECT make_array(label) AS l, named_struct('k', body) AS s, label || 'x' AS t FROM t"
    table = await get(talk, query=query)
    texts, inside = pa.list_(pa.string()), pa.struct([("k", pa.string())])
    assert table.schema.types == [texts, inside, pa.string()]
    assert table.to_pylist() == [{"l": ["a"], "s": {"k": "b"}, "t": "ax"}]


async def test_two_columns_may_share_a_name(talk: Talk):
    await talk.ingest({"label": "a", "body": "b"})
    table = await get(talk, query="SELECT x.label, y.label FROM t x JOIN t y ON x.body = y.body")
    assert (table.schema.names, table.schema.types) == (["label"] * 2, [pa.string()] * 2)


async def test_without_the_right_token_the_port_answers_all_the_same(talk: Talk):
    await talk.ingest({"label": "a"})
    assert (await get(talk, query="SELECT label FROM t")).num_rows == 1


async def test_large_results_come_in_messages_of_about_two_mebibytes(talk: Talk):
    await talk.ingest(*({"body": "x" * 1000} for _ in range(8000)))

    def read() -> list[int]:
        with fl.connect(talk.server.flight_url) as client:
            ticket = fl.Ticket(
                b'{"database":"%s","query":"SELECT body FROM t"}' % talk.database.encode()
            )
            return [chunk.data.num_rows for chunk in client.do_get(ticket)]

    sizes = await asyncio.to_thread(read)
    assert sum(sizes) == 8000
    assert max(sizes) <= 2200


@pytest.mark.parametrize(
    ("ticket", "error"),
    [
        ({"query": "SELECT nope FROM t"}, pa.ArrowInvalid),
        ({"query": "SELECT 1", "language": "cypher"}, pa.ArrowInvalid),
        ({"query": "t | join u", "language": "kql"}, pa.ArrowInvalid),
        ({"query": "SELECT 1", "database": "never_seen"}, pa.ArrowKeyError),
        ({"query": "SELECT 1 / (length(label) - 1) AS x FROM t"}, fl.FlightInternalError),
    ],
)
async def test_failures_are_told_apart(talk: Talk, ticket: dict[str, str], error: type[Exception]):
    await talk.ingest({"label": "a"})
    with pytest.raises(error):
        await get(talk, **ticket)


async def test_an_empty_result_is_a_schema_or_nothing(talk: Talk):
    await talk.ingest({"label": "a"})
    query = "SELECT label FROM t WHERE false"
    if talk.server.real:
        with pytest.raises(fl.FlightInternalError, match="Server never sent a data message"):
            await get(talk, query=query)
    else:
        assert (await get(talk, query=query)).schema.names == ["label"]


async def test_every_other_call_is_unimplemented(talk: Talk):
    def calls() -> None:
        path = fl.FlightDescriptor.for_path("t")
        with fl.connect(talk.server.flight_url) as client:
            for call in (
                lambda: list(client.list_flights()),
                lambda: client.get_flight_info(path),
                lambda: client.get_schema(path),
                lambda: client.do_put(path, pa.schema([]))[0].close(),
                lambda: list(client.do_action("x")),
                lambda: list(client.list_actions()),
            ):
                with pytest.raises(pa.ArrowNotImplementedError):
                    call()

    await asyncio.to_thread(calls)


async def test_an_embedded_engine_may_ask_for_a_token_and_change_its_name(tmp_path: Path):
    options = ("--flight-auth", "--header-prefix", "pensieve")
    async with engine_process(tmp_path, *options, tokens=tmp_path / "tokens") as server:
        async with server.client(**{"x-table": "t"}) as client:
            await client.post("/v1/ingest", content=b'{"label":"a"}')
            answer = await client.post("/v1/query", content="SELECT label FROM t")
            assert answer.headers["x-pensieve-rows"] == "1"

        def read(token: str) -> int:
            options = fl.FlightCallOptions(headers=[(b"authorization", f"Bearer {token}".encode())])
            with fl.connect(server.flight_url) as client:
                ticket = fl.Ticket(b'{"query":"SELECT label FROM t"}')
                return client.do_get(ticket, options).read_all().num_rows

        assert await asyncio.to_thread(read, server.tokens["read"]) == 1
        with pytest.raises(fl.FlightUnauthenticatedError):
            await asyncio.to_thread(read, "wrong")
