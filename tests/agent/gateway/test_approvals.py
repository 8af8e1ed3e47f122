import asyncio
import random
import secrets
from contextlib import suppress

import pytest

from agentcy_ray.audit.log import AuditLog
from agentcy_ray.core.errors import (
    ConflictError,
    GoneError,
    NotFoundError,
    PermissionDeniedError,
    StoreUnavailableError,
)
from agentcy_ray.core.events import EventType
from agentcy_ray.core.ids import encode, new_id
from agentcy_ray.core.states import APPROVAL, may
from agentcy_ray.core.tools import Effect, ToolCall, ToolStatus
from agentcy_ray.stores.bell import Bell
from agentcy_ray.stores.redis import open_redis
from tests.agent.gateway.world import AgentRow, World, make_process

OVERDUE = "UPDATE approvals SET expires_at = now() - interval '1 second' WHERE id = $1 RETURNING 1"


def call(tool: str = "stir", position: int = 1000, **args) -> ToolCall:
    return ToolCall(connector="lab", tool=tool, args=args or {"id": "flask-1"}, position=position)


async def opened(world: World, who: str = "owner", tool: str = "stir", **more):
    """A call that waits: its context, the open call and the task that finishes it."""
    ctx = world.ctx(who, run=new_id(), **more)
    waiting = await world.process.gateway.open(ctx, call(tool))
    assert waiting.waiting
    return ctx, waiting, asyncio.create_task(world.process.gateway.finish(ctx, waiting))


async def decide(world: World, who: str, approval_id, approved: bool = True, **more):
    return await world.process.approvals.decide(
        world.people[who], approval_id, approved=approved, via="api", **more
    )


async def test_an_approval_releases_nothing_for_who_was_deactivated_meanwhile(
    world: World,
) -> None:
    ctx, waiting, finishing = await opened(world, "member")
    await world.sql(
        "UPDATE users SET active = false WHERE id = $1 RETURNING 1", ctx.principal.user_id
    )
    await decide(world, "owner", waiting.approval.id)
    result = await asyncio.wait_for(finishing, 60)
    assert (result.status, result.error.code) == (ToolStatus.DENIED, "permission_denied")
    assert world.dispatcher.tools == []
    approval = await world.process.approvals.of_call(world.org, waiting.tool_call_id)
    assert approval.status == "cancelled"


# -- when ---------------------------------------------------------------------------------------


@pytest.mark.requirement("APR-03")
@pytest.mark.parametrize(
    ("who", "tool", "org", "agent", "asks"),
    [
        ("owner", "look", {}, None, False),
        ("owner", "peek", {}, None, True),
        ("owner", "stir", {}, None, True),
        ("owner", "stir", {"write": "allow"}, None, False),
        ("owner", "stir", {"write": "allow"}, {Effect.WRITE: "approve"}, True),
        ("owner", "stir", {"write": "approve"}, {Effect.WRITE: "allow"}, False),
        ("owner", "discard", {"write": "allow"}, None, True),
        ("owner", "look", {"read": "approve"}, None, True),
        ("member", "stir", {"write": "allow"}, None, True),  # a policy asks
        ("member", "look", {}, {Effect.WRITE: "approve"}, False),
    ],
)
async def test_an_approval_is_opened_when_tool_default_or_policy_wants_it(
    world, who, tool, org, agent, asks
):
    await world.set(approval_defaults=org)
    profile = None if agent is None else AgentRow(approval_defaults=agent)
    ctx = world.ctx(who, run=new_id(), agent=profile)
    waiting = await world.process.gateway.open(ctx, call(tool))
    assert waiting.waiting is asks
    assert len(world.told(EventType.APPROVAL_REQUIRED)) == int(asks)


async def test_a_default_of_deny_denies(world):
    await world.set(approval_defaults={"write": "deny"})
    result = await world.process.gateway.call(world.ctx("owner", run=new_id()), call())
    assert (result.status, result.error.code) == (ToolStatus.DENIED, "policy_denied")


async def test_what_a_decider_gets_to_see_is_complete_and_masked(world):
    ctx = world.ctx("member", run=new_id())
    waiting = await world.process.gateway.open(ctx, call(id="a", password="correct horse"))
    (event,) = world.told(EventType.APPROVAL_REQUIRED)
    assert event["args"] == {"id": "a", "password": "[redacted]"}
    assert event["approval_id"] == encode("apr", waiting.approval.id)
    assert event["tool_call_id"] == encode("tc", waiting.tool_call_id)
    assert (event["connector"], event["tool"], event["effect"]) == ("lab", "stir", "write")
    assert len(event["reasons"]) == 2  # the default and the policy
    assert event["reason"] == event["reasons"][0]
    assert waiting.approval.by_policy


