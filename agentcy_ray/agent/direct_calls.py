"""Tool calls outside of a run: a person or a program calls a tool itself.

Such a call passes the same gates and has a row from the start. When it needs an approval, this
process waits for the decision in the background; should it die, another one takes the call up from
its row (``sweep``), and the guarded use of the approval keeps that to one execution.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from uuid import UUID

import structlog

from agentcy_ray.agent.approvals import Approvals
from agentcy_ray.agent.calls import Agent, CallContext, OpenCall
from agentcy_ray.agent.gateway import Gateway
from agentcy_ray.agent.tool_calls import ToolCallRow, ToolCallStore
from agentcy_ray.core.errors import AgentcyError, BackendError, InvalidError
from agentcy_ray.core.ids import new_id
from agentcy_ray.core.settings import Settings
from agentcy_ray.core.tenancy import Principal
from agentcy_ray.core.tools import ToolCall, ToolFault, ToolResult, ToolStatus
from agentcy_ray.stores.postgres import Database

MAX_BATCH = 128
CONCURRENT = 64
MAX_WAIT_SECS = 60.0
ORPHAN_SECS = 10.0
"""A decided call that nobody has carried out for so long has lost its process."""
STALE_SECS = 60.0
"""An intent without a receipt for so long after the tool's own limit: its dispatcher is gone."""
SETTLE_SECS = 60.0
"""A receipt without an audit entry for so long has lost its process."""
LOOK_BACK_MILLIS = 3600 * 1000
ASKED_FOR_SECS = 600.0
"""How long an unknown outcome is asked about again."""
_log = structlog.get_logger(__name__)

_ORPHANS = """
SELECT t.org_id, t.id FROM tool_calls t JOIN approvals a ON a.tool_call_id = t.id
WHERE t.run_id IS NULL AND t.status = 'waiting_approval' AND a.status <> 'pending'
  AND coalesce(a.decided_at, a.expires_at) < clock_timestamp() - make_interval(secs => $1)
UNION ALL
SELECT org_id, id FROM tool_calls
WHERE status = 'dispatched' AND intent_at < clock_timestamp() - make_interval(secs =>
  coalesce($2, coalesce((context->>'limit_secs')::float8, $3) + $4))
LIMIT 100
"""
# Ids of direct calls hold their time, so the primary key bounds the search. Runs need no such care:
# whoever takes a run over witnesses its calls.
_UNWITNESSED = """
SELECT org_id, id FROM tool_calls t
WHERE id > $1 AND run_id IS NULL AND audit_id IS NOT NULL
  AND updated_at < clock_timestamp() - make_interval(secs => $2)
  AND NOT EXISTS (SELECT 1 FROM audit_log l WHERE l.org_id = t.org_id AND l.id = t.audit_id)
LIMIT 100
"""
# Their host may have been away when they were asked about first.
_UNKNOWN = """
SELECT org_id, id FROM tool_calls
WHERE status = 'indeterminate' AND (context->>'probe')::boolean
  AND updated_at BETWEEN clock_timestamp() - make_interval(secs => $2)
                     AND clock_timestamp() - make_interval(secs => $1)
LIMIT 20
"""
_ONE_AT_A_TIME = "SELECT pg_try_advisory_xact_lock(hashtext('agentcy care of tool calls'))"


