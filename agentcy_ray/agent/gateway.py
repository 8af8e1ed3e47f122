"""The gates that every tool call passes, whatever its origin.

route → permission and policy → approval → intent → dispatch → result → audit. ``open`` goes as far
as the approval and never waits for a person, so that all approvals of a turn are open before the
first is waited for; ``finish`` does the rest. What a tool does wrong becomes a result; what is
raised is a store that is away, and then nothing is released.

Events: the gateway emits ``approval_required``, ``approval_resolved`` and ``artifact``. The caller,
who knows the model's name for the call, emits ``tool_call_start`` and ``tool_result``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from time import perf_counter
from typing import Any, TypeVar
from uuid import UUID

from agentcy_ray.agent.approval_records import Approval, NewApproval
from agentcy_ray.agent.approval_rules import approval_reasons
from agentcy_ray.agent.approvals import Approvals
from agentcy_ray.agent.backend import Backend
from agentcy_ray.agent.builtins import Builtins
from agentcy_ray.agent.calls import CallContext, OpenCall
from agentcy_ray.agent.canonical_args import args_sha256, idempotency_key
from agentcy_ray.agent.catalog import Catalog
from agentcy_ray.agent.ledger import Ledger
from agentcy_ray.agent.takeover import Takeover
from agentcy_ray.agent.tool_calls import ToolCallRow
from agentcy_ray.agent.tool_meters import ToolMeters
from agentcy_ray.agent.tool_results import ResultShaper
from agentcy_ray.agent.tool_schemas import ArgumentChecks
from agentcy_ray.core.errors import (
    AgentcyError,
    ConflictError,
    ConnectorError,
    PermissionDeniedError,
    PolicyDeniedError,
    RateLimitedError,
    RefusedError,
    RequestError,
    SealBrokenError,
)
from agentcy_ray.core.events import EventType
from agentcy_ray.core.settings import Settings
from agentcy_ray.core.tools import ToolCall, ToolResult, ToolStatus
from agentcy_ray.policy.input import TOOL_ACTION
from agentcy_ray.policy.service import PolicyService

T = TypeVar("T")


class Gateway:
    """One per process; calls of any number of runs pass through it at once."""

    def __init__(
        self,
        *,
        catalog: Catalog,
        policy: PolicyService,
        approvals: Approvals,
        ledger: Ledger,
        backend: Backend,
        builtins: Builtins,
        results: ResultShaper,
        settings: Settings,
        meters: ToolMeters,
    ) -> None:
        self.catalog = catalog
        self.policy = policy
        self.approvals = approvals
        self.ledger = ledger
        self.calls = ledger.calls
        self._backend = backend
        self._builtins = builtins
        self._results = results
        self._meters = meters
        self._arguments = ArgumentChecks()
        self._takeover = Takeover(
            approvals, policy, ledger, backend, results, settings.approval_poll_secs
        )
        self._effects: set[asyncio.Task[Any]] = set()

    async def call(self, ctx: CallContext, call: ToolCall) -> ToolResult:
        """``open`` and ``finish`` in one, waiting for a person where one is asked."""
        return await self.finish(ctx, await self.open(ctx, call))

    async def open(self, ctx: CallContext, call: ToolCall) -> OpenCall:
        """Route, check and decide; opens an approval where one is needed.

        The same call of the same run (position and arguments) is opened once: whoever opens it
        again takes up what is there.

        Raises:
            StoreUnavailableError: a gate could not be read; the call has not been dispatched.
        """
        opened = OpenCall(ctx.call_id(call.position), call)
        try:
            await self._route(ctx, opened)
            row = await self._former(ctx, opened)
            if row is None:
                await self._decide(ctx, opened)
                row = await self._ask_for_approval(ctx, opened)
            if row is not None:
                await self._takeover.take_up(ctx, opened, row)
        except (RefusedError, RateLimitedError) as error:
            opened.result = await self._refuse(ctx, opened, error)
        except (RequestError, ConnectorError) as error:
            opened.result = opened.failed(error)
        opened.times.gate = perf_counter() - opened.times.began
        return opened

    async def finish(self, ctx: CallContext, opened: OpenCall) -> ToolResult:
        """Wait for the approval if there is one, carry out, record, and release the result.

        A cancelled caller leaves a read abandoned; an effect that was dispatched is finished, and
        its receipt and audit entry are written, without the caller.

        Raises:
            StoreUnavailableError, StorageFullError: intent, receipt or audit entry could not be
                made durable; the result is not released.
        """
        telling = None
        if opened.result is None and opened.approval is not None:
            began = perf_counter()
            telling = await self._pass_approval(ctx, opened)
            opened.times.approval = perf_counter() - began
            self._meters.woken(opened)
        elif opened.result is None and opened.row is not None:
            await self._takeover.settle(ctx, opened)
        elif opened.result is None and opened.effect.consequential:
            await self._record_intent(ctx, opened)
        if opened.result is None:
            opened.result = await self._released(ctx, opened)
        if telling is not None:
            await telling
        self._meters.ended(opened)
        return opened.result

    async def resume(self, ctx: CallContext, row: ToolCallRow) -> OpenCall:
        """Take up a call from its row, for a caller that does not know its arguments any more."""
        opened = OpenCall(row.id, _call_of(row, row.args), recorded=True)
        try:
            opened.call = _call_of(row, self.ledger.arguments(row))
            await self._route(ctx, opened)
            await self._takeover.take_up(ctx, opened, row)
        except (RequestError, SealBrokenError) as error:
            opened.result = await self.ledger.end(ctx, opened, opened.ended(
                ToolStatus.DENIED if row.status is ToolStatus.WAITING_APPROVAL
                else ToolStatus.INDETERMINATE, error.code, error.message))  # fmt: skip
        return opened

    async def give_up(self, ctx: CallContext, row: ToolCallRow) -> ToolResult:
        """End a call whose dispatcher is gone for good; it is asked about and not repeated."""
        return await self._takeover.close_down(ctx, await self._left(ctx, row))

    async def ask_again(self, ctx: CallContext, row: ToolCallRow) -> ToolResult | None:
        """Ask once more about a call with an unknown outcome; None when it stays unknown."""
        return await self._takeover.ask(ctx, await self._left(ctx, row))

    async def _left(self, ctx: CallContext, row: ToolCallRow) -> OpenCall:
        """A dispatched call from its row, with its tool if that is still there to be asked."""
        opened = OpenCall(
            row.id, _call_of(row, row.args), effect=row.effect, recorded=True,
            key=row.idempotency_key,
        )  # fmt: skip
        with suppress(RequestError):
            opened.entry = await self.catalog.find(
                ctx.principal, row.connector, row.tool, opened.call.source, realm=ctx.realm
            )
        return opened

    async def witness(self, ctx: CallContext, row: ToolCallRow) -> None:
        """Write the audit entry of an ended call if it is missing."""
        opened = OpenCall(
            row.id, _call_of(row, row.args), effect=row.effect, result=row.as_result()
        )
        await self.ledger.witness_again(ctx, opened, row)

    async def close(self) -> None:
        """Wait for effects in flight, then stop listening."""
        await asyncio.gather(*self._effects, return_exceptions=True)
        await self.catalog.close()

    # -- open: route, permission, policy, approval ------------------------------------------------

    async def _route(self, ctx: CallContext, opened: OpenCall) -> None:
        call = opened.call
        entry = await self.catalog.find(
            ctx.principal, call.connector, call.tool, call.source, realm=ctx.realm, agent=ctx.agent
        )
        opened.entry, opened.effect = entry, entry.spec.effect
        self._arguments.check(entry.name, entry.spec, call.args)
        opened.args_sha256 = args_sha256(call.args)
        if ctx.run_id is not None:
            opened.key = idempotency_key(ctx.run_id, call.position, opened.args_sha256)
        opened.question = self.policy.inputs.tool(
            ctx.principal,
            entry,
            call.args,
            opened.args_sha256,
            request_id=ctx.request_id,
            ip=ctx.ip,
            realm=ctx.realm,
            run_id=ctx.run_id,
            agent=ctx.agent.name if ctx.agent else None,
            parent_run_id=ctx.parent_run_id,
        )

    async def _former(self, ctx: CallContext, opened: OpenCall) -> ToolCallRow | None:
        """What a former executor of the run left; a read without approval leaves nothing."""
        if opened.key is None or not opened.effect.consequential:
            return None
        return await self.calls.by_key(ctx.org_id, opened.key)

    async def _decide(self, ctx: CallContext, opened: OpenCall) -> None:
        entry, question = opened.entry, opened.question
        assert entry is not None
        assert question is not None
        if entry.builtin:
            ctx.principal.require(self._builtins.permission(entry))
        elif ctx.principal.require(TOOL_ACTION) == "read_only" and opened.effect.consequential:
            raise PermissionDeniedError(
                f"role {ctx.principal.role.value!r} may only call tools that read, and "
                f"{entry.name} is {opened.effect.value}; ask a member to make the call",
                permission=TOOL_ACTION,
            )
        began = perf_counter()
        opened.decision = await self.policy.decide(ctx.org_id, question)
        opened.times.policy = perf_counter() - began
        self._meters.decided(opened.decision, opened.times.policy)
        if not opened.decision.allowed:
            raise _policy_denied(opened)

    async def _ask_for_approval(self, ctx: CallContext, opened: OpenCall) -> ToolCallRow | None:
        """Open an approval if one is needed; gives the row of a twin that was faster.

        Raises:
            PolicyDeniedError: the default for the effect is ``deny``.
            RateLimitedError: too many approvals wait already.
        """
        assert opened.entry is not None
        assert opened.decision is not None
        rules = await self.policy.rules(ctx.org_id)
        reasons = approval_reasons(opened.entry, opened.effect, opened.decision, rules, ctx.agent)
        if not reasons:
            return None
        wanted = self.ledger.new_row(ctx, opened)
        async with self.calls.db.tenant(ctx.org_id) as connection:
            if await self.calls.insert(connection, wanted, ToolStatus.WAITING_APPROVAL):
                opened.approval = await self.approvals.open(
                    connection,
                    ctx.org_id,
                    NewApproval(
                        tool_call_id=wanted.id,
                        run_id=wanted.run_id,
                        conversation_id=wanted.conversation_id,
                        connector=wanted.connector,
                        source_id=wanted.source_id,
                        tool=wanted.tool,
                        args=wanted.args,
                        args_sha256=wanted.args_sha256,
                        effect=wanted.effect,
                        reasons=reasons,
                        by_policy=opened.decision.requires_approval,
                        requested_by=ctx.principal.user_id,
                        quorum=opened.decision.approval_quorum,
                        second_person=opened.decision.approval_second_person,
                    ),
                )
        if opened.approval is None:
            assert opened.key is not None
            return await self.calls.by_key(ctx.org_id, opened.key)
        opened.recorded = True
        await self.approvals.announce(opened.approval)
        await ctx.emit(EventType.APPROVAL_REQUIRED, opened.approval.required())
        return None

    # -- finish: approval, intent, dispatch, result, audit ----------------------------------------

    async def _pass_approval(self, ctx: CallContext, opened: OpenCall) -> asyncio.Task[None] | None:
        """Wait for the decision; leaves ``opened.result`` unset when the call may go on.

        The decision is told while the call goes on: answers the task that tells it.
        """
        assert opened.approval is not None
        approval_id = opened.approval.id
        approval = await self.approvals.wait_or_hear(ctx.org_id, approval_id)
        if approval is None:
            if (used := await self._use(ctx, opened, approval_id)) is not None:
                opened.approval = used
                return self._kept(_tell(ctx, used))
            approval = await self.approvals.wait(ctx.org_id, approval_id)
        opened.approval = approval
        if approval.status == "consumed":
            opened.result = await self._takeover.elsewhere(ctx, opened)
            return None
        telling = self._kept(_tell(ctx, approval))
        try:
            if approval.status == "approved":
                await self._insist(ctx, opened, approval)
            elif approval.status == "cancelled":
                opened.result = opened.ended(
                    ToolStatus.CANCELLED, "cancelled", "the call was cancelled before it was made"
                )
                await self.calls.end(ctx.org_id, opened.result)  # unless the canceller did
            else:
                raise PolicyDeniedError(
                    "nobody approved the call in time" if approval.status == "expired"
                    else f"a person denied the call: {approval.note or 'no note was left'}"
                )  # fmt: skip
        except (RefusedError, ConflictError) as error:
            opened.result = await self._refuse(ctx, opened, error)
        return telling

    async def _use(self, ctx: CallContext, opened: OpenCall, approval_id: UUID) -> Approval | None:
        """Decide again with the approval, then use it up; None when either does not let it pass."""
        assert opened.question is not None
        opened.decision = await self.policy.decide(ctx.org_id, opened.question.granted())
        if not opened.decision.allowed:
            return None
        return await self.approvals.use(ctx.org_id, approval_id, args_sha256(opened.call.args))

    async def _insist(self, ctx: CallContext, opened: OpenCall, approval: Approval) -> None:
        """Use an approval that was given, or say why that cannot be."""
        used = await self._use(ctx, opened, approval.id)
        if used is not None:
            opened.approval = used
            return
        assert opened.decision is not None
        if not opened.decision.allowed:
            await self.approvals.cancel(ctx.org_id, approval.id)
            raise _policy_denied(opened)
        if args_sha256(opened.call.args) != approval.args_sha256:
            await self.approvals.cancel(ctx.org_id, approval.id)
            raise ConflictError(
                "the arguments are not the ones that were approved; make the call anew",
                code="approval_mismatch",
            )
        opened.result = await self._takeover.elsewhere(ctx, opened)

    async def _record_intent(self, ctx: CallContext, opened: OpenCall) -> None:
        twin = await self.ledger.intend(ctx, opened)
        if twin is not None:
            opened.tool_call_id, opened.recorded = twin.id, True
            opened.result = await self._takeover.elsewhere(ctx, opened)

    async def _released(self, ctx: CallContext, opened: OpenCall) -> ToolResult:
        if not opened.effect.consequential:
            return await self._carry_out(ctx, opened)
        return await asyncio.shield(self._kept(self._carry_out(ctx, opened)))

    def _kept(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Work that ends even when its caller is cancelled; ``close`` waits for it."""
        task = asyncio.create_task(work)
        self._effects.add(task)
        task.add_done_callback(self._effects.discard)
        return task

    async def _carry_out(self, ctx: CallContext, opened: OpenCall) -> ToolResult:
        began = perf_counter()
        answer = await self._backend.execute(ctx, opened)
        took = opened.times.dispatch = perf_counter() - began
        opened.times.queue = max(took - answer.usage_ms / 1000, 0.0)
        return await self.ledger.end(ctx, opened, await self._results.shape(ctx, opened, answer))

    async def _refuse(self, ctx: CallContext, opened: OpenCall, error: AgentcyError) -> ToolResult:
        return await self.ledger.end(
            ctx, opened, opened.ended(ToolStatus.DENIED, error.code, error.message)
        )


def _call_of(row: ToolCallRow, args: dict[str, Any]) -> ToolCall:
    return ToolCall(
        connector=row.connector, tool=row.tool, args=args, source=row.context.get("source"),
        run_id=row.run_id, position=row.position,
    )  # fmt: skip


async def _tell(ctx: CallContext, approval: Approval) -> None:
    await ctx.emit(EventType.APPROVAL_RESOLVED, approval.resolved())


def _policy_denied(opened: OpenCall) -> PolicyDeniedError:
    assert opened.decision is not None
    return PolicyDeniedError(f"a policy denies this call: {'; '.join(opened.decision.reasons)}")


__all__ = ["CallContext", "Gateway", "OpenCall"]
