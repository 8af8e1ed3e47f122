"""What Explore is made of: Arrow out, charts, pictures with counts, examples, native queries."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx2 as httpx
import pyarrow as pa
import pytest

from agentcy_ray.api.arrow_stream import END, MEDIA_TYPE
from agentcy_ray.context.engine import Query, Scope
from agentcy_ray.core.errors import EngineError
from tests.api.platform import Platform

ARROW = {"accept": MEDIA_TYPE}


@pytest.fixture(scope="module")
async def owner(platform: Platform) -> httpx.AsyncClient:
    """The owner, with two sorts of towns in a realm of their own."""
    client = await platform.as_("owner")
    await client.post("/realms", json={"name": "towns"})
    path = platform.roots / "towns.csv"
    path.write_text("id,name,country,size\n1,Bern,CH,7\n2,Basel,CH,9\n3,Lyon,FR,\n")
    config = {
        "file_path": str(path), "node_label": "Town", "id_column": "id",
        "relationship_columns": [{"column": "country", "type": "LIES_IN", "label": "Country"}],
    }  # fmt: skip
    source = await platform.source(name="towns", connector="csv", realm="towns", config=config)
    assert (await platform.sync(source["id"]))["status"] == "synced"
    return client


def asking(text: str, **more: Any) -> dict[str, Any]:
    return {"query": text, "realm": "towns", **more}


async def test_rows_come_as_an_arrow_stream_when_asked_for(owner: httpx.AsyncClient) -> None:
    text = "MATCH (t:Town) RETURN t.name AS name, t.size AS size, t AS town ORDER BY name"
    answer = await owner.post("/context/query", json=asking(text), headers=ARROW)
    assert (answer.status_code, answer.headers["content-type"]) == (200, MEDIA_TYPE)
    assert answer.content.endswith(END)
    table = pa.ipc.open_stream(answer.content).read_all()
    assert table.column("name").to_pylist() == ["Basel", "Bern", "Lyon"]
    assert table.column("size").type == pa.int64()
    assert table.column("size").to_pylist() == [9, 7, None]
    json = (await owner.post("/context/query", json=asking(text))).json()
    assert [column["type"] for column in json["columns"]] == ["string", "int64", "node"]
    none = "MATCH (t:Nowhere) RETURN t.name AS name"
    empty = await owner.post("/context/query", json=asking(none), headers=ARROW)
    assert pa.ipc.open_stream(empty.content).read_all().num_rows == 0
    some = await owner.post("/context/query", json=asking(text, limit=2), headers=ARROW)
    assert pa.ipc.open_stream(some.content).read_all().num_rows == 2


async def test_an_error_before_the_first_batch_is_answered_in_json(
    owner: httpx.AsyncClient,
) -> None:
    for text, status, code in (
        ("MATCH (t) DELETE t", 422, "query_rejected"),
        ("MATCH (t", 422, "query_rejected"),
    ):
        answer = await owner.post("/context/query", json=asking(text), headers=ARROW)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    big = asking("MATCH (t:Town) RETURN t.name AS n", limit=10_001)
    assert (await owner.post("/context/query", json=big)).status_code == 422
    assert (await owner.post("/context/query", json=big, headers=ARROW)).status_code == 200


async def test_an_error_amid_the_stream_ends_it_without_its_end(
    owner: httpx.AsyncClient, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def breaking(_: Scope, __: Query) -> AsyncIterator[pa.RecordBatch]:
        yield pa.RecordBatch.from_pydict({"n": [1]})
        raise EngineError("the engine went away amid an answer")

    monkeypatch.setattr(platform.services.engine, "arrow", breaking)
    with pytest.raises(httpx.RemoteProtocolError):
        await owner.post("/context/query", json=asking("RETURN 1 AS n"), headers=ARROW)


async def test_grouped_rows_say_how_they_may_be_drawn(owner: httpx.AsyncClient) -> None:
    for text, chart in (
        (
            "MATCH (t:Town) RETURN t.name AS town, sum(t.size) AS size",
            {"kind": "bar", "x": "town", "y": ["size"], "series": None},
        ),
        (
            "MATCH (t:Town)-[:LIES_IN]->(c) RETURN c.name AS c, t.name AS t, count(*) AS n",
            {"kind": "bar", "x": "c", "y": ["n"], "series": "t"},
        ),
        ("MATCH (t:Town) RETURN count(t) AS n", None),
        ("MATCH (t:Town) RETURN t.name AS town, t.size AS size", None),
    ):
        answer = await owner.post("/context/query", json=asking(text))
        assert answer.json()["chart"] == chart, answer.text


async def test_a_picture_counts_what_it_shows(owner: httpx.AsyncClient) -> None:
    whole = (await owner.get("/context/graph", params={"realm": "towns"})).json()
    assert whole["labels"] == {"Town": 3, "Country": 2}
    assert whole["types"] == {"LIES_IN": 3}
    (bern,) = [each for each in whole["nodes"] if each["name"] == "Bern"]
    around = {"node": bern["id"], "depth": 2}
    part = (await owner.get("/context/graph", params=around)).json()
    assert part["labels"] == {"Town": 2, "Country": 1}
    assert part["types"] == {"LIES_IN": 2}
    cut = (await owner.get("/context/graph", params={**around, "limit": 2})).json()
    assert (len(cut["nodes"]), cut["truncated"]) == (2, True)
    absent = await owner.get("/context/graph", params={"node": "n_absent"})
    assert absent.status_code == 404


async def test_an_editor_is_told_what_the_language_and_the_graph_have(
    owner: httpx.AsyncClient,
) -> None:
    given = (await owner.get("/context/completion", params={"realm": "towns"})).json()
    assert given["labels"] == ["Country", "Town"]
    assert given["types"] == ["LIES_IN"]
    assert "size" in given["properties"]
    assert "MATCH" in given["keywords"]
    refused = await owner.get("/context/completion", params={"language": "kql"})
    assert refused.json()["error"]["code"] == "capability_unsupported"


async def test_basic_shows_its_own_examples_and_takes_no_native_query(
    owner: httpx.AsyncClient, platform: Platform
) -> None:
    examples = (await owner.get("/context/examples")).json()
    assert {example["language"] for example in examples} == {"cypher"}
    for example in examples:
        assert (await owner.post("/context/query", json=example)).status_code == 200
    body = {"language": "sql", "query": "SELECT 1"}
    refused = await owner.post("/context/query/native", json=body)
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "capability_unsupported")
    assert "CONTEXT_ENGINE=advanced" in refused.json()["error"]["message"]
    member = await platform.as_("member")
    assert (await member.post("/context/query/native", json=body)).status_code == 403
