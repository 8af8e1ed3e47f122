# ruff: noqa: E501  # a query is easier to read in one piece
"""Dotted and bracketed paths into properties."""

from __future__ import annotations

from tests.conformance.kql_cases.fixture import Case

CASES = (
    Case(
        "nodes | where props.owner.team == 'core' and props.owner.since > 2000 | project name",
        (("Checkout API",),),
    ),
    Case(
        "nodes | where props['owner']['team'] == 'money' | project name, props.owner",
        (("Billing worker", {"team": "money"}),),
    ),
    Case(
        "nodes | extend o = props.owner | where isnotnull(o) | project name, o.team "
        "| sort by name asc",
        (
            ("Billing worker", "money"),
            ("Checkout API", "core"),
        ),
        ordered=True,
    ),
    Case(
        "nodes | project name, props.tags, first = props.tags[0], last = props.tags[-1] "
        "| sort by name asc",
        (
            ("Billing worker", ["pay"], "pay", "pay"),
            ("Checkout API", ["web", "pay"], "web", "pay"),
            ("Core team", None, None, None),
            ("orders-db", [], None, None),
        ),
        ordered=True,
    ),
    Case("nodes | where 'web' in (props.tags) | project name", (("Checkout API",),)),
    Case(
        "nodes | where props.tags has 'pay' | project name | sort by name asc",
        (
            ("Billing worker",),
            ("Checkout API",),
        ),
        ordered=True,
    ),
    Case("nodes | where isnull(props.nothing) and isempty(props.nothing) | count", ((4,),)),
    Case(
        "nodes "
        "| project name, gettype(props.tier), gettype(props.tags), gettype(props.owner), gettype(props.nothing) "
        "| sort by name asc | take 2",
        (
            ("Billing worker", "double", "array", "dictionary", "null"),
            ("Checkout API", "double", "array", "dictionary", "null"),
        ),
        ordered=True,
    ),
    Case(
        "nodes | where name == 'orders-db' | project props",
        (({"tier": 1, "engine": "postgres", "tags": []},),),
    ),
    Case(
        "nodes | where tostring(props.tier) == '2' "
        "| project t = tolong(props.tier) + 1, d = todouble(props.tier) / 4, s = strcat('tier ', props.tier)",
        ((3, 0.5, "tier 2"),),
    ),
    Case(
        "nodes | where parse_json(props).lang == 'Go' | project todynamic(props).lang", (("Go",),)
    ),
    Case("events | where props.status >= 500 | summarize dcount(props.user.id)", ((4,),)),
    Case("nodes | where label_set has 'backend' | project label_set", ((["Service", "Backend"],),)),
    Case(
        'print parse_json(\'{"a": {"b": [1, 2]}}\').a.b[1], todynamic(\'[1, "x"]\')[1], dynamic({"k": [true, null]})',
        ((2, "x", {"k": [True, None]}),),
    ),
)
