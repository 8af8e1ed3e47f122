"""What the Cypher front end lets through, what it refuses, and where it says the fault is."""

from __future__ import annotations

import re
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentcy_ray.context.engine import Scope
from agentcy_ray.context.languages.cypher import Dialect, ScopedQuery, scoped
from agentcy_ray.core.errors import QueryRejectedError

SCOPE = Scope(org_id=UUID(int=5), realms=("development", "crm"))


def sent(text: str, **params: Any) -> ScopedQuery:
    return scoped(text, params, SCOPE, row_limit=100)


def refusal(text: str, **params: Any) -> QueryRejectedError:
    with pytest.raises(QueryRejectedError) as caught:
        sent(text, **params)
    return caught.value


@pytest.mark.requirement("CTX-14")
@pytest.mark.parametrize(
    ("text", "token", "column", "said"),
    [
        # writes
        ("CREATE (n) RETURN n", "CREATE", 1, "only read"),
        ("MATCH (n) MERGE (m) RETURN m", "MERGE", 11, "only read"),
        ("MATCH (n) SET n.x = 1", "SET", 11, "only read"),
        ("MATCH (n) SET n:Label RETURN n", "SET", 11, "only read"),
        ("MATCH (n) REMOVE n.x RETURN n", "REMOVE", 11, "only read"),
        ("MATCH (n) DELETE n", "DELETE", 11, "only read"),
        ("MATCH (n) DETACH DELETE n", "DETACH", 11, "only read"),
        ("MATCH (n) FOREACH (x IN [1] | SET n.x = x)", "FOREACH", 11, "only read"),
        ("MATCH (n) CALL { CREATE (m) RETURN m } RETURN n", "CREATE", 18, "only read"),
        ("MATCH (n) WHERE EXISTS { CREATE (m) } RETURN n", "CREATE", 26, "only read"),
        ("MATCH (n) RETURN n UNION CREATE (m) RETURN m AS n", "CREATE", 26, "only read"),
        ("MATCH (n) RETURN n CREATE (m)", "CREATE", 20, "only read"),
        ("MATCH (n) CALL { WITH n SET n.x = 1 } IN TRANSACTIONS", "SET", 25, "only read"),
        # procedures, files, databases, schema
        ("CALL db.labels()", "CALL", 1, "procedures"),
        ("CALL apoc.cypher.doIt('CREATE (n)', {}) YIELD value", "CALL", 1, "procedures"),
        ("MATCH (n) CALL dbms.components() YIELD name RETURN n", "CALL", 11, "procedures"),
        ("RETURN apoc.cypher.runFirstColumn('MATCH (n) RETURN n', {})", "apoc", 8, "not allowed"),
        ("RETURN db.nameFromElementId('x')", "db", 8, "not allowed"),
        ("RETURN `apoc`.text.join(['a'], '')", "(", 24, "expected the end"),
        ("LOAD CSV FROM 'file:///etc/passwd' AS row RETURN row", "LOAD", 1, "files"),
        ("USE system MATCH (n) RETURN n", "USE", 1, "database"),
        ("MATCH (n) CALL { USE other MATCH (m) RETURN m } RETURN m", "USE", 18, "database"),
        ("SHOW DATABASES", "SHOW", 1, "only MATCH"),
        ("DROP CONSTRAINT x", "DROP", 1, "only MATCH"),
        ("EXPLAIN MATCH (n) RETURN n", "EXPLAIN", 1, "plans"),
        ("PROFILE MATCH (n) RETURN n", "PROFILE", 1, "plans"),
        ("CYPHER runtime=slotted MATCH (n) RETURN n", "CYPHER", 1, "options"),
        # several statements
        ("MATCH (n) RETURN n; MATCH (m) RETURN m", "MATCH", 21, "several statements"),
        ("MATCH (n); DELETE n", ";", 10, "several statements"),
        ("MATCH (n) RETURN n;;", ";", 20, "several statements"),
        # hops
        ("MATCH (a)-[*]->(b) RETURN b", "*", 12, "not bounded"),
        ("MATCH (a)-[:R*2..]->(b) RETURN b", "*", 14, "not bounded"),
        ("MATCH (a)-[*..7]->(b) RETURN b", "*", 12, "at most 6 hops"),
        ("MATCH (a)-[*3..2]->(b) RETURN b", "*", 12, "not allowed"),
        ("MATCH (a)-[*1..4]->(b)-[*1..3]->(c) RETURN c", ")", 35, "7 hops"),
        ("MATCH (a)-->()-->()-->()-->()-->()-->()-->(b) RETURN b", ")", 45, "7 hops"),
        ("MATCH (a) WHERE (a)-[*]->() RETURN a", "*", 22, "not bounded"),
        ("MATCH (a) RETURN [(a)-[*1..9]->(b) | b]", "*", 24, "at most 6 hops"),
        ("MATCH p = shortestPath((a)-[*]-(b)) RETURN p", "*", 29, "not bounded"),
        ("MATCH (a)-[:R]->{1,3}(b) RETURN b", "{", 17, "-[:TYPE*1..3]->"),
        ("MATCH (a)-[:R]->+(b) RETURN b", "+", 17, "-[:TYPE*1..3]->"),
        ("MATCH ((a)-[:R]->(b)){1,3} RETURN b", "(", 8, "-[:TYPE*1..3]->"),
        ("MATCH allShortestPaths((a)--(b)) RETURN 1", "allShortestPaths", 7, "shortestPath"),
        # what other dialects write
        ("MATCH (a) WHERE a.x != 1 RETURN a", "!", 21, "<>"),
        ("MATCH (a) WHERE exists(a.x) RETURN a", "exists", 17, "IS NOT NULL"),
        ("MATCH (a $all) RETURN a", "$all", 10, "{key: $value}"),
        ("MATCH (a:$(label)) RETURN a", "$(label)) ", 10, "parameter name"),
        ("MATCH (a:$label) RETURN a", "$label", 10, "computed"),
        ("MATCH (a) RETURN tolowr(a.name)", "tolowr", 18, "toLower"),
        ("MATCH (a) RETURN a.name, a.name", "end of the query", 32, "one name"),
        ("MATCH (a) WITH a.name RETURN 1", "RETURN", 23, "add AS name"),
        ("RETURN 1 AS a UNION RETURN 2 AS b;", ";", 34, "different columns"),
        ("MATCH (a)", "end of the query", 10, "expected RETURN"),
        ("MATCH (a RETURN a", "RETURN", 10, "expected ')'"),
        ("", "end of the query", 1, "empty"),
        ("   // nothing", "end of the query", 14, "empty"),
        ("FLY ME TO THE MOON", "FLY", 1, "expected MATCH"),
    ],
)  # fmt: skip
def test_a_refusal_names_token_position_and_what_to_write(
    text: str, token: str, column: int, said: str
) -> None:
    error = refusal(text, label=1, all=1)

    assert (error.details["token"], error.details["line"]) == (token, 1)
    assert error.details["column"] == column
    assert said in error.message