# -- deciding -----------------------------------------------------------------------------------


@pytest.mark.requirement("APR-01")
async def test_a_ring_wakes_the_paused_call(world):
    world.process.approvals._waits.poll_secs = 60  # only a ring can be in time
    ctx, waiting, task = await opened(world)
    await decide(world, "admin", waiting.approval.id, note="go")
    async with asyncio.timeout(60):
        result = await task
    assert (result.status, result.approval_id) == (ToolStatus.COMPLETED, waiting.approval.id)
    (event,) = world.told(EventType.APPROVAL_RESOLVED)
    assert (event["status"], event["via"], event["note"]) == ("approved", "api", "go")
    approval = await world.process.approvals.get(ctx.principal, waiting.approval.id)
    assert approval.status == "consumed"
    assert approval.decided_by == world.people["admin"].user_id
    assert approval.consumed_at is not None
    assert [e.action for e in await world.audited()] == ["chat.approve", "chat.tool.execute"]


@pytest.mark.requirement("APR-11")
async def test_a_decision_whose_ring_is_lost_resumes_the_call_by_polling(world, redis_url):
    store = await open_redis(redis_url, f"elsewhere-{secrets.token_hex(4)}")
    deaf = make_process(
        world.db, Bell(store), world.sources, world.objects, world.settings, world.dispatcher,
        world.search,
    )  # fmt: skip
    _, waiting, task = await opened(world)
    await deaf.approvals.decide(
        world.people["admin"], waiting.approval.id, approved=True, via="cli"
    )
    async with asyncio.timeout(60):
        assert (await task).status is ToolStatus.COMPLETED
    await deaf.close()
    await store.aclose()


async def test_a_denied_call_tells_the_note_and_is_never_made(world):
    _, waiting, task = await opened(world)
    await decide(world, "owner", waiting.approval.id, approved=False, note="not today")
    result = await task
    assert (result.status, result.error.code) == (ToolStatus.DENIED, "policy_denied")
    assert "not today" in result.error.message
    assert world.dispatcher.requests == []
    assert (await world.rows())[0].status is ToolStatus.DENIED
    denied = await world.audited(decision="deny")
    assert [entry.id for entry in denied] == [result.policy.audit_id]


@pytest.mark.requirement("APR-08")
async def test_of_two_concurrent_decisions_one_wins_and_the_other_is_told(world, second):
    for _ in range(5):
        _, waiting, task = await opened(world)
        outcomes = await asyncio.gather(
            decide(world, "owner", waiting.approval.id, approved=True),
            second.approvals.decide(
                world.people["admin"], waiting.approval.id, approved=False, via="console"
            ),
            return_exceptions=True,
        )
        lost = [o for o in outcomes if isinstance(o, ConflictError)]
        assert [error.code for error in lost] == ["already_decided"]
        won = next(o for o in outcomes if o not in lost)
        expected = ToolStatus.COMPLETED if won.status == "approved" else ToolStatus.DENIED
        assert (await task).status is expected
    decisions = [e for e in await world.audited() if e.action == "chat.approve"]
    assert len(decisions) == 5


@pytest.mark.requirement("APR-09")
async def test_an_overdue_approval_expires_and_the_model_is_told_of_the_time_out(world):
    _, waiting, task = await opened(world)
    await world.sql(OVERDUE, waiting.approval.id)
    result = await task
    assert (result.status, result.error.code) == (ToolStatus.DENIED, "policy_denied")
    assert "in time" in result.error.message
    assert world.told(EventType.APPROVAL_RESOLVED)[0]["status"] == "expired"
    with pytest.raises(GoneError) as caught:
        await decide(world, "owner", waiting.approval.id)
    assert caught.value.code == "approval_expired"


async def test_a_late_decision_expires_the_approval_even_if_nobody_waits(world):
    ctx = world.ctx("owner", run=new_id())
    waiting = await world.process.gateway.open(ctx, call())
    await world.sql(OVERDUE, waiting.approval.id)
    assert await world.process.approvals.list(ctx.principal, status="pending") == ()
    with pytest.raises(GoneError):
        await decide(world, "owner", waiting.approval.id)
    assert (await world.process.approvals.get(ctx.principal, waiting.approval.id)).status == (
        "expired"
    )


