"""What every engine answers to Cypher, and that it never answers from outside the scope."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentcy_ray.context.engine import ContextEngine, Query, Scope
from agentcy_ray.core.errors import CapabilityError, QueryRejectedError, QueryTimeoutError
from tests.conformance.graphs import LATER, Graph, write

FEW = settings(
    max_examples=4,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(autouse=True)
def speaks_cypher(engine: ContextEngine) -> None:
    """An engine that cannot answer Cypher says so, and is not asked here."""
    if not engine.capabilities.cypher:
        pytest.skip("no Cypher")


# Each returns names or numbers that do not depend on ids, in any order.
CORPUS = (
    "MATCH (n) RETURN n.name",
    "MATCH (n:A) RETURN n.name",
    "MATCH (n:A|B) RETURN n.name",
    "MATCH (n:!A) RETURN n.name",
    "MATCH (:A)-[r]->() RETURN r.tag",
    "MATCH ()-[r]-() RETURN count(r)",
    "MATCH ()-->() RETURN count(*)",
    "MATCH (a)<-[:R]-(b) RETURN a.name, b.name",
    "MATCH (a)-[:R|S]->(b)-[:R]->(c) RETURN a.name, b.name, c.name",
    "MATCH (a)-[:R*1..3]->(b) RETURN a.name, b.name",
    "MATCH (a)-[rs*0..2]-(b) RETURN a.name, b.name, size(rs)",
    "MATCH p = (a)-[:R*2]->(b) RETURN [n IN nodes(p) | n.name]",
    "MATCH (a)-[*1..2]->(b)-->(c) RETURN a.name, c.name",
    "MATCH (a), (b:B) RETURN a.name, b.name",
    "MATCH (a:A) OPTIONAL MATCH (a)-[:R]->(b) RETURN a.name, b.name",
    "MATCH (a) OPTIONAL MATCH (a)-[:R]->(b)-[:S]->(c) WHERE c.name <> 'x' RETURN a.name, c.name",
    "MATCH (a) WHERE (a)-[:R]->() RETURN a.name",
    "MATCH (a) WHERE NOT (a)--() RETURN a.name",
    "MATCH (a) WHERE (a)-[:R*1..2]->(:B) RETURN a.name",
    "MATCH (a) WHERE EXISTS { (a)-[:S]->(b) WHERE b.weight > 2 } RETURN a.name",
    "MATCH (a) WHERE EXISTS { MATCH (a)-->(b) WHERE EXISTS { (b)-->(:A) } } RETURN a.name",
    "MATCH (a) WHERE COUNT { (a)--() } > 1 RETURN a.name",
    "MATCH (a) RETURN a.name, COUNT { MATCH (a)-[:R*1..2]->(b) } AS c",
    "MATCH (a) RETURN a.name, size([(a)-->(b) | b.name]) AS c",
    "MATCH (a) RETURN a.name, size([(a)-[:R*1..2]->(b) WHERE b.weight > 1 | b.name]) AS c",
    "MATCH (a) RETURN a.name, size(COLLECT { MATCH (a)-->(b) RETURN b.name }) AS c",
    "MATCH (a) CALL { WITH a MATCH (a)-->(b) RETURN count(b) AS c } RETURN a.name, c",
    "MATCH (a) CALL (a) { MATCH (a)-->(b) RETURN sum(b.weight) AS s } RETURN a.name, s",
    "CALL { MATCH (n) RETURN n UNION MATCH (n:A) RETURN n } RETURN n.name",
    "MATCH (n:A) RETURN n.name AS name UNION MATCH (m:B) RETURN m.name AS name",
    "MATCH (n:A) RETURN n.name AS name UNION ALL MATCH (m) RETURN m.name AS name",
    "MATCH (n) WITH n.weight AS w, collect(n.name) AS names WHERE size(names) > 1 RETURN w",
    "MATCH (n) WITH * WHERE n.weight > 1 RETURN n.name",
    "MATCH (a)-[r]->(b) WITH DISTINCT a, count(*) AS c RETURN a.name, c",
    "MATCH (a)-->(b) RETURN DISTINCT a.name",
    "MATCH (a {weight: 2})-[{tag: 't'}]->(b) RETURN b.name",
    "MATCH (a WHERE a.weight > 1)-[r WHERE r.tag = 't']->(b) RETURN a.name, b.name",
    "MATCH p = shortestPath((a:A)-[*..4]-(b:B)) RETURN a.name, b.name, length(p)",
    "MATCH (a:A), (b:B) MATCH p = shortestPath((a)-[:R*..3]->(b)) RETURN length(p)",
    "MATCH p = shortestPath((a:A)-[rs*..5]-(b:B)) WHERE all(r IN rs WHERE r.tag = 't') "
    "RETURN a.name, b.name, size(rs)",
    "UNWIND ['A', 'B'] AS l MATCH (n) WHERE l IN labels(n) RETURN l, count(n)",
    "MATCH (a)-[r]->(b) RETURN startNode(r).name, endNode(r).name",
    "MATCH (a) WHERE any(x IN [1, 2] WHERE x = a.weight AND EXISTS { (a)-->() }) RETURN a.name",
    "MATCH (a) RETURN CASE WHEN (a)-->() THEN 'out' ELSE 'none' END AS c, count(*)",
    "MATCH (a)-->(b), (b)-->(c) WHERE a.name <> c.name RETURN count(*)",
    "MATCH (n) RETURN max(n.weight), avg(n.weight), size(collect(DISTINCT n.weight))",
)


@pytest.mark.requirement("CTX-05")
@FEW
@given(data=st.data())
async def test_a_query_answers_as_if_nothing_lay_outside_its_scope(
    engine: ContextEngine, data: st.DataObject
) -> None:
    """One organisation holds more than the scope shows, the other only what it shows."""
    full, shown = Graph(uuid4()), Graph(uuid4())
    keys = [f"k{number}" for number in range(data.draw(st.integers(3, 8)))]
    fates = {key: data.draw(st.sampled_from(["shown"] * 3 + ["realm", "archived"])) for key in keys}
    for key in keys:
        label, weight = data.draw(st.sampled_from("AB")), data.draw(st.integers(1, 3))
        realm = "crm" if fates[key] == "realm" else "development"
        full.node(key, label, realm=realm, weight=weight)
        if fates[key] == "shown":
            shown.node(key, label, weight=weight)
    triples = data.draw(
        st.sets(
            st.tuples(st.sampled_from(keys), st.sampled_from("RS"), st.sampled_from(keys)),
            min_size=4, max_size=14,
        )
    )  # fmt: skip
    gone: list[str] = []
    for src, type_, dst in sorted(triples):
        tag = data.draw(st.sampled_from(["t", "u"]))
        id_ = full.edge(src, type_, dst, tag=tag)
        if data.draw(st.integers(0, 5)) == 0:
            gone.append(id_)
        elif fates[src] == fates[dst] == "shown":
            shown.edge(src, type_, dst, tag=tag)
    await write(engine, full)
    if shown.nodes:
        await write(engine, shown)
    archived = [full.id(key) for key in keys if fates[key] == "archived"]
    await engine.archive(full.org, "node", archived, LATER)
    await engine.archive(full.org, "edge", gone, LATER)

    for text in CORPUS:
        over_all = await rows_of(engine, full.within("development"), text)
        over_shown = await rows_of(engine, shown.scope, text)
        assert over_all == over_shown, text


async def rows_of(engine: ContextEngine, scope: Scope, text: str, **params: Any) -> list[str]:
    result = await engine.query(scope, Query(text=text, params=params))
    return sorted(repr(row) for row in result.rows)


@pytest.fixture
async def shop(engine: ContextEngine, org: UUID) -> Graph:
    """Services, the buckets that they use, a team, and an archived service."""
    graph = Graph(org)
    for key in ("cart", "pay", "search", "old"):
        graph.node(key, "Service", language="go", tags=["a", "b"])
    for key in ("orders", "images"):
        graph.node(key, "Bucket", realm="infrastructure", region="eu")
    graph.node("core", "Team", realm="crm")
    graph.node("pr1", "PullRequest")
    for src, dst in (
        ("cart", "orders"),
        ("pay", "orders"),
        ("search", "images"),
        ("old", "orders"),
    ):
        graph.edge(src, "DEPENDS_ON", dst)
    graph.edge("pr1", "CHANGES", "cart")
    graph.edge("cart", "PART_OF", "pay")
    graph.edge("core", "OWNS", "pay")
    await write(engine, graph)
    await engine.archive(org, "node", [graph.id("old")], LATER)
    return graph


@pytest.mark.requirement("CTX-06")
async def test_the_services_that_depend_on_a_bucket(engine: ContextEngine, shop: Graph) -> None:
    text = (
        "MATCH (s:Service)-[:DEPENDS_ON]->(b:Bucket {name: $bucket}) RETURN s.name ORDER BY s.name"
    )

    result = await engine.query(shop.scope, Query(text=text, params={"bucket": "orders"}))

    assert result.rows == (("cart",), ("pay",))


@pytest.mark.requirement("CTX-07")
async def test_three_hops_from_a_pull_request_to_the_owning_team(
    engine: ContextEngine, shop: Graph
) -> None:
    text = (
        "MATCH (:PullRequest {name: 'pr1'})-[:CHANGES]->(:Service)-[:PART_OF]->(s:Service)"
        "<-[:OWNS]-(t:Team) RETURN t.name AS team, s.name AS service"
    )

    result = await engine.query(shop.scope, Query(text=text))

    assert result.rows == (("core", "pay"),)


async def test_columns_are_named_and_typed(engine: ContextEngine, shop: Graph) -> None:
    text = (
        "MATCH p = (s:Service {name: 'cart'})-[r:PART_OF]->(t)\n"
        "RETURN s, r, p, s.name, t.name AS other, 1 + 1, 1.5 AS f, s.tags AS tags, "
        "s {.name, k: 1} AS m, null AS nothing, t.name = 'pay' AS yes, date('2026-01-02') AS day"
    )

    result = await engine.query(shop.scope, Query(text=text))

    assert [(c.name, c.type) for c in result.columns] == [
        ("s", "node"), ("r", "edge"), ("p", "path"), ("s.name", "string"), ("other", "string"),
        ("1 + 1", "int64"), ("f", "double"), ("tags", "list"), ("m", "map"), ("nothing", "any"),
        ("yes", "bool"), ("day", "string"),
    ]  # fmt: skip
    row = dict(zip([c.name for c in result.columns], result.rows[0], strict=True))
    assert (row["s"]["id"], row["s"]["labels"]) == (shop.id("cart"), ["Service"])
    assert row["s"]["properties"] == {"language": "go", "tags": ["a", "b"]}
    assert (row["r"]["src"], row["r"]["dst"]) == (shop.id("cart"), shop.id("pay"))
    assert [node["name"] for node in row["p"]["nodes"]] == ["cart", "pay"]
    assert (row["m"], row["day"]) == ({"name": "cart", "k": 1}, "2026-01-02")
    assert "org" not in row["s"]
    assert (result.engine, result.truncated) == (engine.capabilities.engine, False)
    assert result.warnings == ()


async def test_a_star_returns_the_named_variables_only(engine: ContextEngine, shop: Graph) -> None:
    result = await engine.query(
        shop.scope, Query(text="MATCH (t:Team)-[r]->(s)<-[*0..1]-() RETURN *")
    )

    assert [column.name for column in result.columns] == ["r", "s", "t"]


async def test_archived_entities_show_when_asked_for(engine: ContextEngine, shop: Graph) -> None:
    text = "MATCH (s:Service)-[:DEPENDS_ON]->({name: 'orders'}) RETURN s.name ORDER BY s.name"

    result = await engine.query(shop.scope, Query(text=text, include_archived=True))

    assert result.rows == (("cart",), ("old",), ("pay",))


async def test_a_long_result_is_cut_and_says_so(engine: ContextEngine, shop: Graph) -> None:
    for text in (
        "UNWIND range(1, 1000000) AS x RETURN x",
        "UNWIND range(1, 1000000) AS x RETURN x LIMIT 900000",
        "MATCH (n) RETURN n.name AS x UNION ALL UNWIND range(1, 1000000) AS x RETURN x",
    ):
        result = await engine.query(shop.scope, Query(text=text, limit=5))
        assert (len(result.rows), result.truncated) == (5, True)
        assert "5 rows" in result.warnings[0]

    exact = await engine.query(shop.scope, Query(text="UNWIND range(1, 5) AS x RETURN x", limit=5))
    assert (len(exact.rows), exact.truncated) == (5, False)


async def test_a_query_that_runs_too_long_is_stopped(engine: ContextEngine, org: UUID) -> None:
    text = "UNWIND range(1, 20000) AS x UNWIND range(1, 3000) AS y WITH x + y AS z RETURN max(z)"

    with pytest.raises(QueryTimeoutError, match="300 ms"):
        await engine.query(Scope(org_id=org), Query(text=text, timeout_ms=300))


@pytest.mark.requirement("CTX-02")
async def test_a_language_that_the_engine_lacks_is_refused_with_what_to_set(
    engine: ContextEngine, org: UUID
) -> None:
    for language in ("kql", "sql"):
        if getattr(engine.capabilities, language):
            continue
        with pytest.raises(CapabilityError) as caught:
            await engine.query(Scope(org_id=org), Query(language=language, text="x"))
        assert caught.value.details["capability"] == language
        assert "CONTEXT_ENGINE=advanced" in caught.value.details["set"]


@pytest.mark.requirement("CTX-14")
@pytest.mark.parametrize(
    "text",
    [
        "CREATE (n:X) RETURN n",
        "MATCH (n) SET n.name = 'x' RETURN n",
        "MATCH (n) DETACH DELETE n",
        "CALL db.labels() YIELD label RETURN label",
        "MATCH (n) RETURN n; MATCH (m) DELETE m",
        "USE other MATCH (n) RETURN n",
        "MATCH (a)-[*]->(b) RETURN b",
        "MATCH (a)-[*1..7]->(b) RETURN b",
    ],
)
async def test_what_is_not_a_bounded_read_is_refused(
    engine: ContextEngine, shop: Graph, text: str
) -> None:
    with pytest.raises(QueryRejectedError) as caught:
        await engine.query(shop.scope, Query(text=text))

    assert caught.value.details["line"] == 1
    assert (await engine.stats(shop.scope)).nodes == 7


@pytest.mark.parametrize(
    "text",
    [
        "MATCH (n) RETURN m",
        "RETURN 1 / 0",
        "RETURN date('nonsense')",
        "MATCH (n) RETURN substring()",
    ],
)
async def test_what_the_server_finds_fault_with_is_the_callers_error(
    engine: ContextEngine, shop: Graph, text: str
) -> None:
    with pytest.raises(QueryRejectedError):
        await engine.query(shop.scope, Query(text=text))


async def test_strings_and_parameters_are_data_wherever_they_stand(
    engine: ContextEngine, org: UUID
) -> None:
    graph = Graph(org)
    evil = "x'}) RETURN 1 //`\" \\u0027 $_org"
    graph.node("a", "Thing", name=evil)
    await write(engine, graph)
    quoted = evil.replace("\\", "\\\\").replace("'", "\\'")

    literal = await engine.query(
        graph.scope, Query(text=f"MATCH (n {{name: '{quoted}'}}) RETURN n.name")
    )
    bound = await engine.query(
        graph.scope, Query(text="MATCH (n) WHERE n.name = $v RETURN n.name", params={"v": evil})
    )
    column = await engine.query(graph.scope, Query(text=f"RETURN '{quoted}', 'a' AS `b ``c`"))

    assert literal.rows == bound.rows == ((evil,),)
    assert column.rows == ((evil, "a"),)
    assert column.columns[1].name == "b `c"
