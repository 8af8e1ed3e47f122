# ruff: noqa: E501  # a refusal is easier to read on one line
"""What the KQL planner refuses: at which token, where, and with which advice."""

from __future__ import annotations

import pickle
from uuid import UUID

import pytest

from agentcy_ray.context.engine import Scope
from agentcy_ray.context.languages.kql import plan
from agentcy_ray.core.errors import QueryRejectedError

SCOPE = Scope(org_id=UUID(int=5))
REFUSED = (
    ("nodes | wher name == 'x'", "wher", 9, "did you mean where?"),
    ("nodes | where nam == 'x'", "nam", 15, "did you mean name?"),
    ("node | count", "node", 1, "did you mean nodes?"),
    (
        "database('other').nodes | count",
        "database('other').nodes",
        1,
        "use context_nodes, context_edges or context_even",
    ),
    (
        "cluster('c').database('d').nodes",
        "(",
        22,
        "only context_nodes, context_edges and context_ev",
    ),
    (".show tables", ".show", 1, "commands are not queries: only reading is allowe"),
    (".drop table nodes", ".drop", 1, "commands are not queries: only reading is allowe"),
    ("nodes | delete", "delete", 9, "use one of where, project, project-away, project"),
    ("nodes; edges", "edges", 8, "send one query at a time"),
    ("nodes | where name = 'x'", "=", 20, "compare with =="),
    ("nodes | where name like 'x'", "like", 20, "use has or contains"),
    ("nodes | where name containz 'x'", "containz", 20, "did you mean contains?"),
    ("nodes | where name == 'x", "'", 23, "close the quote"),
    ("nodes | where (name == 'x'", "end of the query", 27, "expected )"),
    ("nodes | where name == null", "name == null", 15, "use isnull(x) or isnotnull(x)"),
    ("nodes | where name > 5", "name > 5", 15, "write tolong(x) or tostring(x)"),
    ("nodes | where name", "name", 15, "compare it, for example with =="),
    ("nodes | where not name == 'x'", "name", 19, "write not(…) or !in"),
    ("nodes | extend x = nosuch(name)", "nosuch", 20, "see GET /context/completion?language=kql"),
    ("nodes | extend x = substrin(name, 1)", "substrin", 20, "did you mean substring?"),
    (
        "nodes | extend x = strlen(name, 2)",
        "strlen(name, 2)",
        20,
        "strlen takes 1 arguments, not 2",
    ),
    ("nodes | extend x = name + 'a'", "name + 'a'", 20, "use strcat(a, b)"),
    (
        "nodes | extend x = last_seen + 1",
        "last_seen + 1",
        20,
        "add or subtract a timespan such as 1h",
    ),
    ("nodes | extend x = sum(1)", "sum(1)", 20, "write summarize sum(…)"),
    ("nodes | extend x = name.first", "name.first", 20, "read props.<name>"),
    ("nodes | extend x = row_number()", "row_number()", 20, "write sort by <column> before it"),
    ("nodes | summarize name", "name", 19, "write min(x), or move it to by"),
    ("nodes | summarize count() + id", "id", 29, "write min(x), or move it to by"),
    ("nodes | summarize", "summarize", 9, "write summarize count() by <column>"),
    ("nodes | summarize percentile(props.x, 101)", "101", 39, "write percentile(x, 95)"),
    (
        "nodes | summarize arg_max(name, *) + 1",
        "arg_max(name, *)",
        19,
        "write summarize arg_max(…) as an item of its own",
    ),
    ("nodes | take -1", "-1", 14, "write take 100"),
    ("nodes | take 'x'", "'x'", 14, "write take 100"),
    ("nodes | take 6000000", "6000000", 14, "write take 100"),
    ("nodes | top 5 name", "name", 15, "expected by"),
    ("nodes | order name", "name", 15, "expected by"),
    (
        "nodes | project-away nothing",
        "nothing",
        22,
        "columns are id, labels, label_set, name, realm,",
    ),
    ("nodes | project-rename a = nothing", "nothing", 28, "no such column"),
    ("nodes | parse name with 'x' y", "parse", 9, "use extend with extract(regex, group, text)"),
    ("nodes | mv-apply x = props.tags on (take 1)", "mv-apply", 9, "use mv-expand, then summarize"),
    ("nodes | search 'x'", "search", 9, "use where name has 'word' or body has 'word'"),
    ("nodes | sample 5", "sample", 9, "use take"),
    (
        "nodes | evaluate bag_unpack(props)",
        "evaluate",
        9,
        "use summarize with make_list or make_set",
    ),
    ("nodes | join edges", "end of the query", 19, "expected on"),
    (
        "nodes | join kind=outer (edges) on id",
        "outer",
        9,
        "use innerunique, inner, leftouter, rightouter, f",
    ),
    (
        "nodes | join (edges) on nothing",
        "nothing",
        25,
        "columns are id, labels, label_set, name, realm,",
    ),
    (
        "nodes | join (edges) on $left.id > $right.src",
        "$left.id > $right.src",
        25,
        "write on id, or on $left.id == $right.src",
    ),
    ("nodes | union kind=left edges", "left", 9, "use kind=outer or inner"),
    ("nodes | mv-expand name", "name", 19, "expand a dynamic value such as props.tags or spl"),
    ("nodes | mv-expand props.tags to typeof(strin)", "props.tags", 19, "did you mean string?"),
    (
        "nodes | make-series count() on name step 1",
        "1",
        42,
        "write on at from ago(1d) to now() step 1h",
    ),
    (
        "events | make-series count() on at from datetime(2026-01-01) to datetime(2027-01-01) step 1s",
        "make-series",
        10,
        "widen the step",
    ),
    (
        "edges | make-graph src --> dst",
        "make-graph",
        9,
        "write graph-match (a)-[e]->(b) project a.id, b.i",
    ),
    (
        "edges | make-graph src --> dst | count",
        "count",
        34,
        "only graph-match may follow make-graph",
    ),
    (
        "edges | graph-match (a)-[e]->(b) project a.id",
        "graph-match",
        9,
        "write make-graph src --> dst with context_nodes",
    ),
    (
        "edges | make-graph src --> dst with nodes on id | graph-match (a)-[e*]->(b) project a.id",
        "*",
        69,
        "write graph-match (a)-[e*1..3]->(b) where … proj",
    ),
    (
        "edges | make-graph src --> dst with nodes on id | graph-match (a)-[e*1..9]->(b) project a.id",
        "*1..9",
        69,
        "write *1..3",
    ),
    (
        "edges | make-graph src --> dst with nodes on id | graph-match (a)-[e]->(b) project a.nothing",
        "a.nothing",
        84,
        "columns are id, labels, label_set, name, realm,",
    ),
    (
        "edges | make-graph src --> dst with nodes on id | graph-match (a)-[e]->(b) project a",
        "a",
        84,
        "write a.<column>",
    ),
    (
        "edges | make-graph srcc --> dst with nodes on id | graph-match (a)-[e]->(b) project a.id",
        "srcc",
        20,
        "did you mean src?",
    ),
    (
        "edges | graph-shortest-paths (a)-[e]->(b) project a.id",
        "graph-shortest-paths",
        9,
        "use graph-match with -[e*1..3]-> and project",
    ),
    ("let x = 5; x", "x", 12, "write print x"),
    ("let x = 5; let x = 6; nodes | count", "x", 1, "rename one"),
    (
        "let f = (a:long) { a }; nodes | count",
        "a",
        20,
        "functions of a query's own are not supported: us",
    ),
    ("let x = x; nodes | where id == x", "x", 9, "columns are"),
    ("let t = t | take 1; t", "t", 9, "use context_nodes, context_edges or context_even"),
    (
        "declare query_parameters(a:string); nodes | count",
        "a",
        26,
        "give it in params, or a default",
    ),
    ("declare query_parameters(a:strin = 'x'); nodes | count", "strin", 26, "did you mean string?"),
    (
        "print datetime(yesterday)",
        "datetime(yesterday)",
        7,
        "write datetime(2026-06-01) or datetime(2026-06-0",
    ),
    ("print bin(5, 0)", "bin(5, 0)", 7, "write bin(at, 1h) or bin(x, 10)"),
    ("print now() + now()", "now() + now()", 7, "add or subtract a timespan such as 1h"),
    (
        "print 99999999999999999999",
        "99999999999999999999",
        7,
        "the number does not fit into 64 bits",
    ),
    ('print dynamic({"a": )', ")", 21, "not expected here"),
    ("print extract('(?=x)', 0, 'a')", "extract('(?=x)', 0, 'a')", 7, "use plain RE2 patterns"),
    ("print matches", "matches", 7, "columns are"),
    (
        "nodes | where name matches regex '(?<!x)'",
        "name matches regex '(?<!x)'",
        15,
        "use plain RE2 patterns",
    ),
    ("nodes | where name has name", "name has name", 15, "use contains for a computed one"),
    ("nodes | render timechart | count", "render", 9, "render comes last"),
    ("nodes | where id in (edges | where)", ")", 35, "an expression is expected"),
    ("union nodes, other", "other", 14, "use context_nodes, context_edges or context_even"),
    ("nodes | where toscalar(5) == 1", "toscalar(5)", 15, "write toscalar(context_nodes | count)"),
    ("nodes | project x = iff(1, 2)", "iff(1, 2)", 21, "iff takes 3 arguments, not 2"),
    (
        "nodes | project x = datetime_diff('eon', now(), now())",
        "datetime_diff('eon', now(), now())",
        21,
        "use month, quarter, year, second, minute, hour,",
    ),
    (
        "nodes | project format_datetime(last_seen, 'QQ')",
        "format_datetime(last_seen, 'QQ')",
        17,
        "use yyyy yy MM M dd d HH H hh h mm m ss s tt fff",
    ),
    (
        "nodes | where props.a.b[name] == 1",
        "props.a.b[name]",
        15,
        "use substring(x, start, length)",
    ),
    ("nodes | distinct nothing", "nothing", 18, "columns are id, labels, label_set, name, realm,"),
    (
        "externaldata(a:string) ['http://x']",
        ":",
        15,
        "only context_nodes, context_edges and context_ev",
    ),
    (
        "set query_take_max_records=5; nodes",
        "query_take_max_records",
        5,
        "options are not supported: leave the set stateme",
    ),
    ("nodes | as x", "as", 9, "use let name = …;"),
    ("nodes | fork (take 1) (take 2)", "fork", 9, "send several queries"),
    ("nodes |", "end of the query", 8, "use one of where, project, project-away, project"),
    ("| count", "|", 1, "not expected here"),
    ("datatable(a:string)[1, 2", "end of the query", 25, "expected ]"),
    (
        "datatable(a:string, b:long)['x']",
        "datatable",
        1,
        "give one value for each column of each row",
    ),
    ("datatable(a:long)['x']", "'x'", 19, "a string stands in a column of type long"),
    ("range x from 1 to 10 step 0", "range", 1, "write range x from 1 to 10 step 1"),
    ("range x from 1 to 99999999999 step 1", "range", 1, "range gives over 5000000 rows"),
    (
        "nodes | where label_set[0] == 5h",
        "label_set[0] == 5h",
        15,
        "compare todouble(x) with a number",
    ),
)


@pytest.mark.requirement("CTX-14")
@pytest.mark.parametrize(("text", "token", "column", "said"), REFUSED)
def test_a_refusal_names_the_token_its_place_and_what_to_write(
    text: str, token: str, column: int, said: str
) -> None:
    with pytest.raises(QueryRejectedError) as caught:
        plan(text, {}, SCOPE, row_limit=10)
    error = pickle.loads(pickle.dumps(caught.value))
    assert (error.details["token"], error.details["line"], error.details["column"]) == (
        token, 1, column,
    )  # fmt: skip
    assert said in error.message