@pytest.mark.requirement("APR-06")
async def test_approvals_of_one_turn_wait_together_and_are_decided_in_any_order(world):
    gateway, ctx = world.process.gateway, world.ctx("owner", run=new_id())
    waiting = [await gateway.open(ctx, call(position=1000 + n, id=f"f{n}")) for n in range(3)]
    assert len(await world.process.approvals.list(ctx.principal, status="pending")) == 3
    tasks = [asyncio.create_task(gateway.finish(ctx, one)) for one in waiting]
    for n in (2, 0, 1):
        await decide(world, "owner", waiting[n].approval.id, approved=n != 1)
    results = await asyncio.gather(*tasks)
    assert [r.status for r in results] == [
        ToolStatus.COMPLETED, ToolStatus.DENIED, ToolStatus.COMPLETED,
    ]  # fmt: skip


# -- who ----------------------------------------------------------------------------------------


@pytest.mark.requirement("APR-13")
async def test_what_a_policy_asked_for_takes_the_full_grant(world):
    _, waiting, task = await opened(world, "member")
    with pytest.raises(PermissionDeniedError):
        await decide(world, "member", waiting.approval.id)
    await decide(world, "admin", waiting.approval.id)
    assert (await task).status is ToolStatus.COMPLETED


async def test_a_member_decides_an_own_call_that_only_the_default_asked_for(world):
    ctx = world.ctx("member", run=new_id())
    waiting = await world.process.gateway.open(ctx, call("peek"))
    for stranger, error in (("colleague", NotFoundError), ("viewer", PermissionDeniedError)):
        with pytest.raises(error):
            await decide(world, stranger, waiting.approval.id)
    assert (await decide(world, "member", waiting.approval.id)).status == "approved"


@pytest.mark.requirement("APR-13")
async def test_with_a_second_person_required_the_requester_never_decides(world):
    await world.set(approval_second_person=True)
    _, waiting, task = await opened(world, "owner")
    with pytest.raises(PermissionDeniedError, match="second person"):
        await decide(world, "owner", waiting.approval.id)
    await decide(world, "admin", waiting.approval.id)
    assert (await task).status is ToolStatus.COMPLETED


async def ask(world: World, msg: str) -> None:
    """A policy that asks for an approval of every call of ``lab.stir`` in these words."""
    await world.set(approval_defaults={"write": "allow"})
    await world.process.policy.store.create(
        world.org, None, "mine.rego",
        f'package agentcy.mine\nimport rego.v1\nrequire_approval contains {msg} if '
        'input.resource.tool == "lab.stir"',
    )  # fmt: skip
    world.process.policy._active.expire(world.org)


async def test_a_policy_may_want_two_people_and_the_second_of_them_decides(world, second):
    await ask(world, '{"msg": "four eyes", "quorum": 2}')
    _, waiting, task = await opened(world)
    assert waiting.approval.reasons == ("four eyes",)
    assert world.told(EventType.APPROVAL_REQUIRED)[0]["quorum"] == 2
    first = await decide(world, "owner", waiting.approval.id, note="mine")
    assert (first.status, first.decided_by, [v.note for v in first.votes]) == (
        "pending", None, ["mine"],
    )  # fmt: skip
    with pytest.raises(ConflictError, match="2 different people") as caught:
        await decide(world, "owner", waiting.approval.id)
    assert caught.value.code == "already_decided"
    assert world.dispatcher.requests == []
    decided = await second.approvals.decide(
        world.people["admin"], waiting.approval.id, approved=True, via="cli", note="and mine"
    )
    assert (decided.status, decided.decided_by) == ("approved", world.people["admin"].user_id)
    assert [(vote.by, vote.via) for vote in decided.votes] == [
        (world.people["owner"].user_id, "api"), (world.people["admin"].user_id, "cli"),
    ]  # fmt: skip
    assert (await task).status is ToolStatus.COMPLETED
    votes = [entry for entry in await world.audited() if entry.action == "chat.approve"]
    assert [entry.resource["status"] for entry in votes] == ["pending", "approved"]
    assert [entry.reasons for entry in votes] == [("mine",), ("and mine",)]


async def test_of_two_people_who_approve_at_once_both_count(world, second):
    await ask(world, '{"msg": "four eyes", "quorum": 2}')
    for _ in range(5):
        _, waiting, task = await opened(world)
        await asyncio.gather(
            decide(world, "owner", waiting.approval.id),
            second.approvals.decide(
                world.people["admin"], waiting.approval.id, approved=True, via="api"
            ),
        )
        assert (await task).status is ToolStatus.COMPLETED


