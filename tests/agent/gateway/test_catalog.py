import asyncio
import time
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from agentcy_ray.agent.metatools import META_TOOLS, SEARCH_BYTES, fitted
from agentcy_ray.agent.tool_index import trigrams
from agentcy_ray.agent.tool_search import ToolGroup, ToolSearch
from agentcy_ray.connectors.registry import builtin_registry
from agentcy_ray.connectors.source_records import SourceChange
from agentcy_ray.core.ids import new_id
from agentcy_ray.core.settings import Settings
from agentcy_ray.core.tools import CatalogEntry, Effect, ToolSpec, ToolStatus
from tests.agent.gateway.world import TOOLS, AgentRow

BUILT_IN = {
    "rag.search", "context.query", "context.get_node", "context.neighbors",
    "artifacts.publish_artifact",
}  # fmt: skip


async def names(world, who="member", realm=None, agent=None) -> set[str]:
    entries = await world.process.catalog.entries(world.people[who], realm, agent)
    return {entry.name for entry in entries}


def sources_of(entries) -> set[str]:
    return {entry.source for entry in entries if entry.source is not None}


@pytest.mark.requirement("TOOL-04")
async def test_the_catalog_holds_tools_of_the_realm_and_of_the_agents_connectors(world):
    await world.add_source("attic", realm="infrastructure", connector="annex")
    assert await names(world) == BUILT_IN | {f"lab.{t.name}" for t in TOOLS} | {"annex.look"}
    assert await names(world, realm="infrastructure") == BUILT_IN | {"annex.look"}
    assert await names(world, agent=AgentRow(connectors=("annex",))) == BUILT_IN | {"annex.look"}
    assert await names(world, agent=AgentRow(realms=("default",))) == BUILT_IN
    narrow = AgentRow(connectors=("annex",))
    assert await names(world, realm="development", agent=narrow) == BUILT_IN
    world.people["limited"] = world.people["member"].model_copy(
        update={"realms": ("infrastructure",)}
    )
    assert await names(world, "limited") == BUILT_IN | {"annex.look"}


async def test_a_change_of_a_source_is_seen_in_every_process_at_once(world, second, monkeypatch):
    now = time.monotonic()  # and it stays: nothing grows old, so only a ring shows a change
    clock = SimpleNamespace(monotonic=lambda: now)
    monkeypatch.setattr("agentcy_ray.core.org_cache.time", clock)
    member, owner = world.people["member"], world.people["owner"]

    async def seen(*expected: str) -> None:
        async with (
            asyncio.timeout(60),
            world.bell.listen(f"ch:catalog:{world.org.hex}") as ear,
        ):
            while sources_of(await second.catalog.entries(member)) != set(expected):
                await ear.next(0.01)

    await seen("bench")
    added = await world.add_source("attic")
    await seen("bench", "attic")
    await world.sources.update(owner, added.id, SourceChange(enabled=False))
    await seen("bench")
    await world.sources.delete(owner, world.source.id)
    await seen()


async def test_a_source_that_offers_nothing_any_more_takes_no_others_away(world):
    await world.add_source("attic", connector="annex")
    await world.sql(
        "UPDATE sources SET config = $2 WHERE name = $1 RETURNING 1", "attic", {"unheard": 1}
    )
    world.process.catalog._snapshots.expire(world.org)
    assert sources_of(await world.process.catalog.entries(world.people["member"])) == {"bench"}
    shown = await world.process.catalog.sources(world.people["member"])
    assert [(item.source.name, item.tools) for item in shown] == [
        ("attic", 0), ("bench", len(TOOLS)),
    ]  # fmt: skip


async def test_what_does_not_shape_a_sources_tools_leaves_them_as_they_are(world):
    catalog, member = world.process.catalog, world.people["member"]

    async def look():
        world.process.catalog._snapshots.expire(world.org)
        return await catalog.find(member, "lab", "look", realm=None)

    before = await look()
    await world.sql("UPDATE sources SET status = 'failed' RETURNING 1")
    assert await look() is before
    (shown,) = await catalog.sources(member)
    assert shown.source.status == "failed"
    change = SourceChange(realm="infrastructure")
    await world.sources.update(world.people["owner"], world.source.id, change)
    assert (await look()).realm == "infrastructure"


def shipped() -> list[CatalogEntry]:
    """Every tool of every shipped connector that tells its tools without a source."""
    registry = builtin_registry(Settings.load({}))
    configs: dict[str, dict[str, Any]] = {
        "demo": {}, "git": {"url": "/tmp/x"}, "files": {"root": "/tmp"},
        "csv": {"file_path": "/tmp/x.csv"}, "json": {"file_path": "/tmp/x.json"},
    }  # fmt: skip
    entries: list[CatalogEntry] = []
    for connector in registry.all():
        model = connector.spec.config_model.model_construct(**configs[connector.spec.name])
        entries += [
            CatalogEntry(
                connector=connector.spec.name, source="s", source_id=new_id(), realm="default",
                version="1", spec=spec,
            )
            for spec in connector.tools(model)
        ]  # fmt: skip
    return entries


@pytest.mark.requirement("TOOL-02")
async def test_each_shipped_tool_is_first_for_its_own_description(world):
    everything = shipped() + await world.process.catalog.entries(world.people["owner"])
    search, groups = ToolSearch(), [ToolGroup(everything[:9]), ToolGroup(everything[9:])]
    for entry in everything:
        (best, score), *_ = await search.rank(entry.spec.description, groups, 3)
        assert best.name == entry.name
        assert 0 < score <= 1


