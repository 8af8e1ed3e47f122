"""Chart hints of grouped answers, and what an editor may offer."""

from __future__ import annotations

from typing import Any

import pytest

from agentcy_ray.context.engine import GraphSchema, LabelSchema
from agentcy_ray.context.languages import kql, sql
from agentcy_ray.context.languages.charts import hint
from agentcy_ray.context.languages.completion import completion
from agentcy_ray.context.languages.planned import OutputColumn
from tests.conformance.kql_cases.fixture import scope

HOURLY = "events | summarize n = count(), avg(duration_ms) by bin(at, 1h)"


@pytest.mark.parametrize(
    ("text", "chart"),
    [
        (HOURLY, {"kind": "line", "x": "at", "y": ["n", "avg_duration_ms"]}),
        (
            "events | summarize n = count() by bin(at, 1h), label | sort by at asc",
            {"kind": "line", "x": "at", "y": ["n"], "series": "label"},
        ),
        ("nodes | summarize count() by labels", {"kind": "bar", "x": "labels", "y": ["count_"]}),
        ("nodes | summarize count() by labels | render piechart",
         {"kind": "bar", "x": "labels", "y": ["count_"]}),
        (f"{HOURLY} | render timechart with (ycolumns=n)", {"kind": "line", "x": "at", "y": ["n"]}),
        (f"{HOURLY} | render table", None),
        ("nodes | summarize count() by labels, realm, name", None),
        ("nodes | project name", None),
        ("nodes | count", None),
        (f"{HOURLY} | project at", None),
    ],
)  # fmt: skip
def test_grouped_kql_says_how_it_may_be_drawn(text: str, chart: dict[str, Any] | None) -> None:
    assert kql.plan(text, {}, scope(), row_limit=10).chart == chart


@pytest.mark.parametrize(
    ("text", "chart"),
    [
        ("select date_trunc('day', at) as d, count(*) as n from events group by 1",
         {"kind": "line", "x": "d", "y": ["n"]}),
        ("select labels, realm, count(*) as n from nodes group by labels, realm",
         {"kind": "bar", "x": "labels", "y": ["n"], "series": "realm"}),
        ("select count(*) from nodes", None),
        ("select name, 1 as n from nodes", None),
    ],
)  # fmt: skip
def test_grouped_sql_says_how_it_may_be_drawn(text: str, chart: dict[str, Any] | None) -> None:
    assert sql.plan(text, {}, scope(), row_limit=10).chart == chart


def test_a_hint_needs_numbers_and_a_key() -> None:
    columns = (OutputColumn("a", "text"), OutputColumn("n", "integer"))
    assert hint(columns, {"a"}) == {"kind": "bar", "x": "a", "y": ["n"]}
    assert hint(columns, set()) is None
    assert hint(columns[:1], {"a"}) is None


def test_completion_offers_what_the_language_and_the_graph_have() -> None:
    schema = GraphSchema(
        labels=(LabelSchema(name="Team", count=1, properties=("size",)),
                LabelSchema(name="Service", count=2, properties=("tier", "lang"))),
        types=(LabelSchema(name="CALLS", count=3, properties=("weight", "tier")),),
    )  # fmt: skip

    found = completion("kql", schema)
    assert (found.labels, found.types) == (("Service", "Team"), ("CALLS",))
    assert found.properties == ("lang", "size", "tier", "weight")
    assert {"summarize", "make-series", "graph-match"} <= set(found.keywords)
    assert {"bin", "dcount", "strcat"} <= set(found.functions)
    (nodes, edges, events) = found.tables
    assert (nodes.name, edges.name, events.name) == (
        "context_nodes", "context_edges", "context_events",
    )  # fmt: skip
    assert {each.name: each.type for each in events.columns}["at"] == "datetime"

    found = completion("sql", schema)
    assert {each.name: each.type for each in found.tables[0].columns}["props"] == "json"
    assert "array_agg" in found.functions

    found = completion("cypher", schema)
    assert found.tables == ()
    assert "MATCH" in found.keywords
    assert "collect" in found.functions
