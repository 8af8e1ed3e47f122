"""Full-text search of every engine: what is found, in which order, and counted how."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from agentcy_ray.context.engine import ContextEngine, SearchQuery
from agentcy_ray.core.errors import InvalidError
from tests.conformance.graphs import SEEN, Graph, write


@pytest.fixture
async def library(engine: ContextEngine, org: UUID) -> Graph:
    """A few documents of two sources."""
    graph = Graph(org)
    graph.node("one", "Document", "Guide", name="Straße to Production", body="Deploy with CARE")
    graph.node("two", "Document", name="deploy", notes={"deep": ["roll back"]})
    graph.node("three", "Ticket", name="Why deploy fails", realm="crm")
    graph.node("four", "Ticket", name="redeployment", count=12)
    await write(engine, graph)
    other = Graph(org, source=UUID(int=8))
    other.node("five", "Document", name="Deploy log")
    await write(engine, other, SEEN + timedelta(days=20))
    return graph


@pytest.mark.requirement("CTX-16")
async def test_search_ignores_case_and_looks_into_names_and_texts(
    engine: ContextEngine, library: Graph
) -> None:
    async def names(text: str) -> list[str]:
        answer = await engine.search(library.scope, SearchQuery(text=text))
        return [hit.name for hit in answer.hits]

    assert set(await names("DEPLOY")) == {
        "Straße to Production", "deploy", "Why deploy fails", "redeployment", "Deploy log",
    }  # fmt: skip
    assert (await names("deploy"))[:2] == ["deploy", "Deploy log"]
    assert await names("STRASSE care") == ["Straße to Production"]
    assert await names("roll") == ["deploy"]
    assert await names("100% 'quoted' \\ *") == []


@pytest.mark.requirement("CTX-16")
async def test_facets_and_histogram_count_the_hits_and_not_the_page(
    engine: ContextEngine, library: Graph
) -> None:
    answer = await engine.search(library.scope, SearchQuery(text="deploy", limit=2, offset=1))

    assert (len(answer.hits), answer.total) == (2, 5)
    assert {facet.value: facet.count for facet in answer.labels} == {
        "Document": 3, "Guide": 1, "Ticket": 2,
    }  # fmt: skip
    assert {facet.value: facet.count for facet in answer.sources} == {
        UUID(int=7).hex: 4, UUID(int=8).hex: 1,
    }  # fmt: skip
    assert answer.interval == "day"
    assert [(bucket.start, bucket.count) for bucket in answer.histogram] == [
        (datetime(2026, 3, 1, tzinfo=UTC), 4),
        (datetime(2026, 3, 21, tzinfo=UTC), 1),
    ]


@pytest.mark.requirement("CTX-16")
async def test_filters_and_realms_narrow_hits_and_counts_alike(
    engine: ContextEngine, library: Graph
) -> None:
    tickets = await engine.search(library.scope, SearchQuery(text="deploy", labels=("Ticket",)))
    second = await engine.search(
        library.scope, SearchQuery(text="deploy", sources=(UUID(int=8).hex,))
    )
    inside = await engine.search(library.within("crm"), SearchQuery(text="deploy"))

    assert (tickets.total, {facet.value for facet in tickets.labels}) == (2, {"Ticket"})
    assert [hit.name for hit in second.hits] == ["Deploy log"]
    assert [hit.name for hit in inside.hits] == ["Why deploy fails"]
    for answer in (tickets, second, inside):
        assert answer.total == sum(bucket.count for bucket in answer.histogram)
        assert answer.total == sum(facet.count for facet in answer.sources)


@pytest.mark.requirement("CTX-16")
async def test_search_needs_two_characters(engine: ContextEngine, library: Graph) -> None:
    for text in ("", " ", "a", " a "):
        with pytest.raises(InvalidError, match="2 characters"):
            await engine.search(library.scope, SearchQuery(text=text))
