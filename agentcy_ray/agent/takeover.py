"""Taking up calls that another process left: what it decided stands, what it did is not repeated.

An intent without a receipt has an unknown outcome. Where the tool offers a probe the connector is
asked: a call that was carried out is completed from its record, one that was not is sent again
under the same key. Without a clear answer the outcome stays unknown and the model is told so.
"""

from __future__ import annotations

import asyncio

from agentcy_ray.agent.approvals import Approvals
from agentcy_ray.agent.backend import Answer, Backend, unknown_outcome
from agentcy_ray.agent.calls import CallContext, OpenCall
from agentcy_ray.agent.ledger import Ledger
from agentcy_ray.agent.tool_calls import ToolCallRow
from agentcy_ray.agent.tool_results import ResultShaper
from agentcy_ray.core.events import EventType
from agentcy_ray.core.tools import Fate, Probe, ToolResult, ToolStatus
from agentcy_ray.policy.service import PolicyService


class Takeover:
    """What the gateway does with a call that has a row already."""

    def __init__(
        self,
        approvals: Approvals,
        policy: PolicyService,
        ledger: Ledger,
        backend: Backend,
        results: ResultShaper,
        poll_secs: float,
    ) -> None:
        self._approvals = approvals
        self._policy = policy
        self._ledger = ledger
        self._calls = ledger.calls
        self._backend = backend
        self._results = results
        self._poll_secs = poll_secs

    async def take_up(self, ctx: CallContext, opened: OpenCall, row: ToolCallRow) -> None:
        """Bring ``opened`` to where its row is; tells again what may not have been told."""
        opened.tool_call_id, opened.row, opened.recorded = row.id, row, True
        approval = await self._approvals.of_call(ctx.org_id, row.id)
        if row.ended:
            opened.approval = approval
            opened.result = row.as_result(approval.id if approval else None)
            await self._ledger.witness_again(ctx, opened, row)
        if approval is None:
            return
        if row.status is ToolStatus.WAITING_APPROVAL:
            opened.approval = approval
            await ctx.emit(EventType.APPROVAL_REQUIRED, approval.required())
        elif approval.status != "pending":
            await ctx.emit(EventType.APPROVAL_RESOLVED, approval.resolved())

    async def settle(self, ctx: CallContext, opened: OpenCall) -> None:
        """Decide about an intent without a receipt; without a result the call is to be sent.

        Calls that are sent again have passed the policies of now: a deny still wins.
        """
        assert opened.entry is not None
        assert opened.question is not None
        if opened.effect.consequential:
            probe = await self._backend.probe(ctx, opened)
            if probe.fate is Fate.DONE:
                opened.result = await self._complete(ctx, opened, probe)
                return
            if probe.fate is Fate.UNKNOWN and not opened.entry.spec.idempotent:
                opened.result = await self._unknown(ctx, opened)
                return
        opened.decision = await self._policy.decide(ctx.org_id, opened.question.granted())
        if not opened.decision.allowed:
            message = f"a policy denies this call by now: {'; '.join(opened.decision.reasons)}"
            opened.result = await self._ledger.end(
                ctx, opened, opened.ended(ToolStatus.ERROR, "policy_denied", message)
            )

    async def close_down(self, ctx: CallContext, opened: OpenCall) -> ToolResult:
        """End a call whose dispatcher is gone for good; it is asked about and not sent again."""
        return await self.ask(ctx, opened) or await self._unknown(ctx, opened)

    async def ask(self, ctx: CallContext, opened: OpenCall) -> ToolResult | None:
        """End a call by what its connector knows of it; None when that is nothing."""
        if opened.entry is None:
            return None
        probe = await self._backend.probe(ctx, opened)
        if probe.fate is Fate.DONE:
            return await self._complete(ctx, opened, probe)
        if probe.fate is Fate.UNKNOWN:
            return None
        message = "the call did not have its effect; make it again if it is still wanted"
        result = opened.ended(ToolStatus.ERROR, "connector_error", message)
        return await self._ledger.end(ctx, opened, result)

    async def elsewhere(self, ctx: CallContext, opened: OpenCall) -> ToolResult:
        """The result of a call that another process carries out, while it can still be alive."""
        assert opened.entry is not None
        limit = self._backend.limit_secs(opened.entry)
        try:
            async with asyncio.timeout(limit):
                while True:
                    row = await self._calls.get(ctx.org_id, opened.tool_call_id)
                    if row.ended:
                        return row.as_result(opened.approval.id if opened.approval else None)
                    await asyncio.sleep(self._poll_secs)
        except TimeoutError:
            return await self.close_down(ctx, opened)

    async def _complete(self, ctx: CallContext, opened: OpenCall, probe: Probe) -> ToolResult:
        answer = Answer(ToolStatus.COMPLETED, value=probe.result)
        return await self._ledger.end(ctx, opened, await self._results.shape(ctx, opened, answer))

    async def _unknown(self, ctx: CallContext, opened: OpenCall) -> ToolResult:
        fault = unknown_outcome()
        return await self._ledger.end(
            ctx, opened, opened.ended(ToolStatus.INDETERMINATE, fault.code, fault.message)
        )