def test_positions_count_lines() -> None:
    error = refusal("MATCH (n)\n  // a comment\n  SET n.x = 1")

    assert (error.details["line"], error.details["column"]) == (3, 3)


@pytest.mark.requirement("CTX-14")
@pytest.mark.parametrize(
    "text",
    [
        "MATCH (n) /* RETURN n */ DELETE n",
        "MATCH (n) // RETURN n\n DELETE n",
        "MATCH (n) /* /* */ DELETE n /* */ RETURN n",
        "MATCH (n) RETURN n /* unclosed",
        "MATCH (n) RETURN 'unclosed",
        "MATCH (n {name: 'a\\'}) RETURN n",
        "MATCH (n) RETURN `unclosed",
        "MATCH (`n\\u0060) DETACH DELETE n //`) RETURN 1",
        "MATCH (n:`A\\u0060 {x: 1}) DELETE n //`) RETURN n",
        "MATCH (n) \\u0044ELETE n",
        "MATCH (n) RETURN 'a\\u002'",
        "MATCH (n) RETURN '\\ud800'",
        "MATCH (n:``) RETURN n",
        "MATCH (n) RETURN n\u2010\u2010>(m)",
        "MATCH (n)\x00DELETE n",
        "M\u200bATCH (n) RETURN n",
        "MATCH (n) RETURN $_org",
        "MATCH (n) RETURN $`_org`",
        "MATCH (n) RETURN 9223372036854775808",
        "MATCH (n) RETURN 1e999",
        "MATCH (n) RETURN 1_000",
        "MATCH (n) RETURN n" + " " * 70_000,
        "MATCH (n) RETURN " + "(" * 500 + "1" + ")" * 500,
        "MATCH (n) RETURN " + "[" * 500 + "]" * 500,
        "MATCH (n) RETURN " + "NOT " * 500 + "true",
        "MATCH (n) RETURN " + "- " * 500 + "1",
        "MATCH (n:" + "!" * 500 + "A) RETURN n",
        "MATCH (n) " + "CALL { " * 100 + "RETURN 1 AS x" + " }" * 100 + " RETURN n",
    ],
)  # fmt: skip
def test_tricks_are_refused(text: str) -> None:
    refusal(text)