class DirectCalls:
    """Direct calls of this process, and the care for those that lost theirs."""

    def __init__(
        self,
        db: Database,
        gateway: Gateway,
        approvals: Approvals,
        calls: ToolCallStore,
        settings: Settings,
    ) -> None:
        self._db = db
        self._gateway = gateway
        self._approvals = approvals
        self._calls = calls
        self._poll_secs = settings.approval_poll_secs
        self._limit_secs = settings.tool_timeout_secs
        self._waiting: set[asyncio.Task[ToolResult]] = set()

    async def call(
        self,
        principal: Principal,
        conversation_id: UUID | None,
        call: ToolCall,
        *,
        wait_secs: float = 0.0,
        realm: str | None = None,
        agent: Agent | None = None,
        request_id: str | None = None,
        ip: str | None = None,
    ) -> ToolResult:
        """Make a call; with status ``waiting_approval`` when nobody has decided in ``wait_secs``.

        Realm and agent are those of the conversation. ``get`` tells later what came of it.

        Raises:
            StoreUnavailableError, StorageFullError: as ``Gateway.finish``.
        """
        ctx = CallContext(
            principal=principal, realm=realm, conversation_id=conversation_id, agent=agent,
            request_id=request_id, ip=ip,
        )  # fmt: skip
        opened = await self._gateway.open(ctx, call)
        if not opened.waiting:
            return await self._gateway.finish(ctx, opened)
        return await self._wait(ctx, opened, wait_secs)

    async def call_many(
        self,
        principal: Principal,
        conversation_id: UUID | None,
        calls: Sequence[ToolCall],
        *,
        wait_secs: float = 0.0,
        realm: str | None = None,
        agent: Agent | None = None,
        request_id: str | None = None,
        ip: str | None = None,
    ) -> list[ToolResult]:
        """Make up to 128 calls, at most 64 at a time; the results are in the calls' order.

        A call that fails, for whatever reason, has its failure as its result: the others' effects
        have happened, and their results must not be lost with it.

        Raises:
            InvalidError: there are more than 128.
        """
        if len(calls) > MAX_BATCH:
            raise InvalidError(f"{len(calls)} calls are more than {MAX_BATCH}; send them in parts")
        ctx = CallContext(
            principal=principal, realm=realm, conversation_id=conversation_id, agent=agent,
            request_id=request_id, ip=ip,
        )  # fmt: skip
        gate = asyncio.Semaphore(CONCURRENT)

        async def one(call: ToolCall) -> ToolResult:
            opened: OpenCall | None = None
            try:
                async with gate:
                    opened = await self._gateway.open(ctx, call)
                    if not opened.waiting:
                        return await self._gateway.finish(ctx, opened)
                return await self._wait(ctx, opened, wait_secs)
            except BackendError as error:
                return _unreleased(opened, error)

        return list(await asyncio.gather(*map(one, calls)))

    async def get(self, org_id: UUID, tool_call_id: UUID) -> tuple[ToolCallRow, ToolResult]:
        """A call's row and what can be told of it now.

        Raises:
            NotFoundError: there is no such row.
        """
        row = await self._calls.get(org_id, tool_call_id)
        approval = await self._approvals.of_call(org_id, tool_call_id)
        return row, row.as_result(approval.id if approval else None)

    async def sweep(
        self,
        *,
        orphan_secs: float = ORPHAN_SECS,
        stale_secs: float | None = None,
        settle_secs: float = SETTLE_SECS,
    ) -> int:
        """Expire overdue approvals and take up calls that lost their process; gives their number.

        Any number of processes may sweep at once.

        Args:
            orphan_secs: how long a decided call may wait for its own process.
            stale_secs: how old an intent without a receipt may be; None = its tool's limit and
                ``STALE_SECS`` more.
            settle_secs: how long a receipt may be without an audit entry, and an outcome unknown
                before it is asked about again.
        """
        await self._approvals.sweep()
        async with self._db.system() as connection:
            orphans = await connection.fetch(
                _ORPHANS, orphan_secs, stale_secs, float(self._limit_secs), STALE_SECS
            )
        for orphan in orphans:
            row = await self._calls.get(orphan["org_id"], orphan["id"])
            ctx = _context(row)
            if row.status is ToolStatus.DISPATCHED:
                await self._gateway.give_up(ctx, row)
            else:
                opened = await self._gateway.resume(ctx, row)
                await self._gateway.finish(ctx, opened)
        await self._look_after(settle_secs)
        return len(orphans)

    async def _look_after(self, settle_secs: float) -> None:
        """Write the audit entries that dead processes owe; ask again about unknown outcomes."""
        since = UUID(int=max(time.time_ns() // 1_000_000 - LOOK_BACK_MILLIS, 0) << 80)
        async with self._db.system() as connection:
            if not await connection.fetchval(_ONE_AT_A_TIME):
                return  # another process is at it
            for found in await connection.fetch(_UNWITNESSED, since, settle_secs):
                row = await self._calls.get(found["org_id"], found["id"])
                await self._gateway.witness(_context(row), row)
            unknown = await connection.fetch(_UNKNOWN, settle_secs, ASKED_FOR_SECS)
            await asyncio.gather(*(self._ask_again(row["org_id"], row["id"]) for row in unknown))

    async def _ask_again(self, org_id: UUID, call_id: UUID) -> None:
        row = await self._calls.get(org_id, call_id)
        await self._gateway.ask_again(_context(row), row)

    async def tend(self, stop: asyncio.Event) -> None:
        """Sweep every few seconds until ``stop``; a store that is away is tried again."""
        while not stop.is_set():
            try:
                await self.sweep()
            except AgentcyError as error:
                _log.warning("sweep_failed", problem=error.message)
            await _either(stop, self._poll_secs * 5)

    async def close(self) -> None:
        """Stop waiting; the rows stay, and another process goes on with them."""
        for task in self._waiting:
            task.cancel()
        await asyncio.gather(*self._waiting, return_exceptions=True)

    async def _wait(self, ctx: CallContext, opened: OpenCall, wait_secs: float) -> ToolResult:
        task = self._in_background(ctx, opened)
        await asyncio.wait({task}, timeout=min(wait_secs, MAX_WAIT_SECS))
        if task.done():
            return task.result()
        assert opened.approval is not None
        return ToolResult(
            tool_call_id=opened.tool_call_id,
            status=ToolStatus.WAITING_APPROVAL,
            approval_id=opened.approval.id,
        )

    def _in_background(self, ctx: CallContext, opened: OpenCall) -> asyncio.Task[ToolResult]:
        task = asyncio.create_task(self._gateway.finish(ctx, opened))
        self._waiting.add(task)
        task.add_done_callback(self._done(opened))
        return task

    def _done(self, opened: OpenCall) -> Callable[[asyncio.Task[ToolResult]], None]:
        def done(task: asyncio.Task[ToolResult]) -> None:
            self._waiting.discard(task)
            if not task.cancelled() and (error := task.exception()):
                _log.error(
                    "direct_call_unfinished", tool_call_id=str(opened.tool_call_id),
                    problem=str(error),
                )  # fmt: skip

        return done


def _context(row: ToolCallRow) -> CallContext:
    """The occasion on which a stored call was made."""
    return CallContext(
        principal=row.principal,
        realm=row.context.get("realm"),
        run_id=row.run_id,
        conversation_id=row.conversation_id,
        request_id=row.context.get("request_id"),
        ip=row.context.get("ip"),
    )


def _unreleased(opened: OpenCall | None, error: BackendError) -> ToolResult:
    """The result of a call whose intent, receipt or audit entry is not durable."""
    if opened is None:
        fault = ToolFault(code=error.code, message=error.message)
        return ToolResult(tool_call_id=new_id(), status=ToolStatus.ERROR, error=fault)
    open_end = opened.effect.consequential
    status = ToolStatus.INDETERMINATE if open_end else ToolStatus.ERROR
    return opened.ended(status, error.code, error.message)


async def _either(stop: asyncio.Event, secs: float) -> None:
    try:
        async with asyncio.timeout(secs):
            await stop.wait()
    except TimeoutError:
        return
