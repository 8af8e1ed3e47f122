import asyncio
from dataclasses import replace
from uuid import UUID

import orjson
import pytest

from agentcy_ray.agent.calls import OpenCall
from agentcy_ray.agent.canonical_args import args_sha256, idempotency_key
from agentcy_ray.audit.log import AuditLog
from agentcy_ray.core.errors import (
    ConnectorUnavailableError,
    OutcomeUnknownError,
    StoreUnavailableError,
)
from agentcy_ray.core.events import EventType
from agentcy_ray.core.ids import encode, new_id
from agentcy_ray.core.tools import Effect, ToolCall, ToolOutcome, ToolStatus
from tests.agent.gateway.world import AgentRow, World, make_process


def call(tool: str, position: int = 1000, connector: str = "lab", **args) -> ToolCall:
    return ToolCall(
        connector=connector, tool=tool, args=args or {"id": "flask-1"}, position=position
    )


async def free(world: World) -> None:
    """Let owners' writes pass without an approval."""
    await world.set(approval_defaults={"write": "allow", "destructive": "allow"})


# -- route --------------------------------------------------------------------------------------


async def test_a_read_passes_at_once_and_leaves_one_audit_entry_and_no_row(world):
    result = await world.process.gateway.call(world.ctx(run=new_id()), call("look"))
    assert (result.status, result.result) == (ToolStatus.COMPLETED, {"done": "look"})
    assert await world.rows() == []
    (entry,) = await world.audited()
    assert entry.id == result.policy.audit_id
    assert (entry.decision, entry.resource["tool"], entry.resource["status"]) == (
        "allow", "lab.look", "completed",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("wrong", "code", "says"),
    [
        (call("lok"), "tool_not_found", "lab.look"),
        (call("look", connector="nowhere"), "tool_not_found", "search"),
        (ToolCall(connector="lab", tool="look", args={}), "invalid_args", "id: is missing"),
        (call("look", id="a", n="x"), "invalid_args", "n: "),
        (call("look", id="a", extra=1), "invalid_args", "It takes: id (required)"),
        (call("look", id="a", password=2**60), "invalid_args", "large numbers as text"),
        (call("look", id="x" * 300_000), "invalid_args", "262144"),
        (
            ToolCall(connector="lab", tool="look", args={"id": "a"}, source="else"),
            "tool_not_found",
            "bench",
        ),
    ],
)
async def test_a_call_that_cannot_be_routed_says_what_to_change(world, wrong, code, says):
    result = await world.process.gateway.call(world.ctx(run=new_id()), wrong)
    assert (result.status, result.error.code) == (ToolStatus.ERROR, code)
    assert says in result.error.message
    assert world.dispatcher.requests == []


async def test_a_tool_of_two_sources_needs_the_name_of_one(world):
    await world.add_source("other bench")
    gateway, ctx = world.process.gateway, world.ctx(run=new_id())
    unclear = await gateway.call(ctx, call("look"))
    assert unclear.error.code == "source_ambiguous"
    assert "bench, other bench" in unclear.error.message
    named = replace(call("look"), source="other bench")
    assert (await gateway.call(ctx, named)).status is ToolStatus.COMPLETED


# -- permission and policy ------------------------------------------------------------------------


@pytest.mark.requirement("POL-06")
async def test_a_policy_that_denies_stops_the_call_before_the_backend(world):
    await world.process.policy.store.create(
        world.org, None, "mine.rego",
        'package agentcy.mine\nimport rego.v1\n'
        'deny contains "not flask-1" if input.resource.args.id == "flask-1"',
    )  # fmt: skip
    world.process.policy._active.expire(world.org)
    result = await world.process.gateway.call(world.ctx(run=new_id()), call("look"))
    assert (result.status, result.error.code) == (ToolStatus.DENIED, "policy_denied")
    assert "not flask-1" in result.error.message
    assert result.policy.decision == "deny"
    assert world.dispatcher.requests == []
    (entry,) = await world.audited(decision="deny")
    assert (entry.id, entry.category) == (result.policy.audit_id, "policy")
    assert entry.rule == "data.agentcy.mine.deny"
    assert (await world.process.gateway.call(world.ctx(), call("look", id="b"))).error is None


