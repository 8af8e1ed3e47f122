import asyncio

import pytest

from agentcy_ray.agent.gates import open_gates
from agentcy_ray.agent.tool_meters import ToolMeters
from agentcy_ray.core.ids import new_id
from agentcy_ray.core.metrics import Metrics
from agentcy_ray.core.tools import ToolCall
from tests.agent.gateway.world import StillGraph, World


@pytest.fixture
async def metered(world: World):
    """The world's process with metrics that the test reads."""
    metrics = Metrics()
    process = open_gates(
        world.db, world.bell, world.settings, sources=world.sources, dispatcher=world.dispatcher,
        search=world.search, engine=StillGraph(), objects=world.objects, metrics=metrics,
    )  # fmt: skip
    await world.process.close()
    world.process = process
    yield metrics
    await process.close()


def figures(metrics: Metrics, name: str) -> dict[str, float]:
    lines = metrics.text(metrics.read()).splitlines()
    found = dict(line.rsplit(" ", 1) for line in lines if line.startswith(f"agentcy_{name}"))
    return {labels.partition("{")[2].rstrip("}"): float(value) for labels, value in found.items()}


def call(tool: str, connector: str = "lab", **args) -> ToolCall:
    return ToolCall(connector=connector, tool=tool, args=args or {"id": "a"}, position=1000)


async def test_a_call_is_counted_by_connector_effect_and_decision(world, metered):
    gateway = world.process.gateway
    await gateway.call(world.ctx("member", run=new_id()), call("look"))
    await gateway.call(world.ctx("member", run=new_id()), call("look"))
    await gateway.call(world.ctx("viewer", run=new_id()), call("stir"))
    await gateway.call(world.ctx("member", run=new_id()), call("look", idd="a"))
    await gateway.call(world.ctx("member", run=new_id()), call("x", connector="someone's secret"))
    assert figures(metered, "tool_calls_total") == {
        'connector="lab",effect="read",decision="allow"': 2,
        'connector="lab",effect="write",decision="deny"': 1,
        'connector="lab",effect="read",decision="invalid"': 1,
        'connector="unknown",effect="read",decision="invalid"': 1,
    }


async def test_an_approved_call_shows_its_stages_and_how_soon_it_went_on(world, metered):
    ctx = world.ctx("owner", run=new_id())
    opened = await world.process.gateway.open(ctx, call("stir"))
    finishing = asyncio.create_task(world.process.gateway.finish(ctx, opened))
    await world.process.approvals.decide(
        world.people["admin"], opened.approval.id, approved=True, via="api"
    )
    await finishing
    assert figures(metered, "tool_calls_total") == {
        'connector="lab",effect="write",decision="approved"': 1
    }
    stages = figures(metered, "tool_call_seconds_count")
    assert stages == {
        f'connector="lab",stage="{name}"': 1
        for name in ("gate", "policy", "approval", "dispatch", "queue", "audit", "total")
    }
    sums = figures(metered, "tool_call_seconds_sum")
    parts = sum(sums[f'connector="lab",stage="{s}"'] for s in ("gate", "approval", "dispatch"))
    assert 0 < parts <= sums['connector="lab",stage="total"']
    assert figures(metered, "approval_wakeup_seconds_count") == {"": 1}
    assert figures(metered, "policy_seconds_count") == {'decision="allow"': 1}


async def test_metering_a_call_finds_its_children_once(world, metered):
    meters = ToolMeters(metered)
    for _ in range(3):
        opened = await world.process.gateway.open(world.ctx("member", run=new_id()), call("look"))
        meters.ended(opened)
    assert len(meters._calls) == 1
