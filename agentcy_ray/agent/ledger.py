"""What is written down about a call: intent, receipt, and one audit entry, in this order."""

from __future__ import annotations

from time import perf_counter
from typing import Any

import structlog

from agentcy_ray.agent.calls import CallContext, OpenCall
from agentcy_ray.agent.sealed_args import SealedArguments
from agentcy_ray.agent.tool_audit import REFUSED, entry_of
from agentcy_ray.agent.tool_calls import NewToolCall, ToolCallRow, ToolCallStore
from agentcy_ray.audit.log import AuditLog
from agentcy_ray.core.clock import Clock, SystemClock, rfc3339
from agentcy_ray.core.errors import NotFoundError
from agentcy_ray.core.ids import new_id
from agentcy_ray.core.redaction import Redactor
from agentcy_ray.core.tools import PolicyNote, ToolResult
from agentcy_ray.stores.vault import Vault

_log = structlog.get_logger(__name__)


class Ledger:
    """Rows and audit entries of governed calls."""

    def __init__(
        self,
        calls: ToolCallStore,
        audit: AuditLog,
        redactor: Redactor,
        vault: Vault | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.calls = calls
        self.audit = audit
        self._redactor = redactor
        self._arguments = SealedArguments(redactor, vault)
        self._clock = clock or SystemClock()

    def new_row(self, ctx: CallContext, opened: OpenCall) -> NewToolCall:
        """The row of a routed call, its arguments masked."""
        entry = opened.entry
        assert entry is not None
        args, sealed = self._arguments.mask(opened.call.args), None
        if ctx.run_id is None:  # a run keeps its model's words, arguments and all
            sealed = self._arguments.seal(ctx.org_id, opened.tool_call_id, opened.call.args)
        return NewToolCall(
            id=opened.tool_call_id,
            principal=ctx.principal,
            run_id=ctx.run_id,
            conversation_id=ctx.conversation_id,
            position=opened.call.position,
            source_id=entry.source_id,
            connector=entry.connector,
            tool=entry.spec.name,
            args=args,
            args_sealed=sealed,
            args_sha256=opened.args_sha256,
            effect=opened.effect,
            context={
                "source": entry.source,
                "realm": ctx.realm,
                "agent": ctx.agent.name if ctx.agent else None,
                "request_id": ctx.request_id,
                "ip": ctx.ip,
                "limit_secs": entry.spec.timeout_secs,
                "probe": entry.spec.probe,
            },
            idempotency_key=opened.key,
        )

    def arguments(self, row: ToolCallRow) -> dict[str, Any]:
        """The arguments of a stored call, as it was made where the row allows it.

        Raises:
            SealBrokenError: they were sealed and cannot be opened.
        """
        if row.args_sealed is None:
            return row.args
        return self._arguments.open(row.org_id, row.id, row.args_sealed)

    async def intend(self, ctx: CallContext, opened: OpenCall) -> ToolCallRow | None:
        """Record the intent of a call that needs no approval; gives the row of a faster twin."""
        opened.recorded = await self.calls.add(self.new_row(ctx, opened))
        if opened.recorded:
            return None
        assert opened.key is not None
        return await self.calls.by_key(ctx.org_id, opened.key)

    async def end(self, ctx: CallContext, opened: OpenCall, result: ToolResult) -> ToolResult:
        """Write the receipt, then the audit entry; gives the result that may be released.

        A direct call without an intent is kept once it is audited, so that it can be read again.

        Raises:
            StoreUnavailableError, StorageFullError: one of them is not durable.
        """
        began = perf_counter()
        audit_id = new_id()
        decision = "deny" if result.status in REFUSED else "allow"
        note = PolicyNote(decision=decision, audit_id=audit_id)
        result = result.model_copy(update={"policy": note})
        receipt = {"at": rfc3339(self._clock.now()), "ok": result.error is None}
        if opened.recorded and not await self.calls.end(ctx.org_id, result, receipt):
            row = await self.calls.get(ctx.org_id, opened.tool_call_id)
            _log.warning("tool_call_ended_elsewhere", status=row.status.value)
            return row.as_result(result.approval_id)
        await self.audit.append(entry_of(ctx, opened, result, audit_id, self._redactor))
        if not opened.recorded and ctx.run_id is None and decision == "allow":
            await self.calls.add(self.new_row(ctx, opened), result.status, result, receipt)
        opened.times.audit = perf_counter() - began
        return result

    async def witness_again(self, ctx: CallContext, opened: OpenCall, row: ToolCallRow) -> None:
        """Write the audit entry of an ended call whose executor died just before it."""
        if row.audit_id is None or opened.result is None:
            return
        try:
            await self.audit.get(ctx.org_id, row.audit_id)
        except NotFoundError:
            await self.audit.append(
                entry_of(ctx, opened, opened.result, row.audit_id, self._redactor)
            )
