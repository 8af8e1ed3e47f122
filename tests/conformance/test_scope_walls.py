"""No way of asking an engine leads out of the caller's organisation and realms.

Graphs are drawn at random over two organisations and three realms, with edges across all of them
that an engine takes. Every name, property and label says where it belongs, so whatever comes back,
in whichever form, is searched for a word from outside.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentcy_ray.context.engine import ContextEngine, Query, Scope, SearchQuery
from agentcy_ray.core.errors import CapabilityError, QueryRejectedError
from tests.conformance.graphs import Graph, write

pytestmark = pytest.mark.attack
REALMS = ("development", "crm", "data")
CYPHER = (
    "MATCH (n) RETURN n",
    "MATCH p = (a)-[*1..4]-(b) RETURN p",
    "MATCH (a)-[r]->(b) RETURN a, r, b",
    "MATCH (a {{external_id: '{start}'}})-[*0..6]-(b) RETURN DISTINCT b.name, b.realm, b.mark",
    "MATCH p = shortestPath((a)-[*..6]-(b)) WHERE a.name <> b.name RETURN nodes(p), p",
    "MATCH (a) OPTIONAL MATCH (a)--(b)--(c) RETURN a.name, b.mark, c.mark",
    "MATCH (a) WHERE EXISTS {{ (a)--(b) WHERE b.realm = '{outside}' }} RETURN a.name, 'found'",
    "MATCH (a) RETURN a.name, [(a)-[*1..3]-(b) | b.mark] AS marks",
    "MATCH (a) CALL {{ WITH a MATCH (a)-->(b) RETURN collect(b.mark) AS marks }} RETURN marks",
    "MATCH (a) RETURN a.realm, count(*), collect(properties(a))",
    "MATCH (n) WHERE n.org = '{other}' OR true RETURN n.name, n.org",
    "MATCH (n {{id: '{foreign}'}}) RETURN n",
    "MATCH (n) WHERE n.id = $foreign OR n.name STARTS WITH $foreign RETURN n",
    "CALL {{ MATCH (n:{secret}) RETURN n UNION MATCH (n) RETURN n }} RETURN n.name",
)
SQL = (
    "SELECT * FROM context_nodes",
    "SELECT * FROM context_edges e JOIN context_nodes n ON e.dst = n.id",
    "SELECT count(*), max(name), max(realm) FROM context_nodes WHERE realm = '{outside}' OR 1 = 1",
    "WITH RECURSIVE w AS (SELECT id FROM context_nodes UNION SELECT e.dst FROM context_edges e"
    " JOIN w ON e.src = w.id) SELECT n.name, n.props FROM w JOIN context_nodes n ON n.id = w.id",
    "SELECT * FROM context_nodes WHERE id = '{foreign}' UNION ALL SELECT * FROM context_nodes",
    'SELECT * FROM "{other_database}".public.context_nodes',
)
KQL = (
    "nodes",
    "edges | join kind=fullouter nodes on $left.dst == $right.id",
    "nodes | where realm == '{outside}' or 1 == 1 | summarize count(), make_list(name) by realm",
    "edges | make-graph src --> dst with nodes on id | graph-match (a)-[e*1..4]-(b)"
    " project a.name, b.name, a.realm, b.realm",
    "union nodes, edges",
    "database('{other_database}').context_nodes",
)
"""Texts; many are refused by one engine or the other, which is an answer too."""


async def everything(
    engine: ContextEngine, scope: Scope, words: dict[str, str], starts: list[str]
) -> AsyncIterator[tuple[str, Any]]:
    """What each way of asking gives."""
    for start in starts:
        yield "node", await engine.node(scope, start)
        yield "neighbors", await engine.neighbors(scope, start, depth=3)
    yield "nodes_by_id", await engine.nodes_by_id(scope, starts)
    yield "overview", await engine.overview(scope)
    yield "stats", await engine.stats(scope)
    yield "schema", await engine.schema(scope)
    for text in ("thing", words["secret"], words["outside"]):
        yield "search", await engine.search(scope, SearchQuery(text=text))
    for language, texts in (("cypher", CYPHER), ("sql", SQL), ("kql", KQL)):
        if not getattr(engine.capabilities, language):
            continue
        for place, text in enumerate(texts):
            query = Query(
                language=language, text=text.format(**words), params={"foreign": words["foreign"]}
                if "$foreign" in text else {},
            )  # fmt: skip
            with contextlib.suppress(QueryRejectedError, CapabilityError):
                if place % 2:
                    yield text, await engine.query(scope, query)
                else:
                    yield text, [b.to_pydict() async for b in engine.arrow(scope, query)]


@pytest.mark.requirement("TEN-05")
@settings(
    max_examples=2,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
async def test_whatever_is_asked_stays_inside(
    engine: ContextEngine, attack_scale: str, data: st.DataObject
) -> None:
    for _ in range(1 if attack_scale == "short" else 8):
        await stays_inside(engine, data)


async def stays_inside(engine: ContextEngine, data: st.DataObject) -> None:
    ours, theirs = uuid4(), uuid4()
    graphs = {"ours": Graph(ours), "theirs": Graph(theirs)}
    keys: list[tuple[str, str]] = []
    for whose, graph in graphs.items():
        for number in range(data.draw(st.integers(2, 5))):
            realm = data.draw(st.sampled_from(REALMS))
            key = f"{whose}{number}"
            word = f"{whose}zz{realm}"
            graph.node(key, f"L{word}", "Thing", realm=realm, name=f"thing {word}", mark=word)
            keys.append((whose, key))
    for whose, graph in graphs.items():
        mine = [key for who, key in keys if who == whose]
        pairs = st.sets(st.tuples(st.sampled_from(mine), st.sampled_from(mine)), max_size=8)
        for src, dst in sorted(data.draw(pairs)):
            word = f"{whose}zz{graph.nodes[src]['realm']}"
            graph.edge(src, "R", dst, mark=word)
        await write(engine, graph)
    allowed = data.draw(st.sampled_from([(), ("crm",), ("data", "crm"), REALMS]))
    start = data.draw(st.sampled_from(sorted(graphs["ours"].nodes)))
    outside = next((realm for realm in REALMS if realm not in allowed), "nowhere")
    words = {
        "start": start, "outside": outside, "other": theirs.hex, "secret": f"Ltheirszz{REALMS[0]}",
        "foreign": graphs["theirs"].id(next(iter(graphs["theirs"].nodes))),
        "other_database": f"conformance_{theirs.hex}",
    }  # fmt: skip
    starts = [graphs[whose].id(key) for whose, key in keys]
    forbidden = [f"theirszz{realm}" for realm in REALMS]
    forbidden += [f"ourszz{realm}" for realm in REALMS if realm not in allowed]
    asked = 0
    async for way, answer in everything(engine, Scope(org_id=ours, realms=allowed), words, starts):
        text = repr(answer)
        assert not [word for word in forbidden if word in text], (way, text)
        asked += 1
    assert asked > 20


NATIVE = (
    ("sql", 'SELECT * FROM "{other_database}".public.context_nodes'),
    ("sql", "SELECT * FROM {other_database}.context_nodes"),
    ("sql", 'SELECT * FROM datafusion."{other_database}".context_nodes'),
    ("sql", "SELECT * FROM '{folder}'"),
    ("sql", "SELECT * FROM read_parquet('{folder}')"),
    ("sql", "SELECT * FROM parquet_metadata('{folder}')"),
    ("sql", "SELECT * FROM information_schema.tables"),
    ("sql", "CREATE EXTERNAL TABLE spy STORED AS PARQUET LOCATION '{folder}'"),
    ("sql", "CREATE VIEW spy AS SELECT * FROM context_nodes"),
    ("sql", "COPY (SELECT 1 AS one) TO '{folder}/spy.csv'"),
    ("sql", "INSERT INTO context_nodes SELECT * FROM context_nodes"),
    ("sql", "SET datafusion.catalog.information_schema = true"),
    ("sql", 'SELECT 1; SELECT * FROM "{other_database}".public.context_nodes'),
    ("sql", "SHOW TABLES"),
    ("kql", "database('{other_database}').context_nodes"),
    ("kql", "cluster('x').database('{other_database}').context_nodes"),
    ("kql", "externaldata(name:string)['{folder}']"),
    ("kql", ".show databases"),
    ("kql", "union context_nodes, {other_database}.context_nodes"),
    ("cypher", "USE {other_database} MATCH (n) RETURN n"),
    ("cypher", "LOAD CSV FROM 'file://{folder}' AS row RETURN row"),
)
"""Nobody scopes these: what keeps them in is the database that they run on."""


@pytest.mark.requirement("TEN-05")
async def test_a_native_text_stays_in_the_database_of_its_org(
    engine: ContextEngine, tmp_path: Path
) -> None:
    if not engine.capabilities.sql:
        pytest.skip("holds organisations in one database, and takes no native text")
    ours, theirs = Graph(uuid4()), Graph(uuid4())
    ours.node("a", name="a thing of ours")
    theirs.node("b", name="a thing of theirs")
    for graph in (ours, theirs):
        await write(engine, graph)
    whole = await engine.native(
        ours.org, "sql", "SELECT name FROM context_nodes", limit=9, timeout_ms=20_000
    )
    assert {row["name"] for row in whole.rows} == {"a thing of ours", ""}  # "" = the row of columns
    words = {"other_database": f"conformance_{theirs.org.hex}", "folder": str(tmp_path)}
    for language, text in NATIVE:
        with pytest.raises((QueryRejectedError, CapabilityError)):
            await engine.native(
                ours.org, language, text.format(**words), limit=9, timeout_ms=20_000
            )
    assert list(tmp_path.iterdir()) == []