def test_nested_alternatives_cost_no_exponential_time() -> None:
    text = "({a: " * 20 + "1" + "})" * 20

    assert sent(f"RETURN {text} AS x").columns == ("x",)


def test_no_text_of_a_string_comment_or_escape_is_sent() -> None:
    query = sent(
        "MATCH (n) /* SECRET1 */ WHERE n.a = 'SECRET2' AND n.b = \"SECRET3\\u0041\" // SECRET4\n"
        "RETURN n.c AS x, 'SECRET5'"
    )

    assert "SECRET" not in query.text
    assert [query.params[f"_t{i}"] for i in range(3)] == ["SECRET2", "SECRET3A", "SECRET5"]
    assert query.columns == ("x", "'SECRET5'")


def test_names_are_data_even_in_backticks() -> None:
    query = sent("MATCH (`a b`:`X``) DELETE (y`) RETURN `a b`.`p``q` AS `n/*`")

    assert "`X``) DELETE (y`" in query.text
    assert query.columns == ("n/*",)


def test_parameters_stay_parameters_and_must_have_values() -> None:
    query = sent("MATCH (n {name: $name}) RETURN n", name="x", unused=1)

    assert query.params == {
        "name": "x", "_org": UUID(int=5).hex, "_realms": ["development", "crm"],
    }  # fmt: skip
    assert refusal("MATCH (n {name: $name}) RETURN n").details["column"] == 17


