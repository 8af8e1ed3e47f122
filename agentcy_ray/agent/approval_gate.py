"""The gate that a person keeps: asking for an approval, waiting for it, using it up."""

from __future__ import annotations

import asyncio
from uuid import UUID

from agentcy_ray.agent.approval_records import Approval, NewApproval
from agentcy_ray.agent.approval_rules import approval_reasons
from agentcy_ray.agent.approvals import Approvals
from agentcy_ray.agent.calls import CallContext, OpenCall
from agentcy_ray.agent.canonical_args import args_sha256, idempotency_key
from agentcy_ray.agent.kept import Kept
from agentcy_ray.agent.ledger import Ledger
from agentcy_ray.agent.takeover import Takeover
from agentcy_ray.agent.tool_calls import ToolCallRow
from agentcy_ray.core.errors import (
    AgentcyError,
    ConflictError,
    PermissionDeniedError,
    PolicyDeniedError,
    RefusedError,
)
from agentcy_ray.core.events import EventType
from agentcy_ray.core.tools import ToolStatus
from agentcy_ray.policy.input import Decision
from agentcy_ray.policy.service import PolicyService


class ApprovalGate:
    """Between the policies and the dispatch of a call."""

    def __init__(
        self,
        policy: PolicyService,
        approvals: Approvals,
        ledger: Ledger,
        takeover: Takeover,
        kept: Kept,
    ) -> None:
        self._policy = policy
        self._approvals = approvals
        self._ledger = ledger
        self._calls = ledger.calls
        self._takeover = takeover
        self._kept = kept

    async def ask(self, ctx: CallContext, opened: OpenCall) -> ToolCallRow | None:
        """Open an approval if one is needed; gives the row of a twin that was faster.

        Raises:
            PolicyDeniedError: the default for the effect is ``deny``.
            RateLimitedError: too many approvals wait already.
        """
        assert opened.entry is not None
        assert opened.decision is not None
        rules = await self._policy.rules(ctx.org_id)
        reasons = approval_reasons(opened.entry, opened.effect, opened.decision, rules, ctx.agent)
        if not reasons:
            return None
        if opened.key is None and ctx.run_id is not None:
            opened.key = idempotency_key(ctx.run_id, opened.call.position, opened.args_sha256)
        wanted = await self._ledger.new_row(ctx, opened)
        await ctx.ready()
        async with self._calls.db.tenant(ctx.org_id) as connection:
            if await self._calls.insert(connection, wanted, ToolStatus.WAITING_APPROVAL):
                opened.approval = await self._approvals.open(
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
            return await self._calls.by_key(ctx.org_id, opened.key)
        opened.recorded = True
        await self._approvals.announce(opened.approval)
        await ctx.emit(EventType.APPROVAL_REQUIRED, opened.approval.required())
        return None

    async def wait(
        self, ctx: CallContext, opened: OpenCall
    ) -> tuple[asyncio.Task[None] | None, AgentcyError | None]:
        """Wait for the decision, and use it up; without a result the call may then go on.

        The decision is told while the call goes on: answers the task that tells it, and why the
        call is refused if it is.
        """
        assert opened.approval is not None
        approval_id = opened.approval.id
        approval = await self._approvals.wait_or_hear(ctx.org_id, approval_id)
        if approval is None:
            if (used := await self._use(ctx, opened, approval_id)) is not None:
                opened.approval = used
                return self._kept.start(_tell(ctx, used)), None
            approval = await self._approvals.wait(ctx.org_id, approval_id)
        opened.approval = approval
        if approval.status == "consumed":
            opened.result = await self._takeover.elsewhere(ctx, opened)
            return None, None
        telling = self._kept.start(_tell(ctx, approval))
        try:
            if approval.status == "approved":
                await self._insist(ctx, opened, approval)
            elif approval.status == "cancelled":
                opened.result = opened.ended(
                    ToolStatus.CANCELLED, "cancelled", "the call was cancelled before it was made"
                )
                await self._calls.end(ctx.org_id, opened.result)  # unless the canceller did
            else:
                raise PolicyDeniedError(
                    "nobody approved the call in time" if approval.status == "expired"
                    else f"a person denied the call: {approval.note or 'no note was left'}"
                )  # fmt: skip
        except (RefusedError, ConflictError) as error:
            return telling, error
        return telling, None

    async def _use(self, ctx: CallContext, opened: OpenCall, approval_id: UUID) -> Approval | None:
        """Decide again with the approval, then use it up; None when either does not let it pass."""
        assert opened.question is not None
        opened.decision = await self._policy.decide(ctx.org_id, opened.question.granted())
        if not opened.decision.allowed:
            return None
        return await self._approvals.use(ctx.org_id, approval_id, args_sha256(opened.call.args))

    async def _insist(self, ctx: CallContext, opened: OpenCall, approval: Approval) -> None:
        """Use an approval that was given, or say why that cannot be."""
        used = await self._use(ctx, opened, approval.id)
        if used is not None:
            opened.approval = used
            return
        assert opened.decision is not None
        if not opened.decision.allowed:
            await self._approvals.cancel(ctx.org_id, approval.id)
            raise policy_denied(opened.decision)
        if args_sha256(opened.call.args) != approval.args_sha256:
            await self._approvals.cancel(ctx.org_id, approval.id)
            raise ConflictError(
                "the arguments are not the ones that were approved; make the call anew",
                code="approval_mismatch",
            )
        if not await self._approvals.asker_is_there(ctx.org_id, approval.id):
            await self._approvals.cancel(ctx.org_id, approval.id)
            raise PermissionDeniedError(
                "whoever asked for the call may not act here any more; make it as somebody else"
            )
        opened.result = await self._takeover.elsewhere(ctx, opened)


async def _tell(ctx: CallContext, approval: Approval) -> None:
    await ctx.emit(EventType.APPROVAL_RESOLVED, approval.resolved())


def policy_denied(decision: Decision) -> PolicyDeniedError:
    """The refusal of a call that policies deny."""
    return PolicyDeniedError(f"a policy denies this call: {'; '.join(decision.reasons)}")
