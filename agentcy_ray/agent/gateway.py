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
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from hashlib import sha256
from time import perf_counter
from typing import Any

from agentcy_ray.agent.approval_gate import ApprovalGate, policy_denied
from agentcy_ray.agent.approvals import Approvals
from agentcy_ray.agent.backend import Backend
from agentcy_ray.agent.builtins import Builtins
from agentcy_ray.agent.calls import CallContext, OpenCall
from agentcy_ray.agent.canonical_args import args_json, idempotency_key
from agentcy_ray.agent.catalog import Catalog
from agentcy_ray.agent.flight import Flight
from agentcy_ray.agent.kept import Kept
from agentcy_ray.agent.ledger import Ledger
from agentcy_ray.agent.takeover import Takeover
from agentcy_ray.agent.tool_calls import ToolCallRow
from agentcy_ray.agent.tool_meters import ToolMeters
from agentcy_ray.agent.tool_results import ResultShaper
from agentcy_ray.agent.tool_schemas import ArgumentChecks
from agentcy_ray.core.errors import (
    AgentcyError,
    ConnectorError,
    PermissionDeniedError,
    PolicyDeniedError,
    RateLimitedError,
    RefusedError,
    RequestError,
    SealBrokenError,
)
from agentcy_ray.core.settings import Settings
from agentcy_ray.core.tools import ToolCall, ToolResult, ToolStatus
from agentcy_ray.policy.input import TOOL_ACTION, Occasion
from agentcy_ray.policy.service import PolicyService

