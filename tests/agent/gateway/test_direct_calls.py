import asyncio

import pytest

from agentcy_ray.audit.log import AuditLog
from agentcy_ray.core.errors import (
    InvalidError,
    NotFoundError,
    OutcomeUnknownError,
    StoreUnavailableError,
)
from agentcy_ray.core.ids import new_id
from agentcy_ray.core.tools import ToolCall, ToolStatus
from tests.agent.gateway.world import World, make_process

DECIDED_LONG_AGO = """
UPDATE approvals SET decided_at = now() - interval '1 minute' WHERE id = $1 RETURNING 1
"""


def call(tool: str = "look", **args) -> ToolCall:
    return ToolCall(connector="lab", tool=tool, args=args or {"id": "flask-1"})


async def direct(world: World, who: str, tool: ToolCall, **more):
    return await world.process.direct.call(
        world.people[who], None, tool, request_id="req_1", **more
    )


async def ended(world: World, tool_call_id) -> ToolStatus:
    """The call's last state, once nothing goes on in the background."""
    async with asyncio.timeout(60):
        await asyncio.gather(*world.process.direct._waiting, return_exceptions=True)
    row, _ = await world.process.direct.get(world.org, tool_call_id)
    return row.status


@pytest.mark.requirement("TOOL-05")
async def test_a_direct_call_answers_with_its_result_and_the_decision(world):
    result = await direct(world, "member", call())
    assert (result.status, result.result) == (ToolStatus.COMPLETED, {"done": "look"})
    assert result.usage_ms > 0
    (entry,) = await world.audited()
    assert (result.policy.decision, result.policy.audit_id) == ("allow", entry.id)
    row, again = await world.process.direct.get(world.org, result.tool_call_id)
    assert (row.status, again.result) == (ToolStatus.COMPLETED, result.result)
    with pytest.raises(NotFoundError):
        await world.process.direct.get(world.org, new_id())


@pytest.mark.requirement("TOOL-05")
async def test_a_batch_answers_in_order_and_is_bounded(world):
    world.dispatcher.answer = lambda request: request.args["id"]
    calls = [call(id=f"f{n}") for n in range(20)] + [call("lok")]
    results = await world.process.direct.call_many(
        world.people["member"], None, calls, request_id="req_1"
    )
    assert [r.result for r in results[:20]] == [f"f{n}" for n in range(20)]
    assert results[20].error.code == "tool_not_found"
    with pytest.raises(InvalidError):
        await world.process.direct.call_many(world.people["member"], None, calls * 7)


@pytest.mark.requirement("APR-05")
async def test_a_direct_call_that_waits_is_released_once_by_the_decision(world):
    pending = await direct(world, "owner", call("stir"))
    assert pending.status is ToolStatus.WAITING_APPROVAL
    assert world.dispatcher.requests == []
    await world.process.approvals.decide(
        world.people["admin"], pending.approval_id, approved=True, via="api"
    )
    assert await ended(world, pending.tool_call_id) is ToolStatus.COMPLETED
    _, result = await world.process.direct.get(world.org, pending.tool_call_id)
    assert (result.result, result.approval_id) == ({"done": "stir"}, pending.approval_id)
    assert world.dispatcher.tools == ["stir"]


async def test_a_caller_may_wait_for_the_decision(world):
    async with world.bell.listen(f"ch:approval:{world.org.hex}") as ear:
        task = asyncio.create_task(direct(world, "owner", call("stir"), wait_secs=30))
        assert await ear.next(30) is not None
    waiting = await world.process.approvals.list(world.people["owner"])
    await world.process.approvals.decide(
        world.people["owner"], waiting[0].id, approved=True, via="cli"
    )
    assert (await task).status is ToolStatus.COMPLETED


async def lost(world: World, tool: ToolCall):
    """A direct call whose process dies while it waits; somebody approves it afterwards."""
    pending = await direct(world, "owner", tool)
    await world.process.direct.close()
    await world.process.approvals.decide(
        world.people["admin"], pending.approval_id, approved=True, via="api"
    )
    return pending


