"""How Cypher is planned: what is pushed down, what stays data, what is refused and where."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
import sqlglot

from agentcy_ray.context.engine import Scope
from agentcy_ray.context.languages.cypher import plan
from agentcy_ray.core.errors import QueryRejectedError

SCOPE = Scope(org_id=uuid4(), realms=("dev", "it's"))


def _sql(text: str, **params: Any) -> str:
    return plan(text, params, SCOPE, row_limit=10).sql


def test_known_ids_are_sought_before_the_newest_version_is_picked() -> None:
    for text, params in (
        ("MATCH (a {id: $id})-[:T]->(b) RETURN b.name", {"id": "n1"}),
        ("MATCH (a)-[:T]->(b) WHERE a.id = $id RETURN b.name", {"id": "n1"}),
        ("MATCH (b)<-[:T]-(a) WHERE a.id IN $id RETURN b.name", {"id": ["n1"]}),
    ):
        sql = _sql(text, **params)
        assert "FROM context_nodes WHERE \"id\" IN ('n1')" in sql
        assert "FROM context_edges WHERE \"src\" IN ('n1') AND (\"type\" = 'T')" in sql
        assert 'FROM context_nodes WHERE "id" IN (SELECT "dst" AS "id" FROM context_edges' in sql


def test_every_table_is_read_within_the_realms() -> None:
    sql = _sql("MATCH (a)-[*1..3]-(b) WHERE EXISTS { (b)-->(:C) } RETURN a, startNode([][0])")

    read = sql.count("FROM context_nodes") + sql.count("FROM context_edges")
    assert read == sql.count("\"realm\" IN ('dev', 'it''s')") > 6


@pytest.mark.parametrize("value", ["'; DROP TABLE x; --", "\\' OR 1=1", '`"\x1f\x1d', "${}$$", ""])
def test_parameters_are_literals(value: str) -> None:
    found = sqlglot.parse(_sql("MATCH (n {name: $v}) WHERE n.x = $v RETURN $v", v=value))

    assert len(found) == 1
    assert found[0] is not None
    assert {table.name for table in found[0].find_all(sqlglot.exp.Table)} >= {"context_nodes"}


def test_the_text_grows_with_the_pattern_not_with_the_hops() -> None:
    two, six = (len(_sql(f"MATCH (a)-[*1..{hops}]->(b) RETURN b")) for hops in (2, 6))

    assert six == two


@pytest.mark.parametrize(
    ("text", "column", "token"),
    [
        ("MATCH (n) RETURN m.name", 18, "m"),
        ("MATCH (n) RETURN n.name.first", 25, "first"),
        ("MATCH (n) RETURN randomUUID()", 18, "randomUUID"),
        ("MATCH (n) RETURN point({x: 1})", 18, "point"),
        ("MATCH (n) RETURN id(n)", 18, "id"),
        ("MATCH (n) RETURN properties([n])", 18, "properties"),
        ("MATCH (n) WITH n {.*} AS m RETURN m {.*}", 39, "*"),
        ("MATCH (n) WITH n.name AS x RETURN x, n", 38, "n"),
        ("MATCH (n) RETURN n.a / 2, n.b / 0", 31, "/"),
        ("MATCH (n) RETURN abs(n.x), abs('x')", 28, "abs"),
        (
            "MATCH (n) RETURN sum(n.x), percentileDisc(n.x, 0.5), percentileDisc(n.x, 9)",
            54,
            "percentileDisc",
        ),
        ("MATCH (n) WITH n LIMIT 1 RETURN n LIMIT 'x'", 35, "LIMIT"),
        ("MATCH (n) WHERE n.x > 1 AND n RETURN n", 29, "n"),
        ("MATCH (n) WHERE n.tags < [] + n.tags RETURN 1 < 2, [] + n.tags < [1]", 64, "<"),
        ("RETURN 1 IN [1], 'a' IN 'abc'", 22, "IN"),
        ("RETURN 9223372036854775807 + 1", 28, "+"),
        ("RETURN substring('abc', -1)", 8, "substring"),
        ("RETURN split('abc', '')", 8, "split"),
        ("RETURN 'a' - 1", 12, "-"),
        ("RETURN head(1)", 8, "head"),
        ("RETURN range('a', 2)", 8, "range"),
        ("RETURN count()", 8, "count"),
        ("RETURN 1 == 2", 11, "="),
        ("MATCH (n)->(m) RETURN n", 10, "-"),
        ("MATCH (n) RETURN n WHERE n.x = 1", 20, "WHERE"),
        ("MATCH (n RETURN n", 10, "RETURN"),
        ("MATCH (n) WHERE sum(n.x) > 1 RETURN n", 17, "sum"),
        ("RETURN 5 % 0", 10, "%"),
        ("RETURN left('a')", 8, "left"),
        ("MATCH (n) RETURN n ORDER BY collect(n)", 29, "collect"),
        ("MATCH (n) RETURN n LIMIT n.x", 20, "LIMIT"),
        ("MATCH (n) WITH collect(n.x) AS xs RETURN reduce(s = 0, x IN xs | s + x)", 42, "reduce"),
        ("MATCH (a) CALL (b) { RETURN 1 AS x } RETURN x", 17, "b"),
        ("RETURN 'a'.length", 12, "length"),
        ("RETURN percentileCont(1, 2)", 8, "percentileCont"),
    ],
)
def test_what_has_no_plan_is_refused_with_its_place(text: str, column: int, token: str) -> None:
    with pytest.raises(QueryRejectedError) as caught:
        _sql(text)

    assert (caught.value.details["column"], caught.value.details["token"]) == (column, token)
    assert caught.value.details["instead"]


def test_a_parameter_without_a_value_is_refused() -> None:
    with pytest.raises(QueryRejectedError, match=r"\$v has no value"):
        _sql("RETURN $v")