Released = Callable[[Sequence[OpenCall]], Awaitable[None]]
"""Gets calls whose results may be shown."""
READS_AT_ONCE = 16


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
        self._kept = Kept()
        self._approval_gate = ApprovalGate(policy, approvals, ledger, self._takeover, self._kept)

    async def call(self, ctx: CallContext, call: ToolCall) -> ToolResult:
        """``open`` and ``finish`` in one, waiting for a person where one is asked."""
        return await self.finish(ctx, await self.open(ctx, call))

    async def open(self, ctx: CallContext, call: ToolCall) -> OpenCall:
        """``open_all`` of one call."""
        return (await self.open_all(ctx, [OpenCall(ctx.call_id(call.position), call)]))[0]

    async def open_all(self, ctx: CallContext, calls: Sequence[OpenCall]) -> Sequence[OpenCall]:
        """Route, check and decide calls, in their order; opens an approval where one is needed.

        The same call of the same run (position and arguments) is opened once: whoever opens it
        again takes up what is there. Calls that have their result already are left alone.

        Raises:
            StoreUnavailableError: a gate could not be read; no call has been dispatched.
        """
        occasion = self._occasion(ctx)
        for opened in calls:
            if opened.result is None and opened.local is None:
                opened.occasion = occasion
                await self._open(ctx, opened)
        return calls

    async def finish(self, ctx: CallContext, opened: OpenCall) -> ToolResult:
        """``finish_all`` of one call; the result that is released."""
        await self.finish_all(ctx, [opened])
        assert opened.result is not None
        return opened.result

    async def finish_all(
        self, ctx: CallContext, calls: Sequence[OpenCall], released: Released | None = None
    ) -> None:
        """Wait for approvals, carry out, record, and release results as they come.

        Reads that need no person go together, ``READS_AT_ONCE`` at a time. A cancelled caller
        leaves a read abandoned; an effect that was dispatched is finished, and its receipt and
        audit entry are written, without the caller.

        Args:
            ctx: as for ``open_all``.
            calls: what it gave.
            released: gets the calls whose results may be shown, in groups, as they come.

        Raises:
            StoreUnavailableError, StorageFullError: intent, receipt or audit entry could not be
                made durable; the result is not released.
        """
        released = released or _unheard
        ready = [opened for opened in calls if _ready(opened)]
        works = [
            self._finish_alone(ctx, opened, released) for opened in calls if not _ready(opened)
        ]
        if ready:
            works.append(self._carry_out(ctx, ready, released))
        await _all(works)

    async def resume(self, ctx: CallContext, row: ToolCallRow) -> OpenCall:
        """Take up a call from its row, for a caller that does not know its arguments any more."""
        opened = OpenCall(row.id, _call_of(row, row.args), recorded=True)
        try:
            opened.call = _call_of(row, await self.ledger.arguments(row))
            opened.occasion = self._occasion(ctx)
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
        await self._kept.close()
        await self.catalog.close()

    # -- open: route, permission, policy, approval ------------------------------------------------

    def _occasion(self, ctx: CallContext) -> Occasion:
        return self.policy.inputs.occasion(
            ctx.principal,
            request_id=ctx.request_id,
            ip=ctx.ip,
            realm=ctx.realm,
            run_id=ctx.run_id,
            agent=ctx.agent.name if ctx.agent else None,
            parent_run_id=ctx.parent_run_id,
        )

    async def _open(self, ctx: CallContext, opened: OpenCall) -> None:
        try:
            await self._route(ctx, opened)
            row = await self._former(ctx, opened)
            if row is None:
                await self._decide(ctx, opened)
                row = await self._approval_gate.ask(ctx, opened)
            if row is not None:
                await self._takeover.take_up(ctx, opened, row)
        except (RefusedError, RateLimitedError) as error:
            await self._refuse(ctx, opened, error)
        except (RequestError, ConnectorError) as error:
            opened.result = opened.failed(error)
        opened.times.gate = perf_counter() - opened.times.began

    async def _route(self, ctx: CallContext, opened: OpenCall) -> None:
        call = opened.call
        entry = await self.catalog.find(
            ctx.principal, call.connector, call.tool, call.source, realm=ctx.realm, agent=ctx.agent
        )
        opened.entry, opened.effect = entry, entry.spec.effect
        self._arguments.check(entry.name, entry.spec, call.args)
        opened.args_json = args_json(call.args)
        opened.args_sha256 = sha256(opened.args_json).hexdigest()
        if ctx.run_id is not None and opened.effect.consequential:
            opened.key = idempotency_key(ctx.run_id, call.position, opened.args_sha256)
        assert opened.occasion is not None
        opened.question = self.policy.inputs.tool(
            opened.occasion, entry, call.args, opened.args_sha256
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
            raise policy_denied(opened.decision)

    # -- finish: approval, intent, dispatch, result, audit ----------------------------------------

    async def _record_intent(self, ctx: CallContext, opened: OpenCall) -> None:
        twin = await self.ledger.intend(ctx, opened)
        if twin is not None:
            opened.tool_call_id, opened.recorded = twin.id, True
            opened.result = await self._takeover.elsewhere(ctx, opened)

    async def _finish_alone(self, ctx: CallContext, opened: OpenCall, released: Released) -> None:
        """The end of a call that has one already, waits for somebody, or has an effect."""
        telling = None
        if opened.result is None and opened.local is not None:
            opened.result = await _answered(opened)
            await released([opened])
            return
        if opened.result is None and opened.approval is not None:
            began = perf_counter()
            telling, refusal = await self._approval_gate.wait(ctx, opened)
            if refusal is not None:
                await self._refuse(ctx, opened, refusal)
            opened.times.approval = perf_counter() - began
            self._meters.woken(opened)
        elif opened.result is None and opened.row is not None:
            await self._takeover.settle(ctx, opened)
        elif opened.result is None:
            await self._record_intent(ctx, opened)
        if opened.result is None:
            carrying = self._carry_out(ctx, [opened], _unheard)
            if opened.effect.consequential:
                await asyncio.shield(self._kept.start(carrying))
            else:
                await carrying
        else:
            self._meters.ended(opened)
        if telling is not None:
            await telling
        await released([opened])

    async def _carry_out(
        self, ctx: CallContext, calls: Sequence[OpenCall], released: Released
    ) -> None:
        """Dispatch, shape, record and release calls that nothing stops any more."""
        flight, waiting = Flight(self._backend, ctx), list(reversed(calls))
        try:
            while waiting or flight.open:
                if waiting and flight.open < READS_AT_ONCE:
                    going = min(len(waiting), READS_AT_ONCE - flight.open)
                    await flight.send([waiting.pop() for _ in range(going)])
                landed = await flight.take()
                for opened, answer in landed:
                    times = opened.times
                    times.dispatch = perf_counter() - times.sent
                    times.queue = max(times.dispatch - answer.usage_ms / 1000, 0.0)
                    opened.result = await self._results.shape(ctx, opened, answer)
                ended = [opened for opened, _ in landed]
                await self.ledger.end_all(ctx, ended)
                for opened in ended:
                    self._meters.ended(opened)
                await released(ended)
        finally:
            await flight.end()

    async def _refuse(self, ctx: CallContext, opened: OpenCall, error: AgentcyError) -> None:
        await ctx.ready()
        await self.ledger.end(
            ctx, opened, opened.ended(ToolStatus.DENIED, error.code, error.message)
        )


def _ready(opened: OpenCall) -> bool:
    """Whether nothing stands between a call and its dispatch: a read that nobody approves."""
    return (
        opened.result is None and opened.approval is None and opened.row is None
        and opened.local is None and not opened.effect.consequential
    )  # fmt: skip


async def _unheard(_: Sequence[OpenCall]) -> None:
    """For who looks at the results when all are there."""


async def _answered(opened: OpenCall) -> ToolResult:
    """The result of a tool that the agent answers itself."""
    assert opened.local is not None
    try:
        value = await opened.local()
    except PolicyDeniedError as error:
        return opened.ended(ToolStatus.DENIED, error.code, error.message)
    except AgentcyError as error:
        return opened.failed(error)
    return ToolResult(tool_call_id=opened.tool_call_id, status=ToolStatus.COMPLETED, result=value)


async def _all(works: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Wait for all; the first that fails ends the others."""
    if len(works) == 1:
        await works[0]
        return
    tasks = [asyncio.create_task(work) for work in works]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


def _call_of(row: ToolCallRow, args: dict[str, Any]) -> ToolCall:
    return ToolCall(
        connector=row.connector, tool=row.tool, args=args, source=row.context.get("source"),
        run_id=row.run_id, position=row.position,
    )  # fmt: skip


__all__ = ["CallContext", "Gateway", "OpenCall"]
