# ruff: noqa: E501  # a query is easier to read in one piece
"""join of every kind, lookup, union, let."""

from __future__ import annotations

from tests.conformance.kql_cases.fixture import Case

CASES = (
    Case(
        "edges | join kind=inner (nodes | project id, name) on $left.src == $right.id "
        "| join kind=leftouter (nodes | project id, other = name) on $left.dst == $right.id "
        "| project name, type, other, props.weight | sort by name asc, other asc",
        (
            ("Billing worker", "READS", "orders-db", 2),
            ("Checkout API", "CALLS", "Billing worker", 3),
            ("Checkout API", "READS", "orders-db", 5),
            ("Core team", "OWNS", "Billing worker", 1),
            ("Core team", "OWNS", "Checkout API", 1),
        ),
        ordered=True,
    ),
    Case(
        "nodes | join kind=leftanti edges on $left.id == $right.src | project name",
        (("orders-db",),),
    ),
    Case(
        "nodes | join kind=leftsemi edges on $left.id == $right.src | project name "
        "| sort by name asc",
        (
            ("Billing worker",),
            ("Checkout API",),
            ("Core team",),
        ),
        ordered=True,
    ),
    Case(
        "nodes | join kind=rightouter (edges "
        "| where type == 'OWNS') on $left.id == $right.dst | project name, type "
        "| sort by name asc",
        (
            ("Billing worker", "OWNS"),
            ("Checkout API", "OWNS"),
        ),
        ordered=True,
    ),
    Case(
        "nodes | join kind=rightanti (datatable(id:string, z:long)['x', 1]) on id | project id, z",
        (("x", 1),),
    ),
    Case(
        "nodes | join kind=fullouter (datatable(id:string, z:long)['x', 1]) on id "
        "| project name, id1, z | sort by name asc | take 1",
        ((None, "x", 1),),
    ),
    Case("edges | join (edges) on src | count", ((5,),)),
    Case("edges | join kind=inner (edges) on src | count", ((9,),)),
    Case(
        "edges | project src, type | join kind=inner (edges | project src, type) on src, type "
        "| count",
        ((7,),),
    ),
    Case(
        "nodes | lookup (edges | summarize out = count() by src) on $left.id == $right.src "
        "| project name, out | sort by name asc",
        (
            ("Billing worker", 1),
            ("Checkout API", 2),
            ("Core team", 2),
            ("orders-db", None),
        ),
        ordered=True,
    ),
    Case(
        "union withsource=T (nodes | project name), (edges | project name = type) "
        "| summarize count() by T | sort by count_ asc",
        (
            ("nodes", 4),
            ("edges", 5),
        ),
        ordered=True,
    ),
    Case(
        "nodes | union edges | summarize count() by realm | sort by realm asc",
        (
            ("crm", 3),
            ("development", 6),
        ),
        ordered=True,
    ),
    Case(
        "union kind=inner (nodes | project name, realm), (edges | project realm, type) "
        "| distinct realm | sort by realm asc",
        (
            ("crm",),
            ("development",),
        ),
        ordered=True,
    ),
    Case(
        "union (nodes | project name, props), (edges | project type, props) "
        "| where props.weight == 5 or props.tier == 2 | project name, type",
        (
            ("Billing worker", None),
            (None, "READS"),
        ),
    ),
    Case(
        "let big = 2; let svc = nodes | where labels == 'Service'; svc "
        "| where props.tier >= big | project name",
        (("Billing worker",),),
    ),
    Case(
        "let ids = edges | distinct src; nodes | where id !in (ids) | project name",
        (("orders-db",),),
    ),
    Case("let n = toscalar(nodes | count); print n, n * 2", ((4, 8),)),
    Case(
        "let services = materialize(nodes | where labels == 'Service'); services "
        "| join kind=inner services on id | count",
        ((2,),),
    ),
    Case(
        "declare query_parameters(who:string, most:long = 5); nodes | where name == who "
        "| take most | project name",
        (("orders-db",),),
        params={"who": "orders-db", "most": 1},
    ),
    Case(
        "declare query_parameters(who:string); nodes | where name == who | count",
        ((0,),),
        params={"who": "x' or 1==1 //"},
    ),
    Case(
        "nodes | where id in (edges | where type == 'CALLS' | project src) | project name",
        (("Checkout API",),),
    ),
    Case(
        "datatable(a:string, b:long, c:datetime)['x', 1, datetime(2026-01-01), 'y', -2, datetime(null)] "
        "| where b < 0",
        (("y", -2, None),),
    ),
    Case(
        "range x from 1 to 5 step 2 | extend y = x * 2.0, z = x / 2",
        (
            (1, 2.0, 0),
            (3, 6.0, 1),
            (5, 10.0, 2),
        ),
    ),
)
