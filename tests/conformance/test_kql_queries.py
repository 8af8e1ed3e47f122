"""What KQL and SQL queries answer: on the rows as kyma holds them, and through the engine."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from uuid import UUID, uuid4

import pytest
from datafusion import SessionContext

from agentcy_ray.context.engine import ContextEngine, Language, Query
from agentcy_ray.context.languages import kql, sql
from agentcy_ray.context.languages.planned import decode
from agentcy_ray.core.errors import CapabilityError
from tests.conformance.graphs import LATER, SEEN
from tests.conformance.kql_cases import (
    graphs,
    grouping,
    joins,
    lists,
    numbers,
    properties,
    rows,
    texts,
    times,
)
from tests.conformance.kql_cases.fixture import NOW, OLDER, Case, events, graph, scope, tables
from tests.conformance.sql_cases import grouping as sql_grouping
from tests.conformance.sql_cases import queries as sql_queries
from tests.conformance.sql_cases import values as sql_values

THEMES: dict[Language, tuple[ModuleType, ...]] = {
    "kql": (rows, texts, properties, grouping, joins, times, lists, graphs, numbers),
    "sql": (sql_queries, sql_values, sql_grouping),
}
PLANNERS = {"kql": kql.plan, "sql": sql.plan}
CASES: list[tuple[Language, Case]] = [
    (language, case)
    for language, themes in THEMES.items()
    for each in themes
    for case in each.CASES
]


def _same(case: Case, answer: Sequence[tuple[object, ...]]) -> None:
    """The last digits of an average depend on the order in which its parts were added."""
    found, wanted = ([tuple(map(_rounded, row)) for row in rows] for rows in (answer, case.rows))
    if case.ordered:
        assert found == wanted, case.text
    else:
        assert sorted(map(repr, found)) == sorted(map(repr, wanted)), case.text


def _rounded(value: object) -> object:
    return round(value, 9) if isinstance(value, float) else value


@pytest.fixture(scope="module")
def session() -> SessionContext:
    return tables()


@pytest.mark.parametrize(
    ("language", "case"), CASES, ids=[f"{language}: {case.text[:60]}" for language, case in CASES]
)
def test_a_planned_query_gives_the_rows_that_its_text_means(
    session: SessionContext, language: Language, case: Case
) -> None:
    planned = PLANNERS[language](case.text, case.params, scope(), row_limit=100, now=NOW)
    found = decode(session.sql(planned.sql).to_arrow_table(), planned)
    _same(case, found)


@pytest.fixture(scope="module")
async def company(engine: ContextEngine) -> UUID:
    """The cases' graph and events in an organisation of their own, beside a full neighbour's."""
    org, neighbour = uuid4(), uuid4()
    for each in (org, neighbour):
        made = graph(each)
        for seen_at in (OLDER, SEEN):
            await engine.upsert_nodes(each, made.node_batch(), seen_at)
            await engine.upsert_edges(each, made.edge_batch(), seen_at)
        await engine.append_events(each, events())
    await engine.archive(org, "node", [graph(org).id("old")], LATER)
    return org


@pytest.mark.requirement("CTX-02")
@pytest.mark.requirement("CTX-03")
@pytest.mark.requirement("TEN-05")
@pytest.mark.parametrize("language", list(THEMES))
async def test_an_engine_answers_the_languages_that_it_says_it_speaks(
    engine: ContextEngine, company: UUID, language: Language
) -> None:
    if not getattr(engine.capabilities, language):
        with pytest.raises(CapabilityError) as refused:
            await engine.query(scope(company), Query(language=language, text="nodes | count"))
        assert "CONTEXT_ENGINE=advanced" in str(
            refused.value.details | {"m": refused.value.message}
        )
        return
    for theme in THEMES[language]:
        for case in theme.CASES:
            asked = Query(language=language, text=case.text, params=case.params)
            answer = await engine.query(scope(company), asked)
            _same(case, answer.rows)


async def test_archived_entities_show_when_asked_for(engine: ContextEngine, company: UUID) -> None:
    if not engine.capabilities.kql:
        pytest.skip("this engine speaks Cypher only")
    for language, text in (
        ("kql", "nodes | where isnotnull(archived_at) | project name"),
        ("sql", "select name from nodes where archived_at is not null"),
    ):
        asked = Query(language=language, text=text, include_archived=True)
        assert (await engine.query(scope(company), asked)).rows == (("Old checkout",),)
