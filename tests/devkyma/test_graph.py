"""The graph routes: each node and edge once, whatever was posted."""

from __future__ import annotations

import pytest

from tests.devkyma.conftest import Talk

NODES = [
    {"id": "svc:api", "labels": "Service", "realm": "team-a", "tier": "1", "props": {"lang": "go"}},
    {"id": "svc:pay", "labels": "Service", "realm": "team-b"},
    {"id": "team/core", "labels": "Team"},
]
EDGES = [
    {"src": "svc:api", "dst": "svc:pay", "type": "DEPENDS_ON", "since": "2026"},
    {"src": "svc:pay", "dst": "team/core", "type": "OWNED_BY"},
]


@pytest.fixture
async def graph(talk: Talk) -> Talk:
    """Two services and a team, posted twice, registered as the graph ``g``."""
    if talk.server.real:
        pytest.skip("graphs are registered by kyma's command line")
    for _ in range(2):
        await talk.ingest(*NODES, table="nodes")
        await talk.ingest(*EDGES, table="edges")
    spec = {"database": talk.database, "name": "g", "node_table": "nodes", "edge_table": "edges"}
    made = await talk.client.post("/dev/graphs", json={**spec, "realm_col": "realm"})
    assert made.status_code == 201
    return talk


async def get(talk: Talk, path: str) -> object:
    return (await talk.client.get(f"/v1/graph{path}")).json()


async def test_the_schema_graph_comes_first_and_knows_the_tables(graph: Talk):
    assert [g["name"] for g in await get(graph, "")] == ["schema", "g"]
    node = await get(graph, f"/schema/nodes/{graph.database}::nodes")
    assert node["labels"] == ["Table"]


async def test_nodes_have_the_shape_of_the_contract(graph: Talk):
    assert await get(graph, "/g/nodes/svc%3Aapi") == {
        "id": "svc:api",
        "labels": ["Service"],
        "properties": {"lang": "go", "tier": "1"},
        "metadata": {
            "created_at": "1970-01-01T00:00:00Z",
            "updated_at": "1970-01-01T00:00:00Z",
            "source_type": "stored",
            "realm": "team-a",
        },
    }
    assert (await get(graph, "/g/nodes/team%2Fcore"))["labels"] == ["Team"]
    assert (await get(graph, "/g/nodes/none"))["error"]["code"] == "not_found"
    assert (await get(graph, "/other/stats"))["error"]["message"] == "unknown graph"


async def test_totals_count_each_once(graph: Talk):
    overview = await get(graph, "/g/overview")
    assert overview["stats"] == {
        "total_nodes": 3,
        "total_relationships": 2,
        "label_counts": {"Service": 2, "Team": 1},
        "relationship_type_counts": {"DEPENDS_ON": 1, "OWNED_BY": 1},
    }
    assert overview["edges"][0] == {
        "id": "svc:api->svc:pay:DEPENDS_ON",
        "source_id": "svc:api",
        "target_id": "svc:pay",
        "relationship_type": "DEPENDS_ON",
        "properties": {"since": "2026"},
    }


async def test_a_neighbourhood_grows_with_its_depth_both_ways(graph: Talk):
    for depth, reached in ((1, {"svc:pay", "team/core"}), (2, {"svc:pay", "svc:api", "team/core"})):
        found = await get(graph, f"/g/nodes/team%2Fcore/subgraph?depth={depth}")
        assert {node["id"] for node in found["nodes"]} == reached
        assert set(found["stats"]) == {"total_nodes", "total_relationships"}
    body = {"node_ids": ["svc:pay"], "direction": "forward"}
    found = (await graph.client.post("/v1/graph/g/neighbors", json=body)).json()
    assert found["new_node_ids"] == ["team/core"]


async def test_search_looks_into_ids_and_labels(graph: Talk):
    async def search(**body: object) -> list[str]:
        found = (await graph.client.post("/v1/graph/g/search", json=body)).json()
        return [hit["id"] for hit in found["hits"]]

    assert await search(text="SVC") == ["svc:api", "svc:pay"]
    assert await search(text="team") == ["team/core"]
    assert await search(text="", labels=["Team"]) == ["team/core"]


async def test_sql_sees_every_row(graph: Talk):
    assert await graph.rows("SELECT count(*) AS n FROM nodes") == [{"n": 6}]