@pytest.mark.requirement("POL-08")
async def test_the_policy_input_holds_all_that_is_specified(world):
    run, agent = new_id(), AgentRow(name="helper")
    await world.process.gateway.call(
        world.ctx(run=run, realm="development", agent=agent, ip="10.0.0.7"), call("look", id="a")
    )
    (entry,) = await world.audited()
    member = world.people["member"]
    assert entry.input == {
        "subject": {
            "user_id": encode("usr", member.user_id),
            "org_id": encode("org", world.org),
            "role": "member",
            "external_id": None,
            "api_key_id": None,
            "channel": "api",
        },
        "action": "chat.tool.execute",
        "resource": {
            "type": "tool",
            "connector": "lab",
            "source": encode("src", world.source.id),
            "tool": "lab.look",
            "tool_effect": "read",
            "builtin": False,
            "args": {"id": "a"},
            "args_sha256": args_sha256({"id": "a"}),
        },
        "context": {
            "approval_granted": False,
            "ip": "10.0.0.7",
            "realm": "development",
            "request_id": "req_1",
            "run_id": encode("run", run),
            "agent": "helper",
            "parent_run_id": None,
        },
        "env": {"now": entry.input["env"]["now"], "instance_mode": "self-hosted"},
    }


async def test_a_viewer_reads_and_does_not_write(world):
    gateway, ctx = world.process.gateway, world.ctx("viewer", run=new_id())
    assert (await gateway.call(ctx, call("look"))).status is ToolStatus.COMPLETED
    refused = await gateway.call(ctx, call("stir"))
    assert (refused.status, refused.error.code) == (ToolStatus.DENIED, "permission_denied")
    assert world.dispatcher.tools == ["look"]
    assert [entry.decision for entry in await world.audited()] == ["allow", "deny"]


async def test_a_members_destructive_call_is_denied(world):
    result = await world.process.gateway.call(world.ctx(run=new_id()), call("discard"))
    assert (result.status, result.error.code) == (ToolStatus.DENIED, "policy_denied")


async def test_without_policies_a_call_is_not_released(world):
    broken = world.process.policy
    broken._active.expire(world.org)
    broken.store._db = Closed()
    with pytest.raises(StoreUnavailableError):
        await world.process.gateway.call(world.ctx(), call("look"))
    assert world.dispatcher.requests == []


class Closed:
    def tenant(self, org_id: UUID):
        raise StoreUnavailableError("away")


# -- intent, dispatch, receipt ------------------------------------------------------------------


@pytest.mark.requirement("TOOL-03")
@pytest.mark.requirement("TOOL-07")
async def test_an_effect_has_a_committed_intent_before_dispatch_and_a_receipt_after(world):
    await free(world)
    run, seen = new_id(), []

    async def before(request) -> None:
        (row,) = await world.rows()
        seen.append((row.status, row.intent_at is not None, row.receipt, await world.audited()))

    world.dispatcher.before = before
    result = await world.process.gateway.call(world.ctx("owner", run=run), call("stir"))
    assert result.status is ToolStatus.COMPLETED
    assert seen == [(ToolStatus.DISPATCHED, True, None, [])]
    (row,) = await world.rows()
    assert (row.status, row.receipt["ok"]) == (ToolStatus.COMPLETED, True)
    assert (row.result, row.audit_id) == ({"done": "stir"}, result.policy.audit_id)
    (request,) = world.dispatcher.requests
    key = idempotency_key(run, 1000, args_sha256({"id": "flask-1"}))
    assert (request.idempotency_key, row.idempotency_key) == (key, key)
    assert len(await world.audited()) == 1


async def test_a_read_is_tried_twice_when_its_host_is_away_and_then_fails(world):
    answers = iter([OutcomeUnknownError("host died"), {"ok": 1}])
    world.dispatcher.answer = lambda request: next(answers)
    gateway, ctx = world.process.gateway, world.ctx(run=new_id())
    assert (await gateway.call(ctx, call("look"))).result == {"ok": 1}
    world.dispatcher.answer = lambda request: ConnectorUnavailableError("no host")
    failed = await gateway.call(ctx, call("look"))
    assert (failed.status, failed.error.code) == (ToolStatus.ERROR, "connector_error")
    assert len(world.dispatcher.requests) == 4


