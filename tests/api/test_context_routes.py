"""The Context Engine and retrieval through the API: reads, limits, refusals."""

from __future__ import annotations

from typing import Any

import httpx2 as httpx
import pytest

from tests.api.platform import Platform, ask

ROWS = 1_100
"""Their square is more than a million."""


@pytest.fixture(scope="module")
async def owner(platform: Platform) -> httpx.AsyncClient:
    """The owner, with a table of people and a realm that only it is in."""
    client = await platform.as_("owner")
    path = platform.roots / "people.csv"
    path.write_text("id,name,city\n" + "".join(f"{i},Person {i},Bern\n" for i in range(ROWS)))
    await client.post("/realms", json={"name": "census"})
    await client.post("/realms", json={"name": "void"})
    source = await platform.source(
        name="people", connector="csv", realm="census",
        config={"file_path": str(path), "node_label": "Person", "id_column": "id"},
    )  # fmt: skip
    run = await platform.sync(source["id"])
    assert run["status"] == "synced", run
    return client


def error_of(answer: httpx.Response) -> tuple[int, str]:
    assert answer.status_code >= 400, answer.text
    return answer.status_code, answer.json()["error"]["code"]


async def query(client: httpx.AsyncClient, text: str, **more: Any) -> httpx.Response:
    return await client.post("/context/query", json={"query": text, "realm": "census", **more})


async def test_a_query_that_would_return_too_much_is_cut_and_says_so(
    owner: httpx.AsyncClient,
) -> None:
    cut = (await query(owner, "MATCH (p:Person) RETURN p.name AS name", limit=100)).json()
    assert (cut["row_count"], len(cut["rows"]), cut["truncated"]) == (100, 100, True)
    assert cut["columns"][0]["name"] == "name"
    product = "MATCH (a:Person), (b:Person) RETURN a.name AS a, b.name AS b"
    million = (await query(owner, product, limit=10_000, timeout_ms=60_000)).json()
    assert (million["row_count"], million["truncated"]) == (10_000, True)
    over = await query(owner, "MATCH (p:Person) RETURN p.name AS n", limit=10_001)
    assert error_of(over) == (422, "validation_failed")
    counted = (await query(owner, "MATCH (p:Person) RETURN count(p) AS n")).json()
    assert (counted["rows"], counted["truncated"]) == ([[ROWS]], False)


@pytest.mark.parametrize(
    "text",
    [
        "CREATE (n:Person {name: 'x'}) RETURN n",
        "MATCH (n) DETACH DELETE n",
        "MATCH (n) SET n.name = 'x' RETURN n",
        "MERGE (n:Person {id: '1'}) RETURN n",
        "CALL db.labels() YIELD label RETURN label",
        "LOAD CSV FROM 'file:///etc/passwd' AS row RETURN row",
        "MATCH (n) RETURN n; MATCH (m) RETURN m",
        "MATCH (a)-[*1..9]->(b) RETURN b",
        "MATCH (n RETURN n",
    ],
)
async def test_anything_but_a_bounded_read_is_refused(owner: httpx.AsyncClient, text: str) -> None:
    answer = await query(owner, text)
    assert error_of(answer) == (422, "query_rejected")
    assert answer.json()["error"]["details"]


async def test_a_language_that_the_engine_lacks_says_what_to_set(owner: httpx.AsyncClient) -> None:
    for language in ("kql", "sql"):
        answer = await query(owner, "context_nodes | take 1", language=language)
        assert error_of(answer) == (422, "capability_unsupported")
        assert "CONTEXT_ENGINE" in str(answer.json()["error"]["details"])


async def test_an_unknown_realm_is_named_with_those_that_there_are(
    owner: httpx.AsyncClient,
) -> None:
    answers = [
        await owner.get("/context/stats", params={"realm": "atlantis"}),
        await owner.get("/context/search", params={"q": "person", "realms": "atlantis"}),
        await owner.post(
            "/context/query", json={"query": "MATCH (n) RETURN n", "realm": "atlantis"}
        ),
        await owner.post("/rag/hybrid", json={"query": "person", "realms": ["atlantis"]}),
        await owner.post("/chat/conversations", json={"realm": "atlantis"}),
        await owner.post("/sources", json={"name": "x", "connector": "demo", "realm": "atlantis"}),
    ]
    for answer in answers:
        assert answer.status_code == 422, answer.text
    assert "census" in answers[0].json()["error"]["message"]


async def test_realms_are_asked_for_by_either_name(owner: httpx.AsyncClient) -> None:
    for params in ({"realm": "void"}, {"realms": "void"}):
        assert (await owner.get("/context/stats", params=params)).json()["nodes"] == 0
    both = {"realm": "void", "realms": "census"}
    assert (await owner.get("/context/stats", params=both)).json()["labels"] == {"Person": ROWS}


