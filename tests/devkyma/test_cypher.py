"""kyma's own Cypher: patterns over a registered graph, and everything else refused."""

from __future__ import annotations

import pytest

from tests.devkyma.conftest import Talk

KIND = "application/x-cypher"
LINKS = [
    ("api", "pay", "DEPENDS_ON"),
    ("pay", "db", "DEPENDS_ON"),
    ("api", "db", "DEPENDS_ON"),
    ("pay", "core", "OWNED_BY"),
]


@pytest.fixture(scope="module")
async def graph(module_talk: Talk) -> Talk:
    """Three services and a team, registered as the only graph."""
    talk = module_talk
    if talk.server.real:
        pytest.skip("graphs are registered by kyma's command line")
    nodes = [{"id": i, "labels": "Service", "realm": "r1"} for i in ("api", "pay", "db")]
    await talk.ingest(*nodes, {"id": "core", "labels": "Team", "realm": "r2"}, table="nodes")
    await talk.ingest(*({"src": s, "dst": d, "type": t} for s, d, t in LINKS), table="edges")
    spec = {"database": talk.database, "name": "g", "node_table": "nodes", "edge_table": "edges"}
    await talk.client.post("/dev/graphs", json=spec)
    return talk


@pytest.mark.parametrize(
    ("query", "rows"),
    [
        (
            "MATCH (a:Service)-[r:DEPENDS_ON]->(b) WHERE a.realm = 'r1' RETURN a.id AS src, b.id"
            " ORDER BY a.id, b.id DESC",
            [
                {"src": "api", "b_id": "pay"},
                {"src": "api", "b_id": "db"},
                {"src": "pay", "b_id": "db"},
            ],
        ),
        (
            "MATCH (t:Team)<-[:OWNED_BY]-(s) RETURN t, s.id",
            [{"t_id": "core", "t_label": "Team", "s_id": "pay"}],
        ),
        ("match (a)-[]->(b)-[]->(c) where c.id in ['db'] return a.id", [{"a_id": "api"}]),
        (
            "MATCH (a)-[x]->(b) RETURN b.id, count(*) AS n ORDER BY b.id LIMIT 1",
            [{"b_id": "core", "n": 1}],
        ),
        (
            "MATCH (a)-[]->(b), (b)-[:OWNED_BY]->(t) RETURN a.id, t.id",
            [{"a_id": "api", "t_id": "core"}],
        ),
        (
            "MATCH (a)-[:DEPENDS_ON]->(b) OPTIONAL MATCH (b)-[:OWNED_BY]->(t) WHERE a.id = 'api'"
            " RETURN b.id, t.id ORDER BY b.id",
            [{"b_id": "db"}, {"b_id": "pay", "t_id": "core"}],
        ),
        (
            "MATCH (a)-[*1..2]->(b:Service) WHERE a.id = 'api' RETURN DISTINCT b.id ORDER BY b.id",
            [{"b_id": "db"}, {"b_id": "pay"}],
        ),
        (
            "MATCH (a)-[*]-(b) WHERE a.id = 'core' AND b.id <> 'core' RETURN count(b)",
            [{"count": 3}],
        ),
        ("MATCH (a)<-[:DEPENDS_ON*2]-(b) RETURN a.id, b.id", []),
        (
            "MATCH p = shortestPath((a)-[*..6]->(b)) WHERE a.id = 'api'"
            " AND b.id = 'core' RETURN length(p)",
            [{"depth": 2}],
        ),
        (
            "MATCH (a)-[r]->(b) WHERE NOT (a.id STARTS WITH 'a' OR b.id CONTAINS 'o')"
            " AND b.note IS NULL"
            " RETURN r.type",
            None,
        ),
    ],
)
async def test_patterns_give_rows(graph: Talk, query: str, rows: list[object] | None):
    if rows is None:  # a property that no column has
        assert await graph.refused(query, KIND) == (400, "sql_parse_error")
    else:
        assert await graph.rows(query, KIND) == rows


@pytest.mark.requirement("KYMA-06")
@pytest.mark.parametrize(
    "query",
    [
        "MATCH (n) RETURN n", "MATCH (a)-->(b) RETURN a.id", "MATCH ()-[r]->(b) RETURN b.id",
        "MATCH (a {id: 'x'})-[r]->(b) RETURN a.id", "MATCH (a)-[r]->(b) RETURN *",
        "MATCH (a)-[r]->(b) RETURN a.id SKIP 1", "MATCH (a)-[r:A|B]->(b) RETURN a.id",
        "MATCH (a:A:B)-[r]->(b) RETURN a.id", "MATCH (a)-[r]->(b) WHERE a.id = $id RETURN a.id",
        "MATCH (a)-[r]->(b) RETURN toUpper(a.id)", "UNWIND [1] AS x RETURN x",
        "MATCH (a)-[r]->(b) SET a.x = 1", "MATCH (a)-[r]->(b) DELETE r",
        "MATCH (a)-[r]->(b) WHERE a.n = -1 RETURN a.id", "MATCH (a)-[r]->(b) RETURN a.id // all",
        "MATCH (a)-[r]->(b) WHERE a.ok = true RETURN a.id", "MATCH (a)-[r*]->(b) RETURN r.type",
        "MATCH (a)-[*]->(b)-[r]->(c) RETURN a.id", "MATCH (a)-[r]->(b) RETURN a.n + 1",
        "MATCH (a)-[r]->(b) RETURN a.id UNION MATCH (a)-[r]->(b) RETURN a.id", "CALL db.labels()",
        "MATCH (a)-[r]->(b) RETURN c.id",
    ],
)  # fmt: skip
async def test_what_kymas_cypher_lacks_is_refused(graph: Talk, query: str):
    assert await graph.refused(query, KIND) == (400, "cypher_parse_error")


async def test_the_graph_has_to_be_clear(graph: Talk):
    query = "MATCH (a)-[r:OWNED_BY]->(b) RETURN a.id"
    assert await graph.rows(query, KIND, x_graph="g") == [{"a_id": "pay"}]
    assert await graph.rows(query, KIND, x_graph=f"{graph.database}/g") == [{"a_id": "pay"}]
    assert await graph.refused(query, KIND, x_graph="h") == (400, "graph_resolution_error")
    spec = {"database": graph.database, "name": "h", "node_table": "nodes", "edge_table": "edges"}
    await graph.client.post("/dev/graphs", json=spec)
    assert await graph.refused(query, KIND) == (400, "graph_resolution_error")


async def test_rows_posted_twice_multiply(graph: Talk):
    await graph.ingest({"id": "core", "labels": "Team"}, table="nodes")
    twice = await graph.rows("MATCH (s)-[:OWNED_BY]->(t) RETURN t.id", KIND, x_graph="g")
    assert twice == [{"t_id": "core"}] * 2
