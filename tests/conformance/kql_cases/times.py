# ruff: noqa: E501  # a query is easier to read in one piece
"""Datetimes, timespans, bins and series."""

from __future__ import annotations

from tests.conformance.kql_cases.fixture import Case

CASES = (
    Case(
        "events | where at between (datetime(2026-06-01T01:00:00Z) .. 1h) | project event_id "
        "| sort by event_id asc",
        (
            ("e03",),
            ("e04",),
        ),
        ordered=True,
    ),
    Case("events | where at > datetime(2026-06-01 04:00) | count", ((2,),)),
    Case(
        "events | top 1 by at "
        "| project format_datetime(at, 'yyyy-MM-dd HH:mm'), startofday(at), dayofweek(at), datetime_diff('minute', datetime(2026-06-01T05:00:00Z), at), datetime(2026-06-01T05:00:00Z) - at",
        (("2026-06-01 04:35", "2026-06-01T00:00:00.000000Z", "1.00:00:00", 25, "00:25:00"),),
    ),
    Case(
        "events | top 1 by at "
        "| project hourofday(at), dayofmonth(at), monthofyear(at), getyear(at), dayofyear(at), week_of_year(at), datetime_part('minute', at)",
        ((4, 1, 6, 2026, 152, 23, 35),),
    ),
    Case(
        "events "
        "| make-series n = count() default = 0, d = avg(duration_ms) on at from datetime(2026-06-01) to datetime(2026-06-01T05:00:00Z) step 1h by label "
        "| sort by label asc",
        (
            (
                "error",
                [1, 1, 1, 1, 0],
                [0.0, 30.0, 60.0, 90.0, 0.0],
                [
                    "2026-06-01T00:00:00.000000Z",
                    "2026-06-01T01:00:00.000000Z",
                    "2026-06-01T02:00:00.000000Z",
                    "2026-06-01T03:00:00.000000Z",
                    "2026-06-01T04:00:00.000000Z",
                ],
            ),
            (
                "request",
                [2, 1, 2, 1, 2],
                [15.0, 40.0, 60.0, 80.0, 105.0],
                [
                    "2026-06-01T00:00:00.000000Z",
                    "2026-06-01T01:00:00.000000Z",
                    "2026-06-01T02:00:00.000000Z",
                    "2026-06-01T03:00:00.000000Z",
                    "2026-06-01T04:00:00.000000Z",
                ],
            ),
        ),
        ordered=True,
    ),
    Case(
        "events | where label == 'error' | make-series avg(duration_ms) default=-1 on at step 1h",
        (
            (
                [0.0, 30.0, 60.0, 90.0],
                [
                    "2026-06-01T00:00:00.000000Z",
                    "2026-06-01T01:00:00.000000Z",
                    "2026-06-01T02:00:00.000000Z",
                    "2026-06-01T03:00:00.000000Z",
                ],
            ),
        ),
    ),
    Case(
        "events "
        "| make-series count() on at in range(datetime(2026-06-01), datetime(2026-06-01T02:00:00Z), 1h) "
        "| project count_",
        (([3, 2, 0],),),
    ),
    Case(
        "print datetime(2026-06-01) + 1h, 90m, 1d / 2, 3 * 1h, 1d / 1h, datetime(2026-01-02) - datetime(2026-01-01), -1h, 1.5h + 30m",
        (
            (
                "2026-06-01T01:00:00.000000Z",
                "01:30:00",
                "12:00:00",
                "03:00:00",
                24.0,
                "1.00:00:00",
                "-01:00:00",
                "02:00:00",
            ),
        ),
    ),
    Case(
        "print datetime_add('month', 1, datetime(2026-01-31)), startofweek(datetime(2026-06-03)), bin(datetime(2026-06-03), 7d), datetime_diff('month', datetime(2026-03-01), datetime(2025-12-31)), endofmonth(datetime(2026-02-03))",
        (
            (
                "2026-02-28T00:00:00.000000Z",
                "2026-05-31T00:00:00.000000Z",
                "2026-06-01T00:00:00.000000Z",
                3,
                "2026-02-28T23:59:59.999999Z",
            ),
        ),
    ),
    Case(
        "print startofmonth(datetime(2026-02-15)), startofyear(datetime(2026-02-15)), endofday(datetime(2026-02-15)), make_datetime(2026, 1, 2), unixtime_seconds_todatetime(0), todatetime('2026-01-01')",
        (
            (
                "2026-02-01T00:00:00.000000Z",
                "2026-01-01T00:00:00.000000Z",
                "2026-02-15T23:59:59.999999Z",
                "2026-01-02T00:00:00.000000Z",
                "1970-01-01T00:00:00.000000Z",
                "2026-01-01T00:00:00.000000Z",
            ),
        ),
    ),
    Case(
        "print tostring(90m), totimespan('1.02:03:04'), bin(95m, 1h), tostring(datetime(2026-06-01)), datetime(null)",
        (("01:30:00", "1.02:03:04", "01:00:00", "2026-06-01T00:00:00.0000000Z", None),),
    ),
    Case("nodes | where first_seen < last_seen | count", ((4,),)),
)
