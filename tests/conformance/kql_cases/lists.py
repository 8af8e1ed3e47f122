# ruff: noqa: E501  # a query is easier to read in one piece
"""mv-expand and lists."""

from __future__ import annotations

from tests.conformance.kql_cases.fixture import Case

CASES = (
    Case(
        "events | mv-expand code = props.codes to typeof(long) | summarize sum(code) by label "
        "| sort by label asc",
        (
            ("error", 40),
            ("request", 104),
        ),
        ordered=True,
    ),
    Case(
        "nodes | mv-expand with_itemindex=i tag = props.tags | project name, i, tag "
        "| sort by name asc, i asc",
        (
            ("Billing worker", 0, "pay"),
            ("Checkout API", 0, "web"),
            ("Checkout API", 1, "pay"),
            ("Core team", 0, None),
        ),
        ordered=True,
    ),
    Case(
        "nodes | where labels == 'Service' | mv-expand props.tags | project name, props_tags "
        "| sort by name asc, tostring(props_tags) asc",
        (
            ("Billing worker", "pay"),
            ("Checkout API", "pay"),
            ("Checkout API", "web"),
        ),
        ordered=True,
    ),
    Case(
        "nodes | mv-expand k = props.nothing, j = props.tags | project name, k, j "
        "| sort by name asc, tostring(j) asc",
        (
            ("Billing worker", None, "pay"),
            ("Checkout API", None, "pay"),
            ("Checkout API", None, "web"),
            ("Core team", None, None),
            ("orders-db", None, None),
        ),
        ordered=True,
    ),
    Case(
        "print l = dynamic([1, 2, 3]) | mv-expand l to typeof(long) limit 2 | summarize sum(l)",
        ((3,),),
    ),
    Case(
        "print pack_array(1, 'a', true), range(1, 5), set_has_element(dynamic([1, 2]), 2), array_index_of(dynamic(['a', 'b']), 'b'), array_length(dynamic([]))",
        (([1, "a", True], [1, 2, 3, 4, 5], True, 1, 0),),
    ),
    Case(
        "nodes | extend n = array_length(props.tags) | project name, n | sort by name asc",
        (
            ("Billing worker", 1),
            ("Checkout API", 2),
            ("Core team", None),
            ("orders-db", 0),
        ),
        ordered=True,
    ),
    Case(
        'print tostring(dynamic(["a", 1, true])), tostring(dynamic({"a": 1}))',
        (('["a",1,true]', '{"a":1}'),),
    ),
    Case(
        "events | summarize ids = make_list(event_id) by label "
        "| mv-expand ids to typeof(string) | count",
        ((12,),),
    ),
)