@pytest.mark.parametrize("how", ["unknown", "timeout", "told", "crash"])
async def test_an_effect_without_an_answer_is_indeterminate_and_not_repeated(world, how):
    await free(world)
    if how == "timeout":
        world.process.gateway._backend._timeout_secs = 0.01
        world.dispatcher.before = lambda request: asyncio.Event().wait()
        tool = "slow"
    else:
        tool = "stir"
        world.dispatcher.answer = lambda request: {
            "unknown": OutcomeUnknownError("host died"),
            "told": ToolOutcome(
                tool_call_id=request.tool_call_id, ok=False, error_code="connector_timeout"
            ),
            "crash": RuntimeError("bug"),
        }[how]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("agentcy_ray.agent.backend.GRACE_SECS", 0.05)
        result = await world.process.gateway.call(world.ctx("owner", run=new_id()), call(tool))
    assert (result.status, result.error.code) == (ToolStatus.INDETERMINATE, "indeterminate")
    assert len(world.dispatcher.requests) == 1
    (row,) = await world.rows()
    assert row.status is ToolStatus.INDETERMINATE
    assert (await world.audited())[0].resource["status"] == "indeterminate"


async def test_an_effect_that_was_never_sent_is_an_error(world):
    await free(world)
    world.dispatcher.answer = lambda request: ConnectorUnavailableError("no host")
    result = await world.process.gateway.call(world.ctx("owner", run=new_id()), call("stir"))
    assert (result.status, result.error.code) == (ToolStatus.ERROR, "connector_error")


async def test_a_fault_of_the_tool_is_a_result(world):
    world.dispatcher.answer = lambda request: ToolOutcome(
        tool_call_id=request.tool_call_id, ok=False, error_code="connector_error",
        error_message="no such flask",
    )  # fmt: skip
    result = await world.process.gateway.call(world.ctx(run=new_id()), call("look"))
    assert (result.status, result.error.message) == (ToolStatus.ERROR, "no such flask")


@pytest.mark.requirement("AUD-05")
@pytest.mark.parametrize("tool", ["look", "stir"])
async def test_a_result_is_not_released_when_its_audit_entry_is_not_durable(world, tool):
    await free(world)

    class Mute(AuditLog):
        async def append(self, entry):
            raise StoreUnavailableError("the disk is gone")

    process = make_process(
        world.db, world.bell, world.sources, world.objects, world.settings, world.dispatcher,
        world.search, Mute(world.db),
    )  # fmt: skip
    with pytest.raises(StoreUnavailableError):
        await process.gateway.call(world.ctx("owner", run=new_id()), call(tool))
    await process.close()


async def test_reads_go_together_and_at_most_sixteen_are_on_their_way(world):
    full, places = asyncio.Event(), []

    async def wait(request) -> None:
        if len(world.dispatcher.requests) == 16:
            full.set()
        await asyncio.wait_for(full.wait(), 60)

    async def released(calls) -> None:
        if not places:
            assert len(world.dispatcher.requests) <= 32
        places.extend(one.call.position for one in calls)

    world.dispatcher.before = wait
    ctx = world.ctx(run=new_id())
    calls = [OpenCall(ctx.call_id(n), call("look", position=n)) for n in range(40)]
    await world.process.gateway.open_all(ctx, calls)
    assert world.dispatcher.requests == []
    await world.process.gateway.finish_all(ctx, calls, released)
    assert sorted(places) == list(range(40))
    assert {one.result.status for one in calls} == {ToolStatus.COMPLETED}
    ids = {entry.id for entry in await world.audited()}
    assert ids == {one.result.policy.audit_id for one in calls}


async def test_a_cancelled_read_is_abandoned(world):
    started = asyncio.Event()

    async def hang(request) -> None:
        started.set()
        await asyncio.Event().wait()

    world.dispatcher.before = hang
    task = asyncio.create_task(world.process.gateway.call(world.ctx(run=new_id()), call("look")))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [request.tool for request in world.dispatcher.abandoned] == ["look"]


