# ruff: noqa: E501  # a query is easier to read in one piece
"""Arithmetic, conversions and choices."""

from __future__ import annotations

from tests.conformance.kql_cases.fixture import Case

CASES = (
    Case(
        "nodes | where name == 'Checkout API' | project props.cost * 2, props.cost+props.tier, props.tier*3",
        ((3.0, 2.5, 3.0),),
    ),
    Case(
        "print l = dynamic([1, 2, 3]), i = 1 | project l[i * 2], l[i*1], i between (i *1 .. i* 5)",
        ((3, 2, True),),
    ),
    Case(
        "nodes | summarize n = count() | extend share = n * 100.0 / toscalar(nodes | count) | project share",
        ((100.0,),),
    ),
    Case(
        "print 7 / 2, 7 / 2.0, 7 % 3, -7 / 2, 1 / 0, 1.0 / 0, 2 * 3 + 4, 2 * (3 + 4), 1 - -1",
        ((3, 3.5, 1, -3, None, None, 10, 14, 2),),
    ),
    Case(
        "print max_of(1, 2.5), min_of(3, 4), round(2.567, 1), sqrt(16), sqrt(-1), pow(2, 10), abs(-3), sign(-2.5), log(1), floor(7, 2), ceiling(1.2), bin(17, 5), bin(-3, 5), bin(2.7, 0.5)",
        ((2.5, 3, 2.6, 4.0, None, 1024.0, 3, -1, 0.0, 6, 2, 15, -5, 2.5),),
    ),
    Case(
        "print tobool('true'), toint('x'), todouble('1.5'), tostring(true), int(5), long(null), real(1), tolong('12.7'), tobool(0)",
        ((True, None, 1.5, "true", 5, None, 1.0, 12, False),),
    ),
    Case(
        "print iff(true, 1, 2.5), case(false, 'a', true, 'b', 'c'), coalesce(int(null), 7), isnull(int(null)), not(true), true and not(false)",
        ((1.0, "b", 7, True, False, True),),
    ),
    Case(
        "nodes "
        "| project x = iff(props.tier == 1, 'one', 'other'), y = case(props.tier == 1, 1, props.tier == 2, 2, 0), coalesce(props.lang, 'none') "
        "| sort by x asc, y asc, Column1 asc",
        (
            ("one", 1, "none"),
            ("one", 1, "python"),
            ("other", 0, "none"),
            ("other", 2, "Go"),
        ),
        ordered=True,
    ),
    Case(
        "print 14 % 12, -14 % 12, 14 % -12, -14 % -12, -7.5 % 2, 5 % 0",
        ((2, 10, 2, 10, 0.5, None),),
    ),
    Case(
        "range x from -2 to 2 step 1 | project x % 3, x % -3, bin(x, 3)",
        ((1, 1, -3), (2, 2, -3), (0, 0, 0), (1, 1, 0), (2, 2, 0)),
    ),
    Case(
        "datatable(v:int)[5, int(null)] | project a = v > 3, b = v > 3 or isnull(v), c = v == int(null), d = v > 3 and true, e = bool(null) or false",
        ((True, True, False, True, False), (None, True, None, False, False)),
    ),
    Case(
        "print tostring(long(null)), strlen(tostring(dynamic(null))), isnull(tostring(long(null))), coalesce(tostring(long(null)), 'none'), extract('x=([0-9]+)', 1, 'x=45', typeof(long)) + 1",
        (("", 0, False, "none", 46),),
    ),
    Case(
        "datatable(x:real)[] | summarize stdev(x), variance(x), avg(x), sum(x), make_list(x)",
        ((0.0, 0.0, None, 0.0, []),),
    ),
    Case(
        "print 1 < 2, 'a' < 'b', 1 == 1.0, datetime(2026-01-01) < datetime(2026-01-02), 1h > 1m",
        ((True, True, True, True, True),),
    ),
)
