"""No text, name or parameter reaches past the scope: KQL and SQL alike."""

from __future__ import annotations

import contextlib
import json
from typing import Any
from uuid import UUID

import pytest
from datafusion import SessionContext
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentcy_ray.context.engine import Scope
from agentcy_ray.context.languages import kql, sql
from agentcy_ray.context.languages.planned import Planned, decode
from agentcy_ray.core.errors import QueryRejectedError
from tests.conformance.kql_cases.fixture import scope, tables

ONE_REALM = Scope(org_id=UUID(int=11), realms=("crm",))
NO_REALM = Scope(org_id=UUID(int=11), realms=())
SIGNS = st.text(
    st.sampled_from("'\"\\`;-/*|)(}{$:%_=,. \n\tabx0é\u2028\x1c\x1d\x1e\x1f\ud7ff[]@#!")
    | st.characters(exclude_categories=["Cs"], exclude_characters="\0"),
    max_size=24,
)
QUICK = settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(scope="module")
def session() -> SessionContext:
    return tables()


def _rows(session: SessionContext, planned: Planned) -> list[tuple[Any, ...]]:
    return decode(session.sql(planned.sql).to_arrow_table(), planned)


def _kql_text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False).replace("\u2028", "\\u2028")


@pytest.mark.requirement("TEN-05")
@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("kql", "nodes | project realm | union (edges | project realm) | distinct realm"),
        ("kql", "let nodes = edges; nodes | distinct realm"),
        ("kql", "edges | join kind=fullouter nodes on realm | distinct realm"),
        ("kql", "print x = toscalar(nodes | where realm == 'secret' | count) | where x > 0"),
        ("kql", "edges | make-graph src --> dst with nodes on id | graph-match (a)-[e*1..3]-(b) "
                "project a.realm, b.realm | distinct a_realm"),
        ("kql", "datatable(r:string)['secret'] | where r in (nodes | project realm)"),
        ("sql", "select distinct realm from nodes union select realm from edges"),
        ("sql", "with context_edges as (select * from context_nodes) "
                "select distinct realm from context_edges"),
        ("sql", "select realm from nodes where realm = 'secret' or 1 = 1"),
        ("sql", "select (select count(*) from nodes where realm = 'secret') x from nodes "
                "where exists (select 1 from nodes n where n.realm = 'secret')"),
        ("sql", "select r.realm from nodes n right join nodes r on n.realm <> r.realm"),
        ("sql", "select realm from (select * from (select * from nodes) a) b"),
    ],
)  # fmt: skip
def test_every_reference_to_a_table_sees_the_scope_alone(
    session: SessionContext, language: str, text: str
) -> None:
    planner = kql.plan if language == "kql" else sql.plan
    seen = _rows(session, planner(text, {}, ONE_REALM, row_limit=100))
    assert {value for row in seen for value in row} <= {"crm", None}
    assert _rows(session, planner(text, {}, NO_REALM, row_limit=100)) == []


@QUICK
@given(value=SIGNS)
def test_a_literal_of_any_signs_is_just_a_text(session: SessionContext, value: str) -> None:
    planned = kql.plan(f"print x = {_kql_text(value)}, y = strlen({_kql_text(value)})", {},
                       scope(), row_limit=5)  # fmt: skip
    assert _rows(session, planned) == [(value, len(value))]
    quoted = value.replace("'", "''")
    planned = sql.plan(f"select '{quoted}' as x", {}, scope(), row_limit=5)
    assert _rows(session, planned) == [(value,)]


@QUICK
@given(value=SIGNS)
def test_a_parameter_of_any_signs_stays_a_value(session: SessionContext, value: str) -> None:
    declared = "declare query_parameters(p:string, q:dynamic); "
    text = declared + (
        "nodes | where name == p or name has p or name contains p or props.lang =~ p"
        " | summarize n = count() | extend p, q"
    )
    planned = kql.plan(text, {"p": value, "q": [value]}, scope(), row_limit=5)
    ((count, shown, listed),) = _rows(session, planned)
    assert count <= 4
    assert shown == value
    if not {"\x1c", "\x1d"} & set(value):
        assert listed == [value]
    text = (
        "select :p as p, count(*) from nodes where name = :p or name in (:p, $p)"
        " or props ->> 'lang' = $p or name ilike :p"
    )
    planned = sql.plan(text, {"p": value}, scope(), row_limit=5)
    assert _rows(session, planned)[0][0] == value


@QUICK
@given(key=SIGNS.filter(lambda text: text.strip() and text.isprintable()))
def test_a_property_or_column_of_any_name_is_just_a_name(session: SessionContext, key: str) -> None:
    quoted = _kql_text(key)
    planned = kql.plan(f"nodes | project [{quoted}] = props[{quoted}] | distinct *", {},
                       scope(), row_limit=50)  # fmt: skip
    assert planned.columns[0].name == key
    assert _rows(session, planned) == [(None,)]
    literal = key.replace("'", "''")
    found = sql.plan(f"select json_get_str(props, '{literal}') from nodes", {}, scope(),
                     row_limit=50)  # fmt: skip
    assert set(_rows(session, found)) == {(None,)}


@QUICK
@given(text=SIGNS)
def test_no_text_crashes_a_planner(text: str) -> None:
    for planner in (kql.plan, sql.plan):
        for whole in (text, f"nodes | where {text}", f"select {text} from nodes"):
            with contextlib.suppress(QueryRejectedError):
                planner(whole, {}, scope(), row_limit=5)


@pytest.mark.parametrize(
    "text",
    [
        "nodes | extend x = " + "-" * 400 + "props.tier",
        "print " + "+".join(["1"] * 5000),
        "print " + "not(" * 400 + "true" + ")" * 400,
        "let a0 = nodes; "
        + "".join(f"let a{i + 1} = a{i} | union a{i}; " for i in range(20))
        + "a20 | count",
        "nodes" + " | extend x = 1" * 400,
    ],
)
def test_a_query_that_would_grow_without_bounds_is_refused(text: str) -> None:
    with pytest.raises(QueryRejectedError, match=r"nest|stages|more than 500 times"):
        kql.plan(text, {}, scope(), row_limit=5)


def test_parentheses_alone_add_nothing(session: SessionContext) -> None:
    text = "nodes | where " + "(" * 5000 + "name == 'x'" + ")" * 5000
    assert _rows(session, kql.plan(text, {}, scope(), row_limit=5)) == []


@pytest.mark.parametrize(
    "text",
    [
        "select " + "(" * 500 + "1" + ")" * 500,
        "select " + "+".join(["1"] * 5000),
        "select " + " or ".join(["a = 1"] * 3000) + " from nodes",
        "select " + "not " * 3000 + "true",
    ],
)
def test_a_deep_sql_query_is_refused(text: str) -> None:
    with pytest.raises(QueryRejectedError):
        sql.plan(text, {}, scope(), row_limit=5)