async def test_a_dispatched_effect_is_finished_and_recorded_without_its_caller(world):
    await free(world)
    started, go = asyncio.Event(), asyncio.Event()

    async def hold(request) -> None:
        started.set()
        await go.wait()

    world.dispatcher.before = hold
    ctx = world.ctx("owner", run=new_id())
    task = asyncio.create_task(world.process.gateway.call(ctx, call("stir")))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go.set()
    await world.process.gateway.close()
    (row,) = await world.rows()
    assert row.status is ToolStatus.COMPLETED
    assert [entry.id for entry in await world.audited()] == [row.audit_id]


# -- taking over -------------------------------------------------------------------------------


async def crash_in(world: World, tool: str, run: UUID) -> None:
    """An executor dies after it has dispatched a call."""
    started = asyncio.Event()

    async def die(request) -> None:
        started.set()
        await asyncio.Event().wait()

    world.dispatcher.before = die
    gateway = world.process.gateway
    task = asyncio.create_task(gateway.call(world.ctx("owner", run=run), call(tool)))
    await started.wait()
    for work in (task, *gateway._kept.tasks):
        work.cancel()
    await asyncio.gather(task, *gateway._kept.tasks, return_exceptions=True)
    world.dispatcher.before = None


async def test_an_intent_without_a_receipt_is_not_repeated_by_the_successor(world, second):
    await free(world)
    run = new_id()
    await crash_in(world, "stir", run)
    result = await second.gateway.call(world.ctx("owner", run=run), call("stir"))
    assert (result.status, result.error.code) == (ToolStatus.INDETERMINATE, "indeterminate")
    assert world.dispatcher.tools == ["stir"]
    again = await second.gateway.call(world.ctx("owner", run=run), call("stir"))
    assert again.status is ToolStatus.INDETERMINATE
    assert len(await world.audited()) == 1


async def test_an_idempotent_tool_is_repeated_under_the_same_key(world, second):
    await free(world)
    run = new_id()
    await crash_in(world, "label", run)
    result = await second.gateway.call(world.ctx("owner", run=run), call("label"))
    assert result.status is ToolStatus.COMPLETED
    first, repeated = world.dispatcher.requests
    assert first.idempotency_key == repeated.idempotency_key
    assert first.tool_call_id == repeated.tool_call_id


async def test_a_finished_call_is_answered_from_its_row_and_witnessed_once(world, second):
    await free(world)
    run = new_id()
    ctx = world.ctx("owner", run=run)
    first = await world.process.gateway.call(ctx, call("stir"))
    again = await second.gateway.call(ctx, call("stir"))
    assert (again.tool_call_id, again.result) == (first.tool_call_id, first.result)
    assert again.policy == first.policy
    assert world.dispatcher.tools == ["stir"]
    assert len(await world.audited()) == 1
    other = await second.gateway.call(ctx, call("stir", position=1001))
    assert other.tool_call_id != first.tool_call_id


async def test_the_audit_entry_that_an_executor_owed_is_written_by_its_successor(world, second):
    await free(world)

    class DiesBeforeAudit(AuditLog):
        async def append(self, entry):
            raise StoreUnavailableError("killed")

    dying = make_process(
        world.db, world.bell, world.sources, world.objects, world.settings, world.dispatcher,
        world.search, DiesBeforeAudit(world.db),
    )  # fmt: skip
    ctx = world.ctx("owner", run=new_id())
    with pytest.raises(StoreUnavailableError):
        await dying.gateway.call(ctx, call("stir"))
    await dying.close()
    assert await world.audited() == []
    result = await second.gateway.call(ctx, call("stir"))
    assert result.status is ToolStatus.COMPLETED
    assert world.dispatcher.tools == ["stir"]
    assert [entry.id for entry in await world.audited()] == [result.policy.audit_id]


# -- results ------------------------------------------------------------------------------------


@pytest.mark.requirement("TOOL-06")
@pytest.mark.parametrize("value", ['quote " and line\n' * 4000, [{"n": n} for n in range(5000)]])
async def test_a_large_result_reaches_the_model_cut_with_the_whole_as_an_artifact(world, value):
    world.dispatcher.answer = lambda request: value
    result = await world.process.gateway.call(world.ctx(run=new_id()), call("look"))
    assert result.truncated
    assert len(orjson.dumps(result.result)) <= 16 * 1024
    whole = await world.process.artifacts.read(world.org, result.artifact_id)
    assert whole == (value.encode() if isinstance(value, str) else orjson.dumps(value))
    assert whole.startswith(result.result["head"].encode())
    assert whole.endswith(result.result["tail"].encode())
    assert result.result["artifact_id"] == encode("art", result.artifact_id)
    (told,) = world.told(EventType.ARTIFACT)
    assert told["bytes"] == len(whole)


