"""Asking a person to let a budget go on beyond its soft limit.

It is an approval like any other: announced, listed, decided, audited in the same way, and by an
owner or an admin, since a rule asks. The call that it is bound to is the platform's own
``budgets.raise``. Everybody who meets one soft limit shares one asking, so one answer wakes all.
"""

from __future__ import annotations

from uuid import UUID

from agentcy_ray.agent.approval_records import Approval, NewApproval
from agentcy_ray.agent.approvals import Approvals
from agentcy_ray.agent.canonical_args import args_sha256
from agentcy_ray.agent.tool_calls import NewToolCall, ToolCallStore
from agentcy_ray.budgets.raising import asking, end_asking, lift
from agentcy_ray.budgets.records import SoftLimit, whose
from agentcy_ray.core.ids import new_id
from agentcy_ray.core.tenancy import Principal
from agentcy_ray.core.tools import Effect, ToolStatus

CONNECTOR, TOOL = "budgets", "raise"

# One transaction with the lifted limit: a process that dies leaves both or neither.
_USE = """
WITH used AS (
  UPDATE approvals SET status = 'consumed', consumed_at = clock_timestamp()
  WHERE id = $1 AND status = 'approved' RETURNING tool_call_id
)
UPDATE tool_calls SET status = 'dispatched', intent_at = clock_timestamp()
WHERE id IN (SELECT tool_call_id FROM used) AND status = 'routed'
"""
_DONE = """
UPDATE tool_calls SET status = 'completed', result = '{"raised": true}'
WHERE id = $1 AND status = 'dispatched'
"""
_DENIED = "UPDATE tool_calls SET status = 'denied' WHERE id = $1 AND status = 'routed'"


class BudgetApprovals:
    """Askings of this process; the rows are shared by all.

    Args:
        approvals: where people decide.
        calls: the rows that approvals are bound to.
    """

    def __init__(self, approvals: Approvals, calls: ToolCallStore) -> None:
        self._approvals = approvals
        self._calls = calls

    async def ask(self, principal: Principal, soft: SoftLimit) -> Approval:
        """The approval of this asking, opened if nobody has; it may be decided already.

        Raises:
            RateLimitedError: too many approvals wait already.
        """
        key = asking(principal.org_id, soft)
        args = soft.document()
        call = NewToolCall(
            id=new_id(), principal=principal, run_id=None, conversation_id=None, position=0,
            source_id=None, connector=CONNECTOR, tool=TOOL, args=args, args_sealed=None,
            args_sha256=args_sha256(args), effect=Effect.WRITE, context={}, idempotency_key=key,
        )  # fmt: skip
        opened: Approval | None = None
        async with self._calls.db.tenant(principal.org_id) as connection:
            if await self._calls.insert(connection, call, ToolStatus.ROUTED):
                opened = await self._approvals.open(
                    connection,
                    principal.org_id,
                    NewApproval(
                        tool_call_id=call.id, run_id=None, conversation_id=None,
                        connector=CONNECTOR, source_id=None, tool=TOOL, args=args,
                        args_sha256=call.args_sha256, effect=Effect.WRITE,
                        reasons=(_reason(soft),), by_policy=True,
                        requested_by=principal.user_id,
                    ),
                )  # fmt: skip
        if opened is not None:
            await self._approvals.announce(opened)
            return opened
        row = await self._calls.by_key(principal.org_id, key)
        assert row is not None
        found = await self._approvals.of_call(principal.org_id, row.id)
        assert found is not None
        return found

    async def answer(self, org_id: UUID, approval: Approval, soft: SoftLimit) -> Approval:
        """Wait for the answer and let it take effect.

        The soft limit is lifted for its period exactly if the approval is ``approved`` or
        ``consumed``; else the asking is over, and the next one is a new one.
        """
        approval = await self._approvals.wait(org_id, approval.id)
        async with self._calls.db.tenant(org_id) as connection:
            if lifted(approval):
                await connection.execute(_USE, approval.id)
                await connection.execute(_DONE, approval.tool_call_id)
                await lift(connection, org_id, soft)
            else:
                await connection.execute(_DENIED, approval.tool_call_id)
                await end_asking(connection, org_id, soft)
        return approval


def lifted(approval: Approval) -> bool:
    """Whether the answer was yes."""
    return approval.status in ("approved", "consumed")


def _reason(soft: SoftLimit) -> str:
    told = soft.document()
    return (
        f"the budget of {whose(soft.key)} would pass its soft limit: {told['wanted']:g} of "
        f"{told['hard']:g} {told['unit']}, and from {told['soft']:g} on a person is asked; "
        "approving lets it go on to the hard limit"
    )