async def test_a_few_words_find_the_tool_and_ties_are_broken_by_name(world):
    catalog, member = world.process.catalog, world.people["member"]
    found = await catalog.search(member, "throw away", top_k=3)
    assert found[0][0].name == "lab.discard"
    none = await catalog.search(member, "9999", top_k=50)
    assert [entry.name for entry, _ in none] == sorted(entry.name for entry, _ in none)
    assert {score for _, score in none} == {0.0}
    assert trigrams("list_pulls") == trigrams("List pulls!")


# -- meta-tools ---------------------------------------------------------------------------------


async def meta(world, name: str, who: str = "member", ctx=None, **args):
    ctx = ctx or world.ctx(who, run=new_id())
    (opened,) = await world.process.meta.open(ctx, [(name, args, 1000)])

    async def told(_: object) -> None:
        assert opened.result is not None

    await world.process.meta.finish(ctx, [opened], told)
    return opened.result


@pytest.mark.requirement("TOOL-01")
async def test_there_are_exactly_four_meta_tools_and_they_answer_without_a_source(world):
    assert [spec.name for spec in META_TOOLS] == [
        "list_connectors", "search_connector_tools", "execute_connector_tool",
        "request_connector_access",
    ]  # fmt: skip
    await world.sources.delete(world.people["owner"], world.source.id)
    world.process.catalog._snapshots.expire(world.org)
    listed = await meta(world, "list_connectors")
    assert listed.result["sources"] == []
    assert {item["connector"] for item in listed.result["builtin"]} == {
        "rag", "context", "artifacts",
    }  # fmt: skip
    found = await meta(world, "search_connector_tools", query="find documents")
    assert found.result["tools"][0]["name"] == "rag.search"


async def test_sources_are_listed_with_realm_status_and_number_of_tools(world):
    listed = await meta(world, "list_connectors")
    assert listed.result["sources"] == [
        {"name": "bench", "connector": "lab", "realm": "development", "tools": len(TOOLS),
         "status": "ready"}
    ]  # fmt: skip
    assert (await meta(world, "list_connectors", realm="default")).result["sources"] == []


async def test_a_tool_is_found_and_called_by_meta_tools(world):
    found = await meta(world, "search_connector_tools", query="microscope", top_k=1)
    (tool,) = found.result["tools"]
    assert (tool["name"], tool["source"], tool["effect"]) == ("lab.look", "bench", "read")
    result = await meta(
        world, "execute_connector_tool", connector="lab", tool=tool["name"], args={"id": "a"}
    )
    assert (result.status, result.result) == (ToolStatus.COMPLETED, {"done": "look"})


async def test_a_write_through_the_meta_tool_waits_for_its_approval(world):
    ctx = world.ctx("owner", run=new_id())
    args = {"connector": "lab", "tool": "stir", "args": {"id": "a"}}
    (opened,) = await world.process.meta.open(ctx, [("execute_connector_tool", args, 5)])
    assert opened.waiting
    assert opened.effect is Effect.WRITE


@pytest.mark.parametrize(
    ("name", "args", "code"),
    [
        ("git.log", {}, "tool_not_found"),
        ("search_connector_tools", {}, "invalid_args"),
        ("execute_connector_tool", {"connector": "lab", "tool": "look"}, "invalid_args"),
        ("list_connectors", {"realm": 3}, "invalid_args"),
    ],
)
async def test_a_wrong_meta_call_is_an_error_for_the_model(world, name, args, code):
    result = await meta(world, name, **args)
    assert (result.status, result.error.code) == (ToolStatus.ERROR, code)


async def test_access_is_asked_for_once_and_a_viewer_may_not_ask(world):
    asked = {"connector": "jira", "reason": "the tickets are there"}
    first = await meta(world, "request_connector_access", **asked)
    again = await meta(world, "request_connector_access", **asked)
    assert first.result["access_request_id"] == again.result["access_request_id"]
    assert await world.sql("SELECT count(*) FROM access_requests") == 1
    refused = await meta(world, "request_connector_access", who="viewer", **asked)
    assert refused.error.code == "permission_denied"


def long_tool(n: int, fields: int) -> dict[str, Any]:
    properties = {f"field_{i}": {"type": "string", "description": "x" * 80} for i in range(fields)}
    return {"name": f"a.{n}", "description": "d", "input_schema": {"properties": properties}}


@pytest.mark.parametrize(("tools", "fields"), [(3, 5), (8, 20), (50, 40)])
def test_search_answers_stay_in_their_bound_and_mark_what_was_shortened(tools, fields):
    shown = fitted([long_tool(n, fields) for n in range(tools)])
    assert len(orjson.dumps({"tools": shown})) <= SEARCH_BYTES
    assert shown[0]["name"] == "a.0"
    if fields == 5:
        assert not any("schema_shortened" in tool for tool in shown)
    else:
        assert any(tool.get("schema_shortened") for tool in shown)
    if tools == 8:
        assert len(shown) == 8


def test_a_tool_spec_of_the_model_is_a_closed_object():
    for spec in META_TOOLS:
        assert isinstance(spec, ToolSpec)
        assert spec.input_schema["additionalProperties"] is False
