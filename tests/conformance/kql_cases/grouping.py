# ruff: noqa: E501  # a query is easier to read in one piece
"""summarize, its aggregates and its automatic names."""

from __future__ import annotations

from tests.conformance.kql_cases.fixture import Case

CASES = (
    Case(
        "nodes | summarize count() by labels | sort by labels asc",
        (
            ("Database", 1),
            ("Service", 2),
            ("Team", 1),
        ),
        ordered=True,
    ),
    Case(
        "events | summarize count() by bin(at, 2h), severity | sort by at asc, severity asc",
        (
            ("2026-06-01T00:00:00.000000Z", "error", 2),
            ("2026-06-01T00:00:00.000000Z", "info", 3),
            ("2026-06-01T02:00:00.000000Z", "error", 2),
            ("2026-06-01T02:00:00.000000Z", "info", 3),
            ("2026-06-01T04:00:00.000000Z", "info", 2),
        ),
        ordered=True,
    ),
    Case(
        "events "
        "| summarize n = count(), avg(duration_ms), max(at), min(duration_ms), sum(duration_ms) by label "
        "| sort by label asc",
        (
            ("error", 4, 45.0, "2026-06-01T03:45:00.000000Z", 0.0, 180.0),
            ("request", 8, 60.0, "2026-06-01T04:35:00.000000Z", 10.0, 480.0),
        ),
        ordered=True,
    ),
    Case(
        "events "
        "| summarize countif(duration_ms > 50), sumif(duration_ms, label == 'error'), avgif(duration_ms, severity == 'info'), dcountif(body, duration_ms < 30), maxif(duration_ms, label == 'error')",
        ((6, 180.0, 60.0, 2, 90.0),),
    ),
    Case(
        "events | summarize dcount(props.user.id), make_set(props.user.id), count_distinct(body)",
        ((4, ["u0", "u1", "u2", "u3"], 7),),
    ),
    Case(
        "events | sort by at asc | summarize make_list(event_id, 3) by label | sort by label asc",
        (
            ("error", ["e00", "e03", "e06"]),
            ("request", ["e01", "e02", "e04"]),
        ),
        ordered=True,
    ),
    Case(
        "events | summarize arg_max(at, *) | project event_id, body, props.user.id",
        (("e11", "GET /orders/11", "u3"),),
    ),
    Case(
        "events "
        "| summarize arg_min(duration_ms, body, event_id), latest = arg_max(at, event_id) by label "
        "| sort by label asc",
        (
            ("error", 0.0, "POST /pay", "e00", "2026-06-01T03:45:00.000000Z", "e09"),
            ("request", 10.0, "GET /orders/1", "e01", "2026-06-01T04:35:00.000000Z", "e11"),
        ),
        ordered=True,
    ),
    Case(
        "edges "
        "| summarize take_any(type), stdev(props.weight), variance(props.weight), n = count() / 2.0, half = sum(props.weight) / count() by realm "
        "| sort by realm asc",
        (
            ("crm", "OWNS", 0.0, 0.0, 1.0, 1.0),
            (
                "development",
                "CALLS",
                1.5275252316519465,
                2.333333333333333,
                1.5,
                3.3333333333333335,
            ),
        ),
        ordered=True,
    ),
    Case(
        "nodes | summarize avg(props.tier), sum(props.tier), min(props.tier), max(props.tier)",
        ((1.3333333333333333, 4.0, 1.0, 2.0),),
    ),
    Case(
        "nodes | summarize x = count() by y = tolower(labels), tostring(props.tier) "
        "| sort by y asc, props_tier asc",
        (
            ("database", "1", 1),
            ("service", "1", 1),
            ("service", "2", 1),
            ("team", "", 1),
        ),
        ordered=True,
    ),
    Case(
        "events | where label == 'nothing' "
        "| summarize count(), sum(duration_ms), max(duration_ms), make_list(body)",
        ((0, 0.0, None, []),),
    ),
    Case("events | where label == 'nothing' | summarize count() by label", ()),
    Case(
        "events | summarize by label, severity | sort by label asc",
        (
            ("error", "error"),
            ("request", "info"),
        ),
        ordered=True,
    ),
    Case(
        "events | summarize percentile(duration_ms, 0), p = percentile(duration_ms, 100)",
        ((0.0, 110.0),),
    ),
    Case("events | summarize percentiles(duration_ms, 0, 100)", ((0.0, 110.0),)),
    Case("events | summarize n = count() by label | where n > 5 | project label", (("request",),)),
    Case(
        "events | summarize n = count() by label "
        "| summarize total = sum(n), labels = make_set(label)",
        ((12, ["error", "request"]),),
    ),
    Case(
        "events "
        "| summarize make_list_if(event_id, duration_ms > 90), make_set_if(severity, duration_ms > 90)",
        ((["e10", "e11"], ["info"]),),
    ),
    Case(
        "nodes | summarize count(), dcount(labels) by realm | sort by count_ desc",
        (
            ("development", 3, 2),
            ("crm", 1, 1),
        ),
        ordered=True,
    ),
)
