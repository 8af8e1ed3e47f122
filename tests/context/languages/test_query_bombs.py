"""Queries that mean harm to the parser: refused as queries, in bounded time, no fault of ours."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest

from agentcy_ray.context.engine import Scope
from agentcy_ray.context.languages import cypher, kql, sql
from agentcy_ray.core.errors import AgentcyError, QueryTooCostlyError
from tests.conftest import AttackScale

pytestmark = pytest.mark.attack

SCOPE = Scope(org_id=UUID(int=5), realms=("development",))
MAX = 65_536
DEEP = {"short": (22, 150), "long": (20, 100, 400, 1000, 5000)}


def _planned(plan: Any) -> Callable[[str], Any]:
    return lambda text: plan(text, {}, SCOPE, row_limit=10, include_archived=False)


LANGUAGES: dict[str, Callable[[str], Any]] = {
    "cypher": lambda text: cypher.scoped(text, {}, SCOPE, row_limit=10),
    "cypher on kyma": _planned(cypher.plan),
    "kql": _planned(kql.plan),
    "sql": _planned(sql.plan),
}


def nested(start: str, opening: str, inner: str, closing: str, end: str = "") -> Any:
    return lambda n: start + opening * n + inner + closing * n + end


CYPHER: dict[str, Any] = {
    "parentheses": nested("MATCH (n) RETURN ", "(", "1", ")"),
    "lists": nested("MATCH (n) RETURN ", "[", "1", "]"),
    "maps": nested("MATCH (n) RETURN ", "{a: ", "1", "}"),
    "not": nested("MATCH (n) WHERE ", "NOT ", "n.a", "", " RETURN n"),
    "minus": nested("MATCH (n) RETURN ", "- ", "1", ""),
    "case": nested("MATCH (n) RETURN ", "CASE WHEN true THEN ", "1", " END"),
    "functions": nested("MATCH (n) RETURN ", "toString(", "1", ")"),
    "exists": nested("MATCH (n) WHERE ", "EXISTS { MATCH (n) WHERE ", "true", "}", " RETURN n"),
    "calls": nested("MATCH (n) ", "CALL { ", "RETURN 1 AS x", " }", " RETURN n"),
    "comprehensions": nested("MATCH (n) RETURN ", "[x IN ", "[1]", " | x]"),
    "sum": lambda n: "MATCH (n) RETURN 1" + "+1" * n,
    "or": lambda n: "MATCH (n) WHERE n.a" + " OR n.a" * n + " RETURN n",
    "path": lambda n: "MATCH (n)" + "-[]->()" * n + " RETURN n",
    "patterns": lambda n: "MATCH (n)" + ", (n)" * n + " RETURN n",
    "with": lambda n: "MATCH (n) " + "WITH n " * n + "RETURN n",
    "unions": lambda n: "RETURN 1 AS x" + " UNION RETURN 1 AS x" * n,
    "unwind": lambda n: (
        " ".join(f"UNWIND range(1, 1000000) AS x{i}" for i in range(n)) + " RETURN 1"
    ),
    "brackets that stay open": lambda n: "MATCH (n) RETURN " + "[" * n,
    "quotes that stay open": lambda n: "MATCH (n) RETURN '" + "\\'" * n,
    "comments": lambda n: "/*" * n + " MATCH (n) RETURN n",
    "names": lambda n: "MATCH (n) RETURN " + "n." * n + "a",
    "indexes": lambda n: "MATCH (n) RETURN n" + "[0]" * n,
    "long name": lambda n: f"MATCH (n) RETURN {'a' * n * 10}",
    "long number": lambda n: f"MATCH (n) RETURN {'9' * n * 10}",
    "hops": lambda n: f"MATCH (a)-[*1..{10 ** min(n, 300)}]->(b) RETURN b",
}
KQL: dict[str, Any] = {
    "parentheses": nested("nodes | where ", "(", "name == 'a'", ")"),
    "not": nested("nodes | where ", "not(", "name == 'a'", ")"),
    "iff": nested("nodes | extend x = ", "iff(true, ", "1", ", 1)"),
    "functions": nested("nodes | extend x = ", "tostring(", "name", ")"),
    "minus": nested("nodes | extend x = ", "-", "1", ""),
    "joins": nested("nodes ", "| join (nodes ", "", ") on id"),
    "unions": nested("", "union (", "nodes", ")"),
    "sum": lambda n: "nodes | extend x = 1" + "+1" * n,
    "or": lambda n: "nodes | where name == 'a'" + " or name == 'a'" * n,
    "stages": lambda n: "nodes" + " | where name == 'a'" * n,
    "extends": lambda n: "nodes" + "".join(
        f" | extend x{i} = strcat(x{i - 1}, x{i - 1})" if i else " | extend x0 = name"
        for i in range(min(n, 1200))
    ),
    "lets": lambda n: "".join(
        f"let a{i} = {f'a{i - 1} + a{i - 1}' if i else '1'};" for i in range(min(n, 1500))
    ) + f"nodes | extend x = a{min(n, 1500) - 1}",
    "brackets": nested("nodes | extend x = dynamic(", "[", "1", "]", ")"),
    "brackets that stay open": lambda n: "nodes | where " + "(" * n,
    "quotes that stay open": lambda n: "nodes | where name == '" + "\\'" * n,
    "props": lambda n: "nodes | extend x = props" + ".a" * n,
    "regex": lambda n: f"nodes | where name matches regex '{'(a|aa)*' * n}b'",
    "in": lambda n: "nodes | where name in (" + "'a'," * n + "'a')",
    "long number": lambda n: f"nodes | take {'9' * n * 10}",
    "timespan": lambda n: f"nodes | where last_seen > ago({'9' * n}d)",
}  # fmt: skip
SQL: dict[str, Any] = {
    "parentheses": nested("select ", "(", "1", ")"),
    "selects": nested("select * from ", "(select * from ", "nodes", ") a"),
    "exists": nested("select 1 from nodes where ", "exists (select 1 from nodes where ", "1", ")"),
    "case": nested("select ", "case when true then ", "1", " end"),
    "not": nested("select 1 from nodes where ", "not ", "true", ""),
    "minus": nested("select ", "- ", "1", ""),
    "functions": nested("select ", "upper(", "name", ")", " from nodes"),
    "casts": lambda n: "select name" + "::text" * n + " from nodes",
    "sum": lambda n: "select 1" + "+1" * n,
    "or": lambda n: "select 1 from nodes where true" + " or true" * n,
    "unions": lambda n: "select 1" + " union all select 1" * n,
    "joins": lambda n: "select 1 from nodes n0" + "".join(
        f" cross join nodes n{i}" for i in range(1, min(n, 2000))
    ),
    "with": lambda n: "with a0 as (select 1 x)" + "".join(
        f", a{i} as (select * from a{i - 1} p cross join a{i - 1} q)"
        for i in range(1, min(n, 1000))
    ) + f" select * from a{min(n, 1000) - 1}",
    "brackets that stay open": lambda n: "select " + "(" * n,
    "quotes that stay open": lambda n: "select '" + "''" * n,
    "comments": lambda n: "/*" * n + " select 1",
    "in": lambda n: "select 1 from nodes where name in (" + "'a'," * n + "'a')",
    "long number": lambda n: f"select {'9' * n * 10}",
    "limit": lambda n: f"select 1 from nodes limit {'9' * n}",
    "windows": nested("select ", "sum(", "1", ") over ()"),
}  # fmt: skip
OF = {"cypher": CYPHER, "cypher on kyma": CYPHER, "kql": KQL, "sql": SQL}


@pytest.mark.parametrize(
    ("language", "bomb"), [(name, bomb) for name, bombs in OF.items() for bomb in bombs]
)
def test_a_bomb_is_planned_or_refused_in_bounded_time(
    language: str, bomb: str, attack_scale: AttackScale
) -> None:
    for depth in DEEP[attack_scale]:
        text = OF[language][bomb](depth)[:MAX]
        began = time.thread_time()
        try:
            LANGUAGES[language](text)
        except AgentcyError as refusal:
            told = refusal
        else:
            told = None
        assert time.thread_time() - began < 10, (depth, len(text))
        assert told is None or (told.status == 422 and len(told.message) < 2000), (depth, told)


@pytest.mark.parametrize(
    "expression",
    ["n" + ".a" * 50, "n.a" + "[0]" * 30, "n.a" + " + n.b" * 12, "n.a" + " + ' ' + n.b" * 6,
     "n.a" + " - n.b" * 30, "toString(n.a + n.b) + n.c + n.d", "CASE n.a WHEN 1 THEN n.b END + n.c",
     "[x IN n.l | x.a.b + x.c + x.d + x.e]"],
)  # fmt: skip
def test_what_is_nested_in_what_is_written_several_times_is_computed_once(expression: str) -> None:
    for query in (
        "MATCH (n) RETURN {}",
        "MATCH (n) WHERE {} = 1 RETURN n",
        "MATCH (n) RETURN sum({})",
    ):
        planned = LANGUAGES["cypher on kyma"](query.format(expression))
        assert len(planned.sql) < 1_000_000


CHAINS: dict[str, tuple[str, Callable[[int], str]]] = {
    "extend": ("kql", lambda n: "nodes | extend x0 = strlen(name)" + "".join(
        f" | extend x{i} = x{i - 1} + x{i - 1}" for i in range(1, n)) + f" | where x{n - 1} > 3"),
    "project": ("kql", lambda n: "nodes | project x = strlen(name)"
        + " | project x = x + x" * n + " | where x > 3"),
    "with": ("cypher on kyma", lambda n: "MATCH (n) WITH size(n.name) AS x"
        + " WITH x + x AS x" * n + " WHERE x > 3 RETURN x"),
    "steps": ("sql", lambda n: "with a0 as (select length(name) x from nodes)" + "".join(
        f", a{i} as (select x + x as x from a{i - 1})" for i in range(1, n))
        + f" select * from a{n - 1} where x > 3"),
    "selects": ("sql", lambda n: "select x from " + "(select x + x as x from " * n
        + "(select length(name) as x from nodes) a0" + "".join(f") a{i}" for i in range(1, n + 1))
        + " where x > 3"),
    "shown": ("sql", lambda n: "select " + "x || x as x from (select " * n + "name as x from nodes"
        + "".join(f") a{i}" for i in range(n)) + " order by x"),
}  # fmt: skip


@pytest.mark.parametrize("chain", CHAINS)
def test_steps_that_an_engine_would_write_into_each_other_are_refused_by_their_length(
    chain: str,
) -> None:
    """DataFusion plans twenty of them for minutes, with no look at any time limit."""
    language, query = CHAINS[chain]
    for few in (1, 5, 9):
        LANGUAGES[language](query(few))
    with pytest.raises(QueryTooCostlyError):
        LANGUAGES[language](query(24))
