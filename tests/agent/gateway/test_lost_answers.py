"""Effects whose answer was lost: the connector is asked where it can tell, and nothing is blind."""

import asyncio

import pytest

from agentcy_ray.core.errors import ConnectorUnavailableError, OutcomeUnknownError
from agentcy_ray.core.ids import new_id
from agentcy_ray.core.tools import Effect, ToolCall, ToolStatus
from tests.agent.gateway.world import World


def call(tool: str = "pour") -> ToolCall:
    return ToolCall(connector="lab", tool=tool, args={"id": "flask-1"}, position=1000)


@pytest.fixture
async def free(world: World) -> None:
    """Let owners' writes pass without an approval."""
    await world.set(approval_defaults={"write": "allow"})


def answers(world: World, *said: object) -> None:
    """What the dispatcher answers, call by call; probes are calls too."""
    queue = iter(said)
    world.dispatcher.answer = lambda request: next(queue)


def sent(world: World) -> list[bool]:
    """For each request whether it was a probe."""
    return [request.probe for request in world.dispatcher.requests]


async def crashed(world: World, run) -> None:
    """An executor dies after it has dispatched a call."""
    started = asyncio.Event()

    async def die(request) -> None:
        started.set()
        await asyncio.Event().wait()

    world.dispatcher.before = die
    gateway = world.process.gateway
    task = asyncio.create_task(gateway.call(world.ctx("owner", run=run), call()))
    await started.wait()
    for work in (task, *gateway._kept.tasks):
        work.cancel()
    await asyncio.gather(task, *gateway._kept.tasks, return_exceptions=True)
    world.dispatcher.before = None


async def test_after_a_crash_a_call_that_was_carried_out_is_completed_from_the_record(
    world, second, free
):
    run = new_id()
    await crashed(world, run)
    answers(world, {"fate": "done", "result": {"ml": 5}})
    result = await second.gateway.call(world.ctx("owner", run=run), call())
    assert (result.status, result.result) == (ToolStatus.COMPLETED, {"ml": 5})
    first, probe = world.dispatcher.requests
    assert (probe.probe, probe.effect, probe.idempotency_key) == (
        True, Effect.READ, first.idempotency_key,
    )  # fmt: skip
    assert [entry.id for entry in await world.audited()] == [result.policy.audit_id]


async def test_after_a_crash_a_call_that_was_not_carried_out_is_sent_once_more(world, second, free):
    run = new_id()
    await crashed(world, run)
    answers(world, {"fate": "not_done"}, {"ml": 5})
    result = await second.gateway.call(world.ctx("owner", run=run), call())
    assert (result.status, result.result) == (ToolStatus.COMPLETED, {"ml": 5})
    assert sent(world) == [False, True, False]
    assert len({request.idempotency_key for request in world.dispatcher.requests}) == 1


async def test_a_call_is_not_sent_again_when_a_policy_denies_it_by_now(world, second, free):
    run = new_id()
    await crashed(world, run)
    await second.policy.store.create(
        world.org, None, "mine.rego",
        'package agentcy.mine\nimport rego.v1\ndeny contains "no more" if true',
    )  # fmt: skip
    second.policy._active.expire(world.org)
    answers(world, {"fate": "not_done"})
    result = await second.gateway.call(world.ctx("owner", run=run), call())
    assert (result.status, result.error.code) == (ToolStatus.ERROR, "policy_denied")
    assert sent(world) == [False, True]


@pytest.mark.parametrize(
    "said",
    [
        [{"fate": "unknown"}],
        [{"fate": "gone fishing"}],
        [OutcomeUnknownError("host died"), ConnectorUnavailableError("no host")],
    ],
    ids=["unknown", "nonsense", "host away"],
)
async def test_without_a_clear_answer_the_outcome_stays_unknown(world, second, free, said):
    run = new_id()
    await crashed(world, run)
    answers(world, *said)
    result = await second.gateway.call(world.ctx("owner", run=run), call())
    assert (result.status, result.error.code) == (ToolStatus.INDETERMINATE, "indeterminate")
    assert sent(world) == [False] + [True] * len(said)


@pytest.mark.requirement("TOOL-08")
@pytest.mark.parametrize(
    ("said", "status", "requests"),
    [
        ([{"fate": "done", "result": 1}], ToolStatus.COMPLETED, [False, True]),
        ([{"fate": "not_done"}, 1], ToolStatus.COMPLETED, [False, True, False]),
        ([{"fate": "unknown"}], ToolStatus.INDETERMINATE, [False, True]),
    ],
    ids=["done", "not done", "unknown"],
)
async def test_a_host_that_dies_with_an_effect_in_flight_is_asked_about_by_its_successor(
    world, free, said, status, requests
):
    answers(world, OutcomeUnknownError("host died"), *said)
    result = await world.process.gateway.call(world.ctx("owner", run=new_id()), call())
    assert (result.status, result.result) == (
        status, 1 if status is ToolStatus.COMPLETED else None,
    )  # fmt: skip
    assert sent(world) == requests