@pytest.mark.requirement("APR-05")
async def test_a_decided_call_that_lost_its_process_is_taken_up_once(world, second):
    pending = await lost(world, call("stir"))
    assert await second.direct.sweep() == 0  # its own process still has time
    await world.sql(DECIDED_LONG_AGO, pending.approval_id)
    await asyncio.gather(second.direct.sweep(), world.process.direct.sweep())
    assert await ended(world, pending.tool_call_id) is ToolStatus.COMPLETED
    assert world.dispatcher.tools == ["stir"]
    assert await second.direct.sweep(orphan_secs=0) == 0


async def test_a_lost_call_whose_arguments_hold_a_secret_is_made_as_it_was_asked(world, second):
    secret = {"id": "a", "password": "correct horse"}
    pending = await lost(world, call("stir", **secret))
    row, _ = await second.direct.get(world.org, pending.tool_call_id)
    assert row.args == {"id": "a", "password": "[redacted]"}
    assert b"horse" not in row.args_sealed
    assert "args_sealed" not in row.model_dump()
    await second.direct.sweep(orphan_secs=0)
    row, result = await second.direct.get(world.org, pending.tool_call_id)
    assert (result.status, row.args_sealed) == (ToolStatus.COMPLETED, None)
    assert [request.args for request in world.dispatcher.requests] == [secret]


async def test_a_lost_call_whose_secret_no_longer_opens_ends_and_says_so(world):
    pending = await lost(world, call("stir", id="a", password="correct horse"))
    other = make_process(
        world.db, world.bell, world.sources, world.objects, world.settings, world.dispatcher,
        world.search, key=bytes(31) + b"!",
    )  # fmt: skip
    await other.direct.sweep(orphan_secs=0)
    row, result = await other.direct.get(world.org, pending.tool_call_id)
    assert (row.status, result.error.code) == (ToolStatus.DENIED, "seal_broken")
    assert world.dispatcher.requests == []
    await other.close()


async def test_a_lost_call_whose_source_is_gone_ends_too(world, second):
    pending = await lost(world, call("stir"))
    await world.sources.delete(world.people["owner"], world.source.id)
    second.catalog._snapshots.expire(world.org)
    await second.direct.sweep(orphan_secs=0)
    row, result = await second.direct.get(world.org, pending.tool_call_id)
    assert (row.status, result.error.code) == (ToolStatus.DENIED, "tool_not_found")


async def test_the_sweep_expires_overdue_approvals_and_gives_up_stale_intents(world, second):
    pending = await direct(world, "owner", call("stir"))
    await world.process.direct.close()
    await world.sql("UPDATE approvals SET expires_at = now() - interval '1 minute' RETURNING 1")
    await second.direct.sweep()
    assert await ended(world, pending.tool_call_id) is ToolStatus.DENIED

    started = asyncio.Event()

    async def die(request) -> None:
        started.set()
        await asyncio.Event().wait()

    await world.set(approval_defaults={"write": "allow"})
    world.dispatcher.before = die
    task = asyncio.create_task(direct(world, "owner", call("stir")))
    await started.wait()
    for work in (task, *world.process.gateway._kept.tasks):
        work.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await second.direct.sweep(stale_secs=0)
    statuses = [row.status for row in await world.rows()]
    assert statuses == [ToolStatus.DENIED, ToolStatus.INDETERMINATE]
    assert world.dispatcher.tools == ["stir"]


async def test_the_sweep_asks_about_a_stale_intent_before_it_gives_up(world, second):
    fates = iter(["done", "not_done", "unknown"])

    async def die(request) -> None:
        if not request.probe:
            started.set()
            await asyncio.Event().wait()

    await world.set(approval_defaults={"write": "allow"})
    world.dispatcher.before = die
    world.dispatcher.answer = lambda request: {"fate": next(fates), "result": {"poured": 1}}
    for _ in range(3):
        started = asyncio.Event()
        task = asyncio.create_task(direct(world, "owner", call("pour")))
        await started.wait()
        for work in (task, *world.process.gateway._kept.tasks):
            work.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert await second.direct.sweep() == 0  # within the tool's own limit its process may live
    assert await second.direct.sweep(stale_secs=0) == 3
    assert [(row.status, row.result) for row in await world.rows()] == [
        (ToolStatus.COMPLETED, {"poured": 1}),
        (ToolStatus.ERROR, None),
        (ToolStatus.INDETERMINATE, None),
    ]
    asked = [request for request in world.dispatcher.requests if request.probe]
    assert [r.idempotency_key for r in asked] == [row.id.hex for row in await world.rows()]
    assert len(world.dispatcher.requests) == 6