@pytest.mark.parametrize(
    "text",
    [
        "MATCH (n) RETURN n",
        "MATCH (:A) RETURN 1 AS x",
        "MATCH (a)-[r]->(b) RETURN a",
        "MATCH ()--() RETURN 1 AS x",
        "MATCH (a), (b)<-[:R]-() RETURN a",
        "OPTIONAL MATCH (a) RETURN a",
        "RETURN EXISTS { (a)-->() } AS x",
        "RETURN COUNT { MATCH (a) } AS x",
        "RETURN COLLECT { MATCH (a) RETURN a } AS x",
        "RETURN [(a)--(b) | 1] AS x",
        "MATCH (a) WHERE (a)--() RETURN a",
        "MATCH (a) WITH a MATCH (b) RETURN b",
        "MATCH (a) RETURN a UNION MATCH (a) RETURN a",
        "CALL { MATCH (a) RETURN a } RETURN a",
        "RETURN [x IN [1] WHERE EXISTS { (a) }] AS x",
        "RETURN reduce(t = 0, x IN [1] | t + COUNT { (a) }) AS x",
        "RETURN CASE WHEN EXISTS { (a) } THEN COUNT { (b) } END AS x",
        "RETURN {a: [EXISTS { (a) }]}.a[COUNT { (b) }] AS x",
        "MATCH (a) RETURN a {.x, y: COUNT { (a)--() }} AS x",
        "MATCH (a) RETURN a ORDER BY COUNT { (a)--() } SKIP COUNT { (b) } LIMIT COUNT { (c) }",
        "UNWIND COLLECT { MATCH (a) RETURN a } AS x RETURN x",
        "MATCH (a WHERE EXISTS { (a)--() }) RETURN a",
        "MATCH p = shortestPath((a)-[*..3]-(b)) RETURN p",
    ],
)
@pytest.mark.parametrize("native", [True, False])
def test_every_pattern_carries_the_scope(text: str, native: bool) -> None:
    query = scoped(
        text, {}, SCOPE, row_limit=9, dialect=Dialect(shortest_path_filters=native)
    ).text  # fmt: skip

    matches = re.split(r"\bMATCH ", query)[1:]
    for match in matches:
        if "shortestPath(" in match or re.search(r"\*\d", match):
            assert "nodes(" in match
            assert "relationships(" in match
            continue
        pattern, _, rest = match.partition(" WHERE ")
        for name in re.findall(r"[(\[](\w+)[:)\] ]", pattern):
            assert f"({name}.`org` = $_org)" in rest
            assert f"({name}.`realm` IN $_realms)" in rest
            assert f"({name}.`archived_at` IS NULL)" in rest
        assert len(re.findall(r"\(\w+", pattern)) == pattern.count("(")


def test_made_up_names_avoid_those_of_the_query() -> None:
    query = sent("MATCH (_s1)-->() WITH _s1 AS _s2 RETURN _s2")

    assert query.columns == ("_s2",)
    assert "_s_1" in query.text


def test_without_realms_or_with_the_archive_fewer_conditions_are_put_in() -> None:
    everything = scoped(
        "MATCH (n) RETURN n", {}, Scope(org_id=UUID(int=5)), row_limit=9, include_archived=True
    )

    assert "realm" not in everything.text
    assert "archived_at" not in everything.text
    assert everything.params == {"_org": UUID(int=5).hex}


def test_a_query_without_limit_gets_one() -> None:
    assert sent("MATCH (n) RETURN n").text.endswith("LIMIT 101")
    assert sent("MATCH (n) RETURN n LIMIT 5").text.endswith("LIMIT 5")


_PIECES = [
    "MATCH", "OPTIONAL", "WHERE", "RETURN", "WITH", "UNWIND", "AS", "CALL", "UNION", "ALL", "AND",
    "OR", "NOT", "IN", "IS", "NULL", "CASE", "WHEN", "THEN", "END", "EXISTS", "COUNT", "DISTINCT",
    "ORDER", "BY", "LIMIT", "n", "m", "r", "p", "(", ")", "(", ")", "[", "]", "{", "}", "-", "-",
    ">", "<", "*", "..", ".", ",", ":", ";", "|", "=", "+", "'a'", "1", "2.5", "$x", "shortestPath",
    "count", "`q`", "A", "all", "reduce",
]  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(_PIECES), max_size=30).map(" ".join))
def test_any_jumble_is_answered_or_refused_with_a_position(text: str) -> None:
    try:
        columns = sent(text, x=1).columns
    except QueryRejectedError as error:
        columns = error.details["column"]
    assert columns


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=60))
def test_any_text_is_answered_or_refused_with_a_position(text: str) -> None:
    try:
        found = len(sent(text).columns)
    except QueryRejectedError as error:
        found = error.details["column"]
    assert found >= 1