async def test_nodes_and_neighbours_are_found_by_id(
    owner: httpx.AsyncClient, platform: Platform
) -> None:
    found = await owner.get("/context/search", params={"q": "Person 471", "realm": "census"})
    hit = found.json()["hits"][0]
    node = (await owner.get(f"/context/nodes/{hit['id']}")).json()
    assert (node["name"], node["degree"]) == (hit["name"], 0)
    assert node["source"]["connector"] == "csv"
    around = await owner.get(f"/context/nodes/{hit['id']}/neighbors", params={"depth": 3})
    assert [one["id"] for one in around.json()["nodes"]] in ([], [hit["id"]])
    for bad in ("n_00000000000000000000000000", "nonsense", "%27%20OR%201=1"):
        for rest in ("", "/neighbors"):
            assert error_of(await owner.get(f"/context/nodes/{bad}{rest}")) == (404, "not_found")
    elsewhere = await owner.get(f"/context/nodes/{hit['id']}", params={"realm": "void"})
    assert error_of(elsewhere) == (404, "not_found")
    for params in ({"depth": 4}, {"depth": 0}, {"limit": 2001}, {"direction": "up"}):
        refused = await owner.get(f"/context/nodes/{hit['id']}/neighbors", params=params)
        assert error_of(refused) == (422, "validation_failed")
    short = await owner.get("/context/search", params={"q": "x"})
    assert error_of(short) == (422, "validation_failed")


async def test_a_person_limited_to_realms_meets_nothing_else(
    owner: httpx.AsyncClient, platform: Platform
) -> None:
    await platform.sql("UPDATE users SET realms = '{void}' WHERE id = $1", platform.users["admin"])
    platform.services.access.authenticator._seen.clear()
    try:
        admin = await platform.as_("admin")
        for params in ({}, {"realm": "census"}):
            assert (await admin.get("/context/stats", params=params)).json()["nodes"] == 0
        rows = await query(admin, "MATCH (p:Person) RETURN p.name AS n")
        assert rows.json()["rows"] == []
        found = await admin.post("/rag/hybrid", json={"query": "Person 1", "realms": ["census"]})
        assert found.json()["hits"] == []
        listed = (await admin.get("/sources", params={"limit": 200})).json()["items"]
        assert listed == []
        sources = (await owner.get("/sources", params={"limit": 200})).json()["items"]
        (people,) = [one["id"] for one in sources if one["name"] == "people"]
        for path in (f"/sources/{people}", f"/sources/{people}/runs"):
            assert (await admin.get(path)).status_code == 404
        for method, body in (("PATCH", {"schedule": "manual"}), ("DELETE", None)):
            assert (await admin.request(method, f"/sources/{people}", json=body)).status_code == 404
    finally:
        await platform.sql("UPDATE users SET realms = NULL WHERE id = $1", platform.users["admin"])
        platform.services.access.authenticator._seen.clear()


async def test_a_question_in_an_empty_realm_is_answered_honestly(
    owner: httpx.AsyncClient, platform: Platform
) -> None:
    conversation = await platform.conversation(realm="void")
    log = await ask(platform, conversation, "Who is Person 471?", model="offline:extractive")
    assert log[-1].type == "message_end"
    assert not [event for event in log if event.type == "citation"]
    text = "".join(event.data["delta"] for event in log if event.type == "content_delta")
    assert text.startswith("Offline answer (retrieval only).")
    assert "Bern" not in text


async def test_weights_filters_and_limits_of_a_search_are_checked(
    owner: httpx.AsyncClient,
) -> None:
    good = {"query": "Person 7", "realms": ["census"], "top_k": 3}
    for path in ("/rag/hybrid", "/rag/search"):
        answer = await owner.post(path, json=good)
        assert len(answer.json()["hits"]) == 3
        for bad in ({"top_k": 101}, {"top_k": 0}, {"nonsense": 1}, {"query": "  "}):
            assert error_of(await owner.post(path, json={**good, **bad}))[0] == 422, bad
    zero = {**good, "text_weight": 0, "vector_weight": 0}
    assert error_of(await owner.post("/rag/hybrid", json=zero)) == (422, "validation_failed")
    none = {**good, "filters": {"labels": ["Nobody"]}}
    assert (await owner.post("/rag/hybrid", json=none)).json()["hits"] == []


async def test_a_value_that_no_column_takes_is_the_callers_mistake(
    owner: httpx.AsyncClient,
) -> None:
    answer = await owner.post("/chat/conversations", json={"title": "nul \x00 byte"})
    assert error_of(answer) == (422, "validation_failed")
    answer = await owner.post("/realms", json={"name": "nul", "description": "\x00"})
    assert error_of(answer) == (422, "validation_failed")
