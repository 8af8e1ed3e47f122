# a query is easier to read in one piece
"""SELECT, joins, WITH, set operations, sub-queries."""

from __future__ import annotations

from tests.conformance.kql_cases.fixture import Case

CASES = (
    Case("select count(*) from context_nodes", ((4,),)),
    Case(
        "select name, realm from nodes order by name limit 2 offset 1",
        (
            ("Checkout API", "development"),
            ("Core team", "crm"),
        ),
        ordered=True,
    ),
    Case(
        "select n.name, e.type, m.name as other, e.props ->> 'weight' w from context_edges e "
        "join context_nodes n on n.id = e.src left join context_nodes m on m.id = e.dst "
        "where n.name ilike '%team%' order by 1, 3",
        (
            ("Core team", "OWNS", "Billing worker", "1"),
            ("Core team", "OWNS", "Checkout API", "1"),
        ),
        ordered=True,
    ),
    Case(
        "with svc as (select id, name, props from context_nodes "
        "where labels = 'Service'), c as (select src, count(*) as n from context_edges "
        "group by src) select s.name, s.props ->> 'lang' l, c.n from svc s left "
        "join c on c.src = s.id order by s.name",
        (
            ("Billing worker", "Go", 1),
            ("Checkout API", "python", 2),
        ),
        ordered=True,
    ),
    Case("with nodes as (select 'mine' as name) select name from nodes", (("mine",),)),
    Case(
        "with t(a, b) as (select name, props from nodes) select a from t where a like 'Core%'",
        (("Core team",),),
    ),
    Case(
        "with recursive walk as (select src, dst, 1 as depth from edges where type = 'OWNS' "
        "union all select w.src, e.dst, w.depth + 1 from walk w join edges e on e.src = w.dst "
        "where w.depth < 4) select depth, count(*) from walk group by depth order by depth",
        (
            (1, 2),
            (2, 3),
            (3, 1),
        ),
        ordered=True,
    ),
    Case(
        "select labels from nodes union select type from edges order by labels desc limit 3",
        (
            ("Team",),
            ("Service",),
            ("READS",),
        ),
        ordered=True,
    ),
    Case("select labels from nodes intersect select 'Team'", (("Team",),)),
    Case(
        "select name from nodes except select name from nodes where labels = 'Service' "
        "order by name",
        (
            ("Core team",),
            ("orders-db",),
        ),
        ordered=True,
    ),
    Case(
        "(select name from nodes order by name limit 1) union all (select type from edges "
        "order by type limit 1) order by name",
        (
            ("Billing worker",),
            ("CALLS",),
        ),
        ordered=True,
    ),
    Case(
        "select name from nodes where id in (select dst from edges where type = 'READS')",
        (("orders-db",),),
    ),
    Case(
        "select name from nodes n where exists (select 1 from edges e "
        "where e.src = n.id and e.type = 'OWNS')",
        (("Core team",),),
    ),
    Case(
        "select name from nodes n where not exists (select 1 from edges e where e.src = n.id)",
        (("orders-db",),),
    ),
    Case(
        "select n.name from nodes n left join edges e on e.src = n.id where e.id is null",
        (("orders-db",),),
    ),
    Case(
        "select t.labels, t.n from (select labels, count(*) n from nodes "
        "group by labels having count(*) > 1) t",
        (("Service", 2),),
    ),
    Case(
        "select a.name, b.name from nodes a, nodes b where a.name < b.name and a.labels = b.labels",
        (("Billing worker", "Checkout API"),),
    ),
    Case(
        "select n.name, e.type from nodes n cross join edges e "
        "where n.id = e.dst and e.type = 'CALLS'",
        (("Billing worker", "CALLS"),),
    ),
    Case("select x, y from (values (1, 'a'), (2, 'b')) as t(x, y) where x > 1", ((2, "b"),)),
    Case(
        "select x * 2 as d from unnest(generate_series(1, 3)) as t(x) order by x",
        (
            (2,),
            (4,),
            (6,),
        ),
        ordered=True,
    ),
    Case(
        "select (select count(*) from nodes) as a, (select name from nodes "
        "where labels = 'Team') as b",
        ((4, "Core team"),),
    ),
    Case(
        "select distinct labels, realm from nodes order by labels",
        (
            ("Database", "development"),
            ("Service", "development"),
            ("Team", "crm"),
        ),
        ordered=True,
    ),
    Case("select count(*) from (select * from nodes limit 2) x", ((2,),)),
    Case(
        "select name from (select name from nodes order by name limit 2 offset 1) x "
        "where name like 'Core%'",
        (("Core team",),),
    ),
    Case("select count(*) from (select distinct id from nodes limit 3) x", ((3,),)),
    Case("select max(name) m from nodes group by id order by m desc limit 1", (("orders-db",),)),
    Case(
        "select name from (select name, props from nodes "
        "order by props -> 'tier' desc nulls last, name limit 1) x "
        "where props ->> 'lang' = 'Go'",
        (("Billing worker",),),
    ),
    Case("select distinct id = 'x' as is_x from nodes order by is_x limit 5", ((False,),)),
    Case("select id from nodes where archived_at is not null", ()),
)