async def test_a_result_past_every_bound_is_refused_and_says_so(world):
    world.process.gateway._results._largest = 1000
    world.dispatcher.answer = lambda request: "x" * 2000
    result = await world.process.gateway.call(world.ctx(run=new_id()), call("look"))
    assert (result.status, result.error.code) == (ToolStatus.ERROR, "result_too_large")


async def test_secrets_are_masked_in_results_rows_and_audit(world):
    await free(world)
    token = "ghp_" + "a" * 36
    world.dispatcher.answer = lambda request: {
        "log": f"cloned with {token}", "big": 2**70, "nul": "a\x00b",
    }  # fmt: skip
    result = await world.process.gateway.call(
        world.ctx("owner", run=new_id()), call("stir", id="a", password="hunter2-hunter2")
    )
    assert result.result["log"] == "cloned with [redacted]"
    (row,) = await world.rows()
    assert row.args == {"id": "a", "password": "[redacted]"}
    (entry,) = await world.audited()
    kept = orjson.dumps([row.model_dump(mode="json"), entry.model_dump(mode="json")]).decode()
    assert token not in kept
    assert "hunter2" not in kept
    assert world.dispatcher.requests[0].args["password"] == "hunter2-hunter2"


# -- built-in tools -------------------------------------------------------------------------------


async def test_built_in_tools_pass_the_gates_under_their_own_permission(world):
    gateway = world.process.gateway
    ctx = world.ctx("viewer", run=new_id(), realm="development")
    found = await gateway.call(ctx, ToolCall(connector="rag", tool="search", args={"query": "q"}))
    assert found.status is ToolStatus.COMPLETED
    assert world.search.asked[0][0] == ("development",)
    publish = ToolCall(
        connector="artifacts", tool="publish_artifact", args={"name": "a.md", "content": "# A"}
    )
    refused = await gateway.call(ctx, publish)
    assert (refused.status, refused.error.code) == (ToolStatus.DENIED, "permission_denied")
    kept = await gateway.call(world.ctx(run=new_id()), publish)
    assert kept.status is ToolStatus.COMPLETED
    (artifact,) = await world.process.artifacts.list(world.org)
    assert await world.process.artifacts.read(world.org, artifact.id) == b"# A"
    assert kept.result["artifact_id"] == encode("art", artifact.id)


async def test_publishing_is_repeated_without_a_second_artifact(world, second):
    ctx = world.ctx(run=new_id())
    publish = ToolCall(
        connector="artifacts", tool="publish_artifact", args={"name": "a", "content": "A"}
    )
    opened = await world.process.gateway.open(ctx, publish)
    await world.process.gateway.ledger.intend(ctx, opened)
    await world.process.gateway._backend.execute(ctx, opened)  # and dies before the receipt
    assert (await second.gateway.call(ctx, publish)).status is ToolStatus.COMPLETED
    assert len(await world.process.artifacts.list(world.org)) == 1


@pytest.mark.requirement("RBAC-04")
async def test_a_realm_of_the_agent_or_the_person_bounds_what_built_in_tools_read(world):
    search = ToolCall(connector="rag", tool="search", args={"query": "q"})
    limited = world.people["member"].model_copy(update={"realms": ("infrastructure",)})
    world.people["limited"] = limited
    for ctx in (
        world.ctx("limited"),
        world.ctx("limited", realm="development"),
        world.ctx(agent=AgentRow(realms=("default",))),
        world.ctx(agent=AgentRow(realms=("default",)), realm="development"),
    ):
        await world.process.gateway.call(ctx, search)
    assert [realms for realms, _ in world.search.asked] == [
        ("infrastructure",), (), ("default",), (),
    ]  # fmt: skip


def test_equal_arguments_have_one_canonical_form():
    assert args_sha256({"b": 1.0, "a": "é"}) == args_sha256({"a": "\u00e9", "b": 1})
    assert args_sha256({"a": 1}) != args_sha256({"a": "1"})
    assert Effect.WRITE.consequential