async def test_an_unknown_outcome_is_asked_about_again_until_it_is_known(world, second):
    fates = iter(["unknown", "unknown", "done"])

    def answer(request):
        if request.probe:  # other tests' organisations lie in the same database
            fate = next(fates) if request.org_id == world.org else "unknown"
            return {"fate": fate, "result": {"poured": 1}}
        return OutcomeUnknownError("the host died")

    await world.set(approval_defaults={"write": "allow"})
    world.dispatcher.answer = answer
    result = await direct(world, "owner", call("pour"))
    assert result.status is ToolStatus.INDETERMINATE
    await second.direct.sweep()
    assert len(world.dispatcher.requests) == 2  # it is not asked at once again
    for status in (ToolStatus.INDETERMINATE, ToolStatus.COMPLETED, ToolStatus.COMPLETED):
        await second.direct.sweep(settle_secs=0)
        row, _ = await second.direct.get(world.org, result.tool_call_id)
        assert row.status is status
    assert row.result == {"poured": 1}
    told = [entry.resource["status"] for entry in await world.audited()]
    assert told == ["indeterminate", "completed"]


async def test_a_receipt_without_an_audit_entry_gets_one(world, second):
    class DiesBeforeAudit(AuditLog):
        async def append(self, entry):
            raise StoreUnavailableError("killed")

    dying = make_process(
        world.db, world.bell, world.sources, world.objects, world.settings, world.dispatcher,
        world.search, DiesBeforeAudit(world.db),
    )  # fmt: skip
    await world.set(approval_defaults={"write": "allow"})
    with pytest.raises(StoreUnavailableError):
        await dying.direct.call(world.people["owner"], None, call("stir"), request_id="req_1")
    await dying.close()
    assert await world.audited() == []
    await second.direct.sweep()
    assert await world.audited() == []  # its process still has time
    await asyncio.gather(
        second.direct.sweep(settle_secs=0), world.process.direct.sweep(settle_secs=0)
    )
    await second.direct.sweep(settle_secs=0)
    (entry,), (row,) = await world.audited(), await world.rows()
    assert (entry.id, entry.resource["status"]) == (row.audit_id, "completed")


async def test_tending_stops_when_it_is_told(world):
    stop = asyncio.Event()
    task = asyncio.create_task(world.process.direct.tend(stop))
    stop.set()
    async with asyncio.timeout(60):
        await task


async def test_a_read_that_could_not_be_audited_leaves_nothing_to_read(world):
    class Full(AuditLog):
        async def append(self, entry):
            raise StoreUnavailableError("full")

    process = make_process(
        world.db, world.bell, world.sources, world.objects, world.settings, world.dispatcher,
        world.search, Full(world.db),
    )  # fmt: skip
    with pytest.raises(StoreUnavailableError):
        await process.direct.call(world.people["member"], None, call("look"), request_id="req_1")
    await process.close()
    assert await world.rows() == []


async def test_a_batch_shares_its_commits(world):
    calls = [call(id=f"f{n}") for n in range(64)]
    results = await world.process.direct.call_many(
        world.people["member"], None, calls, request_id="req_1"
    )
    assert {r.status for r in results} == {ToolStatus.COMPLETED}
    commits = await world.sql("SELECT count(DISTINCT xmin::text) FROM tool_calls")
    assert commits < 16


async def test_what_cannot_be_recorded_fails_alone_in_its_batch(world):
    class PartlyFull(AuditLog):
        async def append(self, entry):
            if entry.resource["tool"] != "lab.look":
                raise StoreUnavailableError("full")
            return await super().append(entry)

    process = make_process(
        world.db, world.bell, world.sources, world.objects, world.settings, world.dispatcher,
        world.search, PartlyFull(world.db),
    )  # fmt: skip
    await world.set(approval_defaults={"write": "allow"})
    results = await process.direct.call_many(
        world.people["owner"], None, [call("look"), call("stir"), call("lok")], request_id="req_1"
    )
    await process.close()
    assert [result.status for result in results] == [
        ToolStatus.COMPLETED, ToolStatus.INDETERMINATE, ToolStatus.ERROR
    ]  # fmt: skip
    assert [result.error and result.error.code for result in results] == [
        None, "unavailable", "tool_not_found"
    ]  # fmt: skip
