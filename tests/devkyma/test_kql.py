"""kyma's own KQL: the closed surface, its collected meaning, and everything else refused."""

from __future__ import annotations

import pytest

from tests.devkyma.conftest import Talk

EVENTS = [
    {"at": f"2026-06-01T{hour:02}:30:00Z", "label": label, "service": service, "severity": severity}
    for hour, label, service, severity in (
        (8, "incident", "api", "high"),
        (8, "incident", "pay", "low"),
        (9, "tool_call", "api", "low"),
        (10, "incident", "Api", "low"),
    )
]
EDGES = [("a", "b"), ("b", "c"), ("c", "d"), ("a", "c"), ("x", "a")]


@pytest.fixture(scope="module")
async def events(module_talk: Talk) -> Talk:
    """Four events in ``t``."""
    await module_talk.ingest(*EVENTS)
    return module_talk


@pytest.fixture(scope="module")
async def edges(module_talk: Talk) -> Talk:
    """Nodes a to d and x; edges a-b-c-d, a-c, x-a in ``e``, the first of another type."""
    talk = module_talk
    await talk.ingest(*({"id": i, "labels": "N", "name": i.upper()} for i in "abcdx"), table="n")
    rows = [{"src": s, "dst": d, "type": "T"} for s, d in EDGES]
    await talk.ingest({**rows[0], "type": "U"}, *rows[1:], table="e")
    return talk


@pytest.mark.parametrize(
    ("query", "rows"),
    [
        ('t | where label == "incident" | count', [{"Count": 3}]),
        ("t | take 1 | count", [{"Count": 4}]),
        ('t | take 1 | where service == "pay" | project service', [{"service": "pay"}]),
        (
            't | where service has "ap" and severity == "high" | project label',
            [{"label": "incident"}],
        ),
        ('t | where service contains "A" | project service', [{"service": "Api"}]),
        ('t | where service startswith "p" or service endswith "zz" | count', [{"Count": 1}]),
        ('t | where service contains "_" | count', [{"Count": 4}]),
        (
            't | where service in ("pay", "Api") | sort by service asc | project service',
            [{"service": "Api"}, {"service": "pay"}],
        ),
        (
            't | where at between (datetime("2026-06-01T08:00:00Z")'
            ' .. datetime("2026-06-01T09:00:00Z")) | count',
            [{"Count": 2}],
        ),
        (
            "t | distinct severity | sort by severity asc",
            [{"severity": "high"}, {"severity": "low"}],
        ),
        ("t | summarize n=count() by label | where n > 1", [{"label": "incident", "n": 3}]),
        (
            't | summarize count(), dcount(service), x=dcountif(service, severity == "low")',
            [{"count": 4, "count_distinct_service": 3, "x": 3}],
        ),
        ("t | summarize n=count() by label | top 1 by n", [{"label": "incident", "n": 3}]),
        (
            't | extend who = strcat(toupper(service), "!") | project service | top 1 by who',
            [{"service": "pay", "who": "PAY!"}],
        ),
        (
            "t | where isnull(body) and not (strlen(service) != 3) | where now() > at | count",
            [{"Count": 4}],
        ),
        (
            't | extend k = iff(severity == "high", 1, 2) | project label | sort by k asc | take 1',
            [{"label": "incident", "k": 1}],
        ),
        (
            "t | project-away at, label, severity, props, body | where service == 'pay'",
            [{"service": "pay"}],
        ),
        ('union withsource=origin t, (t | where severity == "high") | count', [{"Count": 5}]),
    ],
)
async def test_clauses_are_collected(events: Talk, query: str, rows: list[object]):
    assert await events.kql(query) == rows


async def test_time_buckets_are_aligned_to_the_epoch(events: Talk):
    rows = await events.kql("t | summarize n=count() by bin(at, 1h)")
    assert sorted(next(v for k, v in row.items() if k != "n") for row in rows) == [
        f"2026-06-01T{hour:02}:00:00" for hour in (8, 9, 10)
    ]