async def test_one_refusal_denies_whatever_the_quorum(world):
    await ask(world, '{"msg": "four eyes", "quorum": 2}')
    _, waiting, task = await opened(world)
    await decide(world, "owner", waiting.approval.id)
    denied = await decide(world, "admin", waiting.approval.id, approved=False, note="no")
    assert denied.status == "denied"
    assert "no" in (await task).error.message
    assert world.dispatcher.requests == []


@pytest.mark.requirement("APR-13")
async def test_a_policy_may_keep_the_requester_from_deciding(world):
    await ask(world, '{"msg": "not your own", "second_person": true}')
    _, waiting, task = await opened(world, "owner")
    for approved in (True, False):
        with pytest.raises(PermissionDeniedError, match="second person"):
            await decide(world, "owner", waiting.approval.id, approved=approved)
    await decide(world, "admin", waiting.approval.id)
    assert (await task).status is ToolStatus.COMPLETED


async def test_members_see_their_own_approvals_and_admins_all(world):
    for who in ("member", "owner"):
        await world.process.gateway.open(world.ctx(who, run=new_id()), call())
    approvals = world.process.approvals
    everything = await approvals.list(world.people["admin"])
    mine = await approvals.list(world.people["member"])
    assert (len(everything), len(mine)) == (2, 1)
    assert await approvals.list(world.people["owner"], mine=True) == (everything[0],)
    assert await approvals.list(world.people["admin"], limit=1, before=everything[0].id) == mine
    with pytest.raises(NotFoundError):
        await approvals.get(world.people["member"], everything[0].id)
    with pytest.raises(NotFoundError):
        await approvals.get(world.people["admin"], new_id())


# -- once, for what was approved ----------------------------------------------------------------


@pytest.mark.requirement("APR-04")
async def test_arguments_that_changed_after_the_approval_are_refused(world):
    _, waiting, task = await opened(world)
    waiting.call.args["id"] = "another flask"
    await decide(world, "owner", waiting.approval.id)
    result = await task
    assert (result.status, result.error.code) == (ToolStatus.DENIED, "approval_mismatch")
    assert world.dispatcher.requests == []


@pytest.mark.requirement("APR-12")
async def test_policy_is_asked_again_after_the_approval_and_a_deny_wins(world):
    _, waiting, task = await opened(world)
    await world.process.policy.store.create(
        world.org, None, "mine.rego",
        'package agentcy.mine\nimport rego.v1\ndeny contains "changed" if '
        "input.context.approval_granted",
    )  # fmt: skip
    world.process.policy._active.expire(world.org)
    await decide(world, "owner", waiting.approval.id)
    result = await task
    assert (result.status, result.error.code) == (ToolStatus.DENIED, "policy_denied")
    assert "changed" in result.error.message
    assert world.dispatcher.requests == []
    approval = await world.process.approvals.get(world.people["owner"], waiting.approval.id)
    assert approval.status == "cancelled"


@pytest.mark.requirement("APR-05")
async def test_one_approval_releases_one_execution_even_of_two_executors(world, second):
    ctx = world.ctx("owner", run=new_id())
    first = await world.process.gateway.open(ctx, call())
    twin = await second.gateway.open(ctx, call())
    assert twin.approval.id == first.approval.id
    tasks = [
        asyncio.create_task(world.process.gateway.finish(ctx, first)),
        asyncio.create_task(second.gateway.finish(ctx, twin)),
    ]
    await decide(world, "owner", first.approval.id)
    one, other = await asyncio.gather(*tasks)
    assert world.dispatcher.tools == ["stir"]
    assert one.result == other.result == {"done": "stir"}
    assert one.policy == other.policy
    executed = [e for e in await world.audited() if e.action == "chat.tool.execute"]
    assert len(executed) == 1


@pytest.mark.requirement("APR-10")
async def test_an_approval_outlives_the_executor_that_opened_it(world, second):
    ctx, waiting, task = await opened(world)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await decide(world, "owner", waiting.approval.id)
    result = await second.gateway.call(ctx, call())
    assert (result.status, result.tool_call_id) == (ToolStatus.COMPLETED, waiting.tool_call_id)
    assert world.dispatcher.tools == ["stir"]


async def test_a_read_that_waits_is_taken_up_too(world, second):
    ctx = world.ctx("owner", run=new_id())
    first = await world.process.gateway.open(ctx, call("peek"))
    twin = await second.gateway.open(ctx, call("peek"))
    assert (twin.tool_call_id, twin.approval.id) == (first.tool_call_id, first.approval.id)


