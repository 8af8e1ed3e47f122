"""Link rules: edges between sources, drawn and taken away by the publishes of either."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agentcy_ray.core.ids import new_id
from tests.ingest.harness import REALM, House
from tests.ingest.memory_source import Graph, MemorySource

SERVICE, REPOSITORY, OTHER = ("Service", "s"), ("Repository", "r"), ("Repository", "other")
RULE = {
    "from_label": "Service", "from_property": "repo_url",
    "to_label": "Repository", "to_property": "url", "type": "BUILT_FROM",
}  # fmt: skip
LINK = (SERVICE, "BUILT_FROM", REPOSITORY)


async def rule(house: House, *rules: dict[str, str]) -> None:
    async with house.db.system() as connection:
        await connection.execute(
            "UPDATE realms SET link_rules = $2 WHERE org_id = $1 AND name = $3",
            house.org_id,
            list(rules),
            REALM,
        )


@pytest.fixture
async def services(house: House) -> House:
    house.source.graph = Graph({SERVICE: {"name": "s", "repo_url": "HTTPS://Git.example/Walrus"}})
    return house


@pytest.fixture
async def repositories(services: House) -> House:
    """Another source of the same organisation."""
    source_id = new_id()
    async with services.db.system() as connection:
        await connection.execute(
            "INSERT INTO sources (id, org_id, name, connector, realm, status)"
            " VALUES ($1, $2, 'repositories', 'memory', $3, 'ready')",
            source_id,
            services.org_id,
            REALM,
        )
    graph = Graph({
        REPOSITORY: {"name": "r", "url": "https://git.example/walrus"},
        OTHER: {"name": "other", "url": "https://git.example/other"},
    })
    return replace(services, source=MemorySource(graph), source_id=source_id)


async def links(house: House) -> list:
    return sorted(edge for edge in await house.edges() if edge[1] == "BUILT_FROM")


@pytest.mark.requirement("CTX-17")
@pytest.mark.parametrize("order", ["service first", "repository first"])
async def test_equal_values_of_two_sources_are_joined_whichever_comes_first(
    services: House, repositories: House, order: str
):
    await rule(services, RULE)
    pair = [services, repositories]
    first, second = pair if order == "service first" else reversed(pair)
    assert (await first.sync()).counts["links"] == {"added": 0, "archived": 0}
    assert await links(services) == []
    assert (await second.sync()).counts["links"] == {"added": 1, "archived": 0}
    assert await links(services) == [LINK]


async def test_a_link_follows_its_values(services: House, repositories: House):
    await rule(services, RULE)
    await services.sync()
    await repositories.sync()
    services.source.graph.nodes[SERVICE]["repo_url"] = "https://git.example/other"
    run = await services.sync()
    assert run.counts["links"] == {"added": 1, "archived": 1}
    assert await links(services) == [(SERVICE, "BUILT_FROM", OTHER)]
    repositories.source.graph.drop(OTHER)
    await repositories.sync()
    assert await links(services) == []
    services.source.graph.nodes[SERVICE]["repo_url"] = ""
    assert (await services.sync()).counts["links"] == {"added": 0, "archived": 0}


async def test_rules_made_later_join_what_is_there_and_rules_that_go_take_their_links_along(
    services: House, repositories: House
):
    await services.sync()
    await repositories.sync()
    await rule(services, RULE)
    run = await services.sync()  # nothing changed in the source itself
    assert run.counts["nodes"]["unchanged"] == 1
    await repositories.sync()
    assert await links(services) == [LINK]
    await rule(services)
    await services.sync()
    assert await links(services) == []


async def test_nodes_of_one_source_are_not_joined_by_rules(services: House):
    await rule(services, RULE)
    graph = services.source.graph
    graph.nodes[REPOSITORY] = {"name": "r", "url": "https://git.example/walrus"}
    await services.sync()
    assert await links(services) == []


async def test_an_unchanged_source_with_links_writes_nothing(
    services: House, repositories: House, monkeypatch
):
    await rule(services, RULE)
    await services.sync()
    await repositories.sync()

    async def no_write(*args, **how):
        raise AssertionError("the engine was written to")

    for name in ("upsert_nodes", "upsert_edges", "archive"):
        monkeypatch.setattr(services.engine, name, no_write)
    for mode in ("full", "incremental"):
        assert (await services.sync(mode=mode)).counts["links"] == {"added": 0, "archived": 0}
