"""What is written down about a call: intent, receipt, and one audit entry, in this order."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter
from typing import Any

import structlog

from agentcy_ray.agent.calls import CallContext, OpenCall
from agentcy_ray.agent.sealed_args import SealedArguments
from agentcy_ray.agent.tool_audit import REFUSED, entry_of
from agentcy_ray.agent.tool_calls import NewToolCall, ToolCallRow, ToolCallStore
from agentcy_ray.audit.entry import AuditEntry
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

    async def new_row(self, ctx: CallContext, opened: OpenCall) -> NewToolCall:
        """The row of a routed call, its arguments masked.

        Raises:
            StoreUnavailableError: they must be sealed, and the key service does not answer.
        """
        entry = opened.entry
        assert entry is not None
        args, sealed = self._arguments.mask(opened.call.args), None
        if ctx.run_id is None:  # a run keeps its model's words, arguments and all
            sealed = await self._arguments.seal(ctx.org_id, opened.tool_call_id, opened.call.args)
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

    async def arguments(self, row: ToolCallRow) -> dict[str, Any]:
        """The arguments of a stored call, as it was made where the row allows it.

        Raises:
            SealBrokenError: they were sealed and cannot be opened.
            StoreUnavailableError: the key service does not answer.
        """
        if row.args_sealed is None:
            return row.args
        return await self._arguments.open(row.org_id, row.id, row.args_sealed)

    async def intend(self, ctx: CallContext, opened: OpenCall) -> ToolCallRow | None:
        """Record the intent of a call that needs no approval; gives the row of a faster twin."""
        opened.recorded = await self.calls.add(await self.new_row(ctx, opened))
        if opened.recorded:
            return None
        assert opened.key is not None
        return await self.calls.by_key(ctx.org_id, opened.key)

    async def end(self, ctx: CallContext, opened: OpenCall, result: ToolResult) -> ToolResult:
        """``end_all`` of one call by ``result``; gives the result that may be released."""
        opened.result = result
        await self.end_all(ctx, [opened])
        return opened.result

    async def end_all(self, ctx: CallContext, calls: Sequence[OpenCall]) -> None:
        """Write receipts, then audit entries of calls with results, which then may be released.

        A direct call without an intent is kept once it is audited, so that it can be read again.

        Raises:
            StoreUnavailableError, StorageFullError: one of them is not durable.
        """
        began = perf_counter()
        entries: list[AuditEntry] = []
        for opened in calls:
            result = opened.result
            assert result is not None
            decision = "deny" if result.status in REFUSED else "allow"
            audit_id = new_id()
            result.policy = PolicyNote(decision, audit_id)
            if opened.recorded and not await self._receipt(ctx, opened, result):
                continue
            entries.append(entry_of(ctx, opened, result, audit_id, self._redactor))
        if entries:
            await self.audit.append(*entries)
        took = perf_counter() - began
        for opened in calls:
            opened.times.audit = took
            if ctx.run_id is None and not opened.recorded:
                await self._keep(ctx, opened)

    async def _receipt(self, ctx: CallContext, opened: OpenCall, result: ToolResult) -> bool:
        """Write how a call ended; False when another process did, whose result holds."""
        if await self.calls.end(ctx.org_id, result, self._signed(result)):
            return True
        row = await self.calls.get(ctx.org_id, opened.tool_call_id)
        _log.warning("tool_call_ended_elsewhere", status=row.status.value)
        opened.result = row.as_result(result.approval_id)
        return False

    async def _keep(self, ctx: CallContext, opened: OpenCall) -> None:
        """Keep a direct call that had no row while it was made."""
        result = opened.result
        assert result is not None
        if result.status not in REFUSED:
            row = await self.new_row(ctx, opened)
            await self.calls.add(row, result.status, result, self._signed(result))

    def _signed(self, result: ToolResult) -> dict[str, Any]:
        return {"at": rfc3339(self._clock.now()), "ok": result.error is None}

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