async def test_cancelling_the_run_voids_its_approvals_and_wakes_the_call(world):
    ctx, waiting, task = await opened(world)
    assert await world.process.approvals.cancel_for_run(world.org, ctx.run_id) == 1
    result = await task
    assert (result.status, result.error.code) == (ToolStatus.CANCELLED, "cancelled")
    assert (await world.rows())[0].status is ToolStatus.CANCELLED
    assert world.dispatcher.requests == []
    with pytest.raises(ConflictError):
        await decide(world, "owner", waiting.approval.id)


async def test_an_end_that_nobody_voted_for_is_audited_once(world, second):
    overdue, cancelled = [await opened(world) for _ in range(2)]
    await world.sql(OVERDUE, overdue[1].approval.id)
    await asyncio.gather(world.process.approvals.sweep(), second.approvals.sweep(), overdue[2])
    await world.process.approvals.cancel_for_run(world.org, cancelled[0].run_id)
    await cancelled[2]
    ends = [e for e in await world.audited() if e.action.startswith("chat.approval.")]
    assert [(e.action, e.decision, e.resource["id"]) for e in ends] == [
        ("chat.approval.expired", "deny", encode("apr", overdue[1].approval.id)),
        ("chat.approval.cancelled", "deny", encode("apr", cancelled[1].approval.id)),
    ]


async def test_a_vote_whose_process_died_before_its_audit_entry_gets_one(world, second):
    class Mute(AuditLog):
        async def append(self, entry):
            raise StoreUnavailableError("the process dies here")

    dying = make_process(
        world.db, world.bell, world.sources, world.objects, world.settings, world.dispatcher,
        world.search, Mute(world.db),
    )  # fmt: skip
    _, waiting, task = await opened(world)
    with pytest.raises(StoreUnavailableError):
        await dying.approvals.decide(
            world.people["admin"], waiting.approval.id, approved=True, via="api", note="go"
        )
    await task
    await dying.close()
    repaired = await asyncio.gather(
        *(process.approvals._audit.repair(0) for process in (world.process, second))
    )
    assert sum(repaired) + await second.approvals._audit.repair(0) == 1
    (entry,) = [e for e in await world.audited() if e.action == "chat.approve"]
    assert (entry.user_id, entry.reasons) == (world.people["admin"].user_id, ("go",))


FILL = """
WITH calls AS (
  INSERT INTO tool_calls (id, org_id, position, connector, tool, args, args_sha256, effect,
                          principal)
  SELECT gen_random_uuid(), $1, n, 'lab', 'stir', '{}', '', 'write', '{}'
  FROM generate_series(1, 200) AS n RETURNING id)
INSERT INTO approvals (id, org_id, tool_call_id, connector, tool, args, args_sha256, effect,
                       reasons, by_policy, requested_by, expires_at)
SELECT gen_random_uuid(), $1, id, 'lab', 'stir', '{}', '', 'write', '{}', false,
       gen_random_uuid(), now() + interval '1 hour'
FROM calls RETURNING 1
"""


async def test_beyond_two_hundred_pending_approvals_a_call_is_denied(world):
    await world.sql(FILL, world.org)
    result = await world.process.gateway.call(world.ctx("owner", run=new_id()), call())
    assert (result.status, result.error.code) == (ToolStatus.DENIED, "quota_exceeded")
    assert world.dispatcher.requests == []
    assert len(await world.audited(decision="deny")) == 1


MOVES = ("approve", "deny", "overdue", "expire", "cancel", "consume", "reopen")


@pytest.mark.parametrize("seed", range(12))
async def test_no_order_of_moves_leads_off_the_state_machine(world, seed):
    chance, approvals = random.Random(seed), world.process.approvals
    ctx = world.ctx("owner", run=new_id())
    approval = (await world.process.gateway.open(ctx, call())).approval
    status = "pending"
    for move in chance.choices(MOVES, k=12):
        with suppress(ConflictError, GoneError):
            match move:
                case "approve" | "deny":
                    await decide(world, "owner", approval.id, approved=move == "approve")
                case "overdue":
                    await world.sql(OVERDUE, approval.id)
                case "expire":
                    await approvals.sweep()
                case "cancel":
                    await approvals.cancel(world.org, approval.id)
                case "consume":
                    await approvals.use(world.org, approval.id, approval.args_sha256)
                case _:
                    await world.process.gateway.open(ctx, call())
        found = (await approvals.get(ctx.principal, approval.id)).status
        assert found == status or may(APPROVAL, status, found), (move, status, found)
        status = found
