# ruff: noqa: E501  # a query is easier to read in one piece
"""Text operators with Kusto's rules of letter case and terms, and text functions."""

from __future__ import annotations

from tests.conformance.kql_cases.fixture import Case

CASES = (
    Case("nodes | where name has 'api' | project name", (("Checkout API",),)),
    Case("nodes | where name has 'check' | count", ((0,),)),
    Case("nodes | where name hasprefix 'check' | project name", (("Checkout API",),)),
    Case("nodes | where name hassuffix 'ing' | project name", (("Billing worker",),)),
    Case(
        "nodes | where name has_cs 'API' and name !has_cs 'api' | project name",
        (("Checkout API",),),
    ),
    Case(
        "nodes | where name contains 'CORE' or name contains_cs 'Bill' | project name "
        "| sort by name asc",
        (
            ("Billing worker",),
            ("Core team",),
        ),
        ordered=True,
    ),
    Case("nodes | where name !contains 'e' | project name", ()),
    Case(
        "nodes | where name startswith 'CORE' or name endswith_cs '-db' | project name "
        "| sort by name asc",
        (
            ("Core team",),
            ("orders-db",),
        ),
        ordered=True,
    ),
    Case(
        "nodes | where name !startswith 'c' | project name | sort by name asc",
        (
            ("Billing worker",),
            ("orders-db",),
        ),
        ordered=True,
    ),
    Case("nodes | where name =~ 'CORE TEAM' and name !~ 'x' | project name", (("Core team",),)),
    Case(
        "nodes | where name has_any ('core', 'billing') | project name | sort by name asc",
        (
            ("Billing worker",),
            ("Core team",),
        ),
        ordered=True,
    ),
    Case("nodes | where name has_all ('api', 'checkout') | project name", (("Checkout API",),)),
    Case("nodes | where name matches regex @'^[A-Z]\\w+ \\w+$' | count", ((3,),)),
    Case(
        'nodes | where props.quote == "it\'s \\"so\\" 100%_\\\\" | project name',
        (("Billing worker",),),
    ),
    Case("nodes | where props.quote contains '100%_' | project name", (("Billing worker",),)),
    Case(
        "nodes | where props.lang =~ 'PYTHON' or props.lang == 'Go' "
        "| project name, up = toupper(tostring(props.lang)), strlen(name) | sort by name asc",
        (
            ("Billing worker", "GO", 14),
            ("Checkout API", "PYTHON", 12),
        ),
        ordered=True,
    ),
    Case(
        "nodes | where name == 'orders-db' "
        "| project split(name, '-'), part = split(name, '-')[1], extract('([a-z]+)-', 1, name), indexof(name, 'db'), replace_string(name, '-', '_'), replace_regex(name, '([a-z]+)-(.*)', @'\\2-\\1')",
        ((["orders", "db"], "db", "orders", 7, "orders_db", "db-orders"),),
    ),
    Case(
        "print substring('hello', 1, 3), reverse('abc'), trim(' +', '  x '), countof('banana', 'an'), strcmp('a', 'b'), strcat_delim('-', 'a', 'b'), toupper('x'), strlen('äöü'), strcat('a', 1, true)",
        (("ell", "cba", "x", 2, -1, "a-b", "X", 3, "a1true"),),
    ),
    Case(
        "print isempty(''), isnotempty('x'), strcat('x', string(null), 'y'), tolower('ÄB'), strrep('ab', 2), trim_start('0+', '007'), trim_end('!', 'hey!')",
        ((True, True, "xy", "äb", "abab", "7", "hey"),),
    ),
    Case(
        "print 'a' in ('a', 'b'), 'A' in~ ('a'), 3 !in (1, 2), 'abc' has 'b', 'a-b' has 'b'",
        ((True, True, True, False, True),),
    ),
)
