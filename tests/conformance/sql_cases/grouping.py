# ruff: noqa: E501  # a query is easier to read in one piece
"""Aggregates and windows."""

from __future__ import annotations

from tests.conformance.kql_cases.fixture import Case

CASES = (
    Case(
        "select date_trunc('hour', at) as h, severity, count(*) n, avg(duration_ms) "
        "from events where severity = 'error' group by 1, 2 order by h",
        (
            ("2026-06-01T00:00:00.000000Z", "error", 1, 0.0),
            ("2026-06-01T01:00:00.000000Z", "error", 1, 30.0),
            ("2026-06-01T02:00:00.000000Z", "error", 1, 60.0),
            ("2026-06-01T03:00:00.000000Z", "error", 1, 90.0),
        ),
        ordered=True,
    ),
    Case(
        "select label, count(*) filter (where duration_ms > 50) slow, array_agg(event_id "
        "order by at) ids, string_agg(body, ',' order by at) from events "
        "where duration_ms < 40 group by label order by label",
        (
            ("error", 0, ["e00", "e03"], "POST /pay,GET /orders/3"),
            ("request", 0, ["e01", "e02"], "GET /orders/1,POST /pay"),
        ),
        ordered=True,
    ),
    Case(
        "select labels as l, count(*) from nodes group by l order by l",
        (
            ("Database", 1),
            ("Service", 2),
            ("Team", 1),
        ),
        ordered=True,
    ),
    Case(
        "select type, count(*) c from edges group by type order by c desc, type",
        (
            ("OWNS", 2),
            ("READS", 2),
            ("CALLS", 1),
        ),
        ordered=True,
    ),
    Case(
        "select approx_percentile_cont(duration_ms, 0.5) > 50 p, stddev(duration_ms) > 36 s, count(service) c "
        "from events",
        ((True, True, 6),),
    ),
    Case(
        "select name, row_number() over (partition by labels "
        "order by name desc) rn, lag(name) over (order by name) before, count(*) over () n "
        "from nodes order by name",
        (
            ("Billing worker", 2, None, 4),
            ("Checkout API", 1, "Billing worker", 4),
            ("Core team", 1, "Checkout API", 4),
            ("orders-db", 1, "Core team", 4),
        ),
        ordered=True,
    ),
    Case(
        "select n, sum(n) over (order by n, type rows between 1 preceding and current row) s "
        "from (select type, count(*) n from edges group by type) x order by n, s",
        (
            (1, 1),
            (2, 3),
            (2, 4),
        ),
        ordered=True,
    ),
    Case(
        "select name from (select name, row_number() over (order by last_seen desc, name) rn "
        "from nodes) x where rn = 1",
        (("Billing worker",),),
    ),
    Case(
        "select name from nodes "
        "where name not like 'Core%' and name not ilike 'ORDERS%' and props ->> 'lang' is not null and name !~ 'x' and name not in ('y') and name not between 'a' and 'b' "
        "order by name",
        (
            ("Billing worker",),
            ("Checkout API",),
        ),
        ordered=True,
    ),
    Case(
        "select name from nodes where (props -> 'tier' = 1) is not true order by name",
        (
            ("Billing worker",),
            ("Core team",),
        ),
        ordered=True,
    ),
    Case(
        "select labels, count(*) as n from nodes group by labels having n > 1 order by n * -1",
        (("Service", 2),),
    ),
    Case(
        "select string_agg(distinct label, ',' order by label) x from events", (("error,request",),)
    ),
    Case(
        "select array_agg(distinct severity order by severity) s from events",
        ((["error", "info"],),),
    ),
    Case(
        "select labels, count(*) from nodes group by labels order by count(*) desc, labels limit 1",
        (("Service", 2),),
    ),
    Case(
        "select distinct name from nodes order by length(name), name limit 2",
        (
            ("Core team",),
            ("orders-db",),
        ),
        ordered=True,
    ),
    Case(
        "select date_bin(interval '2 hours', at) b, count(*) from events group by b order by b",
        (
            ("2026-06-01T00:00:00.000000Z", 5),
            ("2026-06-01T02:00:00.000000Z", 5),
            ("2026-06-01T04:00:00.000000Z", 2),
        ),
        ordered=True,
    ),
    Case(
        "select count(*) filter (where severity = 'error') * 100.0 / count(*) share from events",
        ((33.333333333333336,),),
    ),
    Case(
        "select name, rank() over (order by (props ->> 'tier')::int desc nulls last) r "
        "from nodes order by r, name",
        (
            ("Billing worker", 1),
            ("Checkout API", 2),
            ("orders-db", 2),
            ("Core team", 4),
        ),
        ordered=True,
    ),
)