@pytest.mark.requirement("KYMA-06")
@pytest.mark.parametrize(
    "query",
    [
        "t | join (t) on label", "let x = 1; t", "t | where label !in ('a')", "t | render chart",
        "t | where label has_any ('a')", "t | where label =~ 'A'",
        "t | where label matches regex 'a'",
        "t | parse body with *", "t | mv-expand props", "t | make-series count() on at step 1h",
        "t | evaluate bag_unpack(props)", "t | lookup t on label", "t | project x = label",
        "t | where props.a == 1", 't | where props["a"] == 1', "t | where at > ago(5ms)",
        "t | summarize n=count() by day=bin(at, 1d)", "t | where bin(1, 2) == 1", "t; t",
        "t | summarize percentile(x, 95)", "t | WHERE label == 'a'", "t | extend strlen(label)",
        "t | summarize arg_max(at, *)", "t | where label == datetime(2026-06-01)", "",
        "t | where cosine_distance(a, b) < 1", "t | take 1.5", "t | sample 1",
        "t | graph-var-match (a)-[r]->(b) max-hops 3 project a.id",
    ],
)  # fmt: skip
async def test_what_kymas_kql_lacks_is_refused(events: Talk, query: str):
    code = "empty_query" if not query else "kql_parse_error"
    assert await events.refused(query, "application/x-kql") == (400, code)


@pytest.mark.parametrize(
    "query", ["nope | take 1", "t | where nope == 1", "t | extend x = label | project x"]
)
async def test_names_that_do_not_exist_are_found_when_it_is_planned(events: Talk, query: str):
    assert await events.refused(query, "application/x-kql") == (400, "sql_parse_error")


@pytest.mark.parametrize(
    ("query", "rows"),
    [
        ('e | graph-traverse source "a" from src to dst max-hops 2 | project src, dst, depth'
         " | sort by src asc | sort by dst asc",
         [("a", "b", 1), ("a", "c", 1), ("b", "c", 2), ("c", "d", 2)]),
        ('e | graph-traverse source ("a", "x") from src to dst max-hops 1 edge-type "T"'
         " | project src, dst, depth | sort by src asc", [("a", "c", 1), ("x", "a", 1)]),
        ('e | graph-traverse source "d" from src to dst max-hops 3 direction backward'
         " | project src, dst, depth", []),
        ('e | graph-var-length source "a" from src to dst max-hops 3 | sort by dst asc',
         [("a", "b", 1), ("a", "c", 1), ("a", "d", 2)]),
        ('e | graph-var-length source "a" from src to dst min-hops 2 max-hops 3 direction both'
         " | where dst == \"d\"", [("a", "d", 2)]),
    ],
)  # fmt: skip
async def test_walks_list_what_they_reach(edges: Talk, query: str, rows: list[object]):
    found = await edges.kql(query)
    assert [(row["src"], row["dst"], row["depth"]) for row in found] == rows


async def test_a_shortest_path_has_a_length_or_is_not_found(edges: Talk):
    path = 'e | graph-shortest-path source "x" target "{}" from src to dst max-hops 6'
    assert await edges.kql(path.format("d")) == [{"depth": 3, "found": True}]
    assert await edges.kql(path.format("nobody")) == [{"found": False}]


async def test_patterns_are_plain_joins(edges: Talk):
    graph = "e | make-graph src --> dst with n on id | graph-match "
    two = await edges.kql(
        graph + '(a)-[p]->(b)-[q:T]->(c) project a.id, b.name as via, c.id | where a_id == "a"'
        " | sort by c_id asc"
    )
    assert two == [
        {"a_id": "a", "via": "B", "c_id": "c"},
        {"a_id": "a", "via": "C", "c_id": "d"},
    ]
    optional = await edges.kql(
        graph + "(a)-[p:U]->(b), OPTIONAL (b)-[q:U]->(c) project a.id, q.type, c.id as c"
    )
    assert optional == [{"a_id": "a"}]
    shared = await edges.kql(graph + "(a)-[p:U]->(b), (b)-[q]->(c) project a.id, c.id as c")
    assert shared == [{"a_id": "a", "c": "c"}]
