# ruff: noqa: E501  # a query is easier to read in one piece
# a query is easier to read in one piece
"""Filters, columns, order and limits."""

from __future__ import annotations

from tests.conformance.kql_cases.fixture import Case

CASES = (
    Case("events | where duration_ms > 50 | count", ((6,),)),
    Case(
        "events | where duration_ms == 100 or duration_ms < 10 | project event_id | sort by event_id asc",
        (("e00",), ("e10",)),
        ordered=True,
    ),
    Case("nodes | count", ((4,),)),
    Case(
        "context_nodes | where labels == 'Service' | project name, tier = props.tier "
        "| sort by name asc",
        (
            ("Billing worker", 2),
            ("Checkout API", 1),
        ),
        ordered=True,
    ),
    Case("nodes | where name in~ ('ORDERS-DB', 'nothing') | project name", (("orders-db",),)),
    Case(
        "nodes | where name !in ('orders-db', 'Core team') | project name",
        (
            ("Billing worker",),
            ("Checkout API",),
        ),
    ),
    Case(
        "nodes | where props.tier in (1, 2) and name != 'orders-db' | distinct labels",
        (("Service",),),
    ),
    Case("nodes | where props.cost != 5 | count", ((4,),)),
    Case(
        "nodes | where not(props.tier == 1) | project name | sort by name asc",
        (
            ("Billing worker",),
            ("Core team",),
        ),
        ordered=True,
    ),
    Case(
        "nodes | where props.tier between (1 .. 1) | project name | sort by name asc",
        (
            ("Checkout API",),
            ("orders-db",),
        ),
        ordered=True,
    ),
    Case(
        "nodes | where props.tier !between (1 .. 1) | project name",
        (
            ("Billing worker",),
            ("Core team",),
        ),
    ),
    Case("events | where service != 'api' and severity == 'error' | count", ((2,),)),
    Case("nodes | extend x = 1 | extend x = x + 1, y = x | project x, y | take 1", ((2, 1),)),
    Case(
        "nodes | project n = name, name | project-rename m = n | where m == name | count", ((4,),)
    ),
    Case(
        "nodes | project-away props, *_seen, archived_at, content_hash, *_id, id, label_set "
        "| sort by name asc | take 2",
        (
            ("Service", "Billing worker", "development", "demo"),
            ("Service", "Checkout API", "development", "demo"),
        ),
        ordered=True,
    ),
    Case(
        "nodes | project-keep name, realm | project-reorder realm | sort by name asc | take 1",
        (("development", "Billing worker"),),
    ),
    Case(
        "nodes | sort by tolong(props.tier) desc nulls first, name asc | project name, props.tier",
        (
            ("Core team", None),
            ("Billing worker", 2),
            ("Checkout API", 1),
            ("orders-db", 1),
        ),
        ordered=True,
    ),
    Case(
        "nodes | sort by props.tier, name asc | project name, props.tier",
        (
            ("Billing worker", 2),
            ("Checkout API", 1),
            ("orders-db", 1),
            ("Core team", None),
        ),
        ordered=True,
    ),
    Case(
        "nodes | top 2 by name asc | project name | sort by name desc",
        (
            ("Checkout API",),
            ("Billing worker",),
        ),
        ordered=True,
    ),
    Case("nodes | sort by name asc | take 1 | where name == 'Core team' | count", ((0,),)),
    Case(
        "nodes | distinct realm, labels | sort by labels asc, realm asc",
        (
            ("development", "Database"),
            ("development", "Service"),
            ("crm", "Team"),
        ),
        ordered=True,
    ),
    Case("nodes | take 2 | count", ((2,),)),
    Case(
        "nodes | project ['my name'] = name | where ['my name'] == 'orders-db'", (("orders-db",),)
    ),
    Case("nodes | where archived_at > datetime(2020-01-01) | count", ((0,),)),
    Case(
        "edges | where props.weight > 2 | project type, props.weight | sort by type asc",
        (
            ("CALLS", 3),
            ("READS", 5),
        ),
        ordered=True,
    ),
    Case(
        "nodes | sort by name asc | serialize n = row_number() "
        "| project n, name, prev(name), next(name, 1, 'end')",
        (
            (1, "Billing worker", None, "Checkout API"),
            (2, "Checkout API", "Billing worker", "Core team"),
            (3, "Core team", "Checkout API", "orders-db"),
            (4, "orders-db", "Core team", "end"),
        ),
        ordered=True,
    ),
    Case(
        "events | sort by at asc | extend total = row_cumsum(duration_ms) | where total > 400 "
        "| project event_id, total",
        (
            ("e09", 450.0),
            ("e10", 550.0),
            ("e11", 660.0),
        ),
        ordered=True,
    ),
    Case("nodes | distinct id | take 2 | count", ((2,),)),
    Case(
        "nodes | summarize max(name) by id | top 2 by max_name | project max_name",
        (
            ("Core team",),
            ("orders-db",),
        ),
    ),
    Case(
        "nodes | top 2 by name asc | where name != 'Billing worker' | project name",
        (("Checkout API",),),
    ),
    Case(
        "edges | join kind=inner (nodes | top 1 by name asc) on $left.src == $right.id "
        "| project type",
        (("READS",),),
    ),
    Case(
        "nodes | sort by name asc | take 3 | extend n = row_number(), after = next(name) "
        "| take 2 | project name, n, after",
        (
            ("Billing worker", 1, "Checkout API"),
            ("Checkout API", 2, "Core team"),
        ),
        ordered=True,
    ),
    Case("print tier = 1 | extend double = tier * 2", ((1, 2),)),
)
