# ruff: noqa: E501  # a query is easier to read in one piece
"""Properties, texts, numbers, lists and times."""

from __future__ import annotations

from tests.conformance.kql_cases.fixture import Case

CASES = (
    Case(
        "select name, props ->> 'lang' as lang, props -> 'owner' ->> 'team' team, json_get_int(props, 'tier') tier "
        "from context_nodes n where labels = 'Service' order by name",
        (
            ("Billing worker", "Go", "money", 2),
            ("Checkout API", "python", "core", 1),
        ),
        ordered=True,
    ),
    Case(
        "select props from nodes where name = 'orders-db'",
        (({"tier": 1, "engine": "postgres", "tags": []},),),
    ),
    Case(
        "select name from nodes where props -> 'tier' = 1 and props ->> 'lang' = 'python'",
        (("Checkout API",),),
    ),
    Case("select name from nodes where props -> 'tags' ->> 0 = 'web'", (("Checkout API",),)),
    Case(
        "select label_set, props -> 'tags' as tags, (props -> 'tags') -> 0 from nodes "
        "order by name",
        (
            (["Service"], ["pay"], "pay"),
            (["Service", "Backend"], ["web", "pay"], "web"),
            (["Team"], None, None),
            (["Database"], [], None),
        ),
        ordered=True,
    ),
    Case(
        "select name, props -> 'nothing', json_contains(props, 'lang'), json_get_str(props, 'owner', 'team') "
        "from nodes order by props -> 'tier' desc nulls last, name",
        (
            ("Billing worker", None, True, "money"),
            ("Checkout API", None, True, "core"),
            ("orders-db", None, False, None),
            ("Core team", None, False, None),
        ),
        ordered=True,
    ),
    Case(
        "select sum((props ->> 'status')::bigint), count(distinct props -> 'user' ->> 'id'), max(cast(props -> 'status' as bigint)) "
        "from events",
        ((3600, 4, 500),),
    ),
    Case(
        "select name, unnest(label_set) as l from nodes where array_has(label_set, 'Backend') "
        "order by l",
        (
            ("Checkout API", "Backend"),
            ("Checkout API", "Service"),
        ),
        ordered=True,
    ),
    Case(
        "select coalesce(props ->> 'lang', 'none') lang, upper(substring(name "
        "from 1 for 3)) || '-' || trim(both 'x' from 'xax') || position('e' in name) s "
        "from nodes order by name",
        (
            ("Go", "BIL-a13"),
            ("python", "CHE-a3"),
            ("none", "COR-a4"),
            ("none", "ORD-a4"),
        ),
        ordered=True,
    ),
    Case(
        "select name from nodes "
        "where name ~ '^[A-Z]' and name !~ 'x' and not name like 'Core%' and name not in ('x') "
        "order by name",
        (
            ("Billing worker",),
            ("Checkout API",),
        ),
        ordered=True,
    ),
    Case(
        "select event_id, at, at - interval '1 hour' b, extract(hour "
        "from at) h, cast(duration_ms as bigint) d, to_char(at, '%H:%M') t from events "
        "where at between timestamp '2026-06-01T00:20:00' and '2026-06-01T01:00:00' "
        "order by at",
        (
            ("e01", "2026-06-01T00:25:00.000000Z", "2026-05-31T23:25:00.000000Z", 0, 10, "00:25"),
            ("e02", "2026-06-01T00:50:00.000000Z", "2026-05-31T23:50:00.000000Z", 0, 20, "00:50"),
        ),
        ordered=True,
    ),
    Case(
        "select 1 / 0 a, 7 % 4 b, -3 c, 1.5e2 d, null e, true f, 'it''s' g, 7 / 2 h, 2 + 3 * 4 i",
        ((None, 3, -3, 150.0, None, True, "it's", 3, 14),),
    ),
    Case(
        "select least(1, 2) a, greatest(1, 2.5) b, round(2.567, 1) c, array_to_string(array[1, 2, 3], '-') d, cardinality(string_to_array('a,b', ',')) e, nullif(1, 1) f",
        ((1, 2.5, 2.6, "1-2-3", 2, None),),
    ),
    Case(
        "select case when props -> 'tier' = 1 then 'one' when props -> 'tier' = 2 then 'two' else 'other' end as t, case labels when 'Team' then 1 else 0 end x "
        "from nodes order by t, x",
        (
            ("one", 0),
            ("one", 0),
            ("other", 1),
            ("two", 0),
        ),
        ordered=True,
    ),
    Case(
        "select name from nodes "
        "where name = :who and cast(props ->> 'tier' as bigint) in (:tiers) limit $most",
        (("orders-db",),),
        params={"who": "orders-db", "tiers": [1, 2], "most": 1},
    ),
    Case(
        "select count(*) from nodes where name = :who or name = $who",
        ((0,),),
        params={"who": "x' or '1'='1"},
    ),
    Case(
        "select make_array(1, 2) a, string_to_array('a,b', ',') b, regexp_match('ab12', '([a-z]+)([0-9]+)') c",
        (([1, 2], ["a", "b"], ["ab", "12"]),),
    ),
)
