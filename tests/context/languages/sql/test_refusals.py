# a refusal is easier to read on one line
"""What the SQL planner refuses: at which token, where, and with which advice."""

from __future__ import annotations

import pytest

from agentcy_ray.context.languages.sql import plan
from tests.context.languages.refused import assert_refused

REFUSED = (
    (
        "select array_agg(distinct name order by id) from nodes",
        "array_agg",
        8,
        "distinct items are ordered by themselves only",
    ),
    ("insert into context_nodes values (1)", "insert", 1, "write select …"),
    ("update context_nodes set name = 'x'", "update", 1, "write select …"),
    ("delete from context_nodes", "delete", 1, "write select …"),
    ("drop table context_nodes", "drop", 1, "write select …"),
    ("create table x as select 1", "create", 1, "write select …"),
    ("copy context_nodes to 'x.csv'", "copy", 1, "write select …"),
    ("explain select 1", "explain", 1, "write select …"),
    ("set x = 1", "set", 1, "write select …"),
    ("selec * from nodes", "selec", 1, "did you mean select?"),
    ("select * from nodes; select 1", ";", 20, "send one query at a time"),
    ("select * from nodes; drop table nodes", ";", 20, "send one query at a time"),
    ("select * from other", "other", 15, "use context_nodes, context_edges or context_even"),
    ("select * from node", "node", 15, "did you mean nodes?"),
    ("select * from public.context_nodes", "public", 15, "write context_nodes"),
    ("select * from kyma.public.context_nodes", "kyma", 15, "write context_nodes"),
    ("select * from information_schema.tables", "information_schema", 15, "write context_nodes"),
    (
        "select * from '/etc/passwd'",
        "'/etc/passwd'",
        15,
        "use context_nodes, context_edges or context_even",
    ),
    (
        'select * from "context_nodes.parquet"',
        '"context_nodes.parquet"',
        15,
        "did you mean context_nodes?",
    ),
    (
        "select * from read_parquet('x')",
        "read_parquet",
        15,
        "write from unnest(generate_series(1, 10)) as t(x",
    ),
    (
        "select * from generate_series(1, 3)",
        "generate_series",
        15,
        "write from unnest(generate_series(1, 10)) as t(x",
    ),
    ("select * into x from nodes", "*", 8, "only reading is allowed"),
    ("select * from nodes for update", "*", 8, "only reading is allowed"),
    ("select nam from nodes", "nam", 8, "did you mean name?"),
    ("select n.nam from nodes n", "n", 8, "did you mean name?"),
    ("select x.name from nodes n", "x", 8, "no such column"),
    ("select nosuch(name) from nodes", "nosuch", 8, "no such function as nosuch"),
    ("select uper(name) from nodes", "uper", 8, "did you mean upper?"),
    ("select pg_sleep(10)", "pg_sleep", 8, "only reading is allowed"),
    ("select lower(name, 2) from nodes", "lower", 8, "lower takes 1 arguments, not 2"),
    ("select count(*) filter (where name)  from nodes", "name", 31, "compare it with ="),
    ("select name from nodes where name", "name", 30, "compare it with ="),
    ("select name + 1 from nodes", "name", 8, "cast one side, for example cast(x as double)"),
    (
        "select * from nodes qualify row_number() over () = 1",
        "*",
        8,
        "filter by where over a sub-query",
    ),
    ("select * from nodes tablesample (10)", "nodes", 15, "sample is not supported here"),
    ("select distinct on (name) name from nodes", "name", 21, "use row_number() over (…)"),
    (
        "select * from nodes n, lateral (select 1) x",
        "1",
        40,
        "use a join, or unnest in the select list",
    ),
    ("select * from nodes n natural join edges e", "edges", 36, "use join … on a.x = b.y"),
    ("select * from nodes n left join edges e", "edges", 33, "write on a.x = b.y"),
    ("select * from nodes n join nodes n on true", "nodes", 28, "give one of them an alias"),
    ("select name from nodes where name = :who", "name", 30, "give it in params"),
    ("select name from nodes limit 'x'", "'x'", 30, "write limit 100"),
    ("select name from nodes limit -1", "1", 31, "write limit 100"),
    ("select name from nodes limit 6000000", "6000000", 30, "write limit 100"),
    ("select name from nodes order by 9", "9", 33, "count from 1"),
    ("select 1 union select 1, 2", "1", 23, "select the same columns in both"),
    (
        "select name from nodes union select last_seen from nodes",
        "last_seen",
        37,
        "cast one of them",
    ),
    ("select name::json from nodes", "name", 8, "use varchar, bigint, double, boolean, date or ti"),
    (
        "select cast(name as int[]) from nodes",
        "name",
        13,
        "use varchar, bigint, double, boolean, date or ti",
    ),
    ("select props ->> name from nodes", "props", 8, "write props ->> 'key'"),
    ("select name -> 'x' from nodes", "name", 8, "read props -> 'key'"),
    ("select unnest(name) from nodes", "unnest", 8, "write string_to_array(x, ',')"),
    ("with _x as (select 1) select * from _x", "_x", 6, "rename it"),
    ("select $$x$$", "$$x$$", 8, "write plain texts as 'text'"),
    ("select E'a\\n'", "E'a\\n'", 8, "write plain texts as 'text'"),
    ("select 'x", "select 'x", 1, "close it"),
    ("select (1", "1", 9, "expecting )"),
    ("select * from nodes where", "where", 21, "complete the clause"),
    ("select from nodes", "nodes", 13, "write select * from context_nodes"),
    ("select row_number() from nodes", "row_number", 8, "write row_number() over (order by …)"),
    (
        "select percentile_cont(0.5) within group (order by duration_ms) from events",
        "percentile_cont",
        8,
        "write approx_percentile_cont(x, 0.95)",
    ),
    ("select name from nodes group by rollup (name)", "name", 41, "Rollup is not supported"),
    ("select * exclude (name) from nodes", "*", 8, "write the columns out"),
    (
        "select interval name from nodes",
        "interval",
        8,
        "known are nodes, id, labels, label_set, name, re",
    ),
    ("select name[1] from nodes", "name", 8, "read props -> 'key'"),
    ("select * from nodes where id = any(array['x'])", "'x'", 42, "Any is not supported"),
    ("select name from nodes fetch first 1 rows only", "1", 36, "use limit"),
    (
        "select sum(1) over w from nodes window w as (order by name)",
        "sum",
        8,
        "write the window out behind over",
    ),
    (
        "select array_agg(name) filter (where name <> '') from nodes",
        "array_agg",
        8,
        "filter by where, or use case",
    ),
    ("select * from (values (1), (1, 2)) as t(x)", "1", 24, "the rows of values differ in length"),
    ("select now() at time zone 'UTC'", "now", 8, "all times are UTC"),
    ("values (1)", "values", 1, "write select … or with …"),
    ("table context_nodes", "table", 1, "write select … or with …"),
    ('select 1 as "_facts:x"', "1", 8, "names with this beginning are reserved"),
    ("select current_user", "current_user", 8, "no such column"),
    ("select version()", "version", 8, "ask GET /context/capabilities"),
)


@pytest.mark.requirement("CTX-14")
@pytest.mark.parametrize(("text", "token", "column", "said"), REFUSED)
def test_a_refusal_names_the_token_its_place_and_what_to_write(
    text: str, token: str, column: int, said: str
) -> None:
    assert_refused(plan, text, token, column, said)
