"""The agent loop: six stages from a question to an ended run.

1 input (the run's row) · 2 context build · 3 model turn, streamed · 4 tool calls · 5 repeat 3 and 4
until the model ends, a limit, or a stop · 6 after the turn.

Everything that a successor needs is stored before the step that follows it, under the run's epoch:
the context once built, each model turn before its calls begin, each result as it comes. So
``execute`` begins a run and continues another's in the same way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from agentcy_ray.agent.calls import CallContext
from agentcy_ray.agent.citations import Citations, CitationStream
from agentcy_ray.agent.context_build import Built, ContextBuilder
from agentcy_ray.agent.control import RunControl, Stopped
from agentcy_ray.agent.profiles import AgentProfile, AgentStore
from agentcy_ray.agent.run_budget import RunBudget
from agentcy_ray.agent.run_records import Ending, FinishReason, Run, message_end
from agentcy_ray.agent.runlog import NewEvent, RunLog
from agentcy_ray.agent.runs import RunStore
from agentcy_ray.agent.spending import Spending
from agentcy_ray.agent.streaming import DeltaWriter, stream_turn
from agentcy_ray.agent.tool_turn import Approvals, Tools, ToolTurn
from agentcy_ray.agent.turns import Past, Turn, TurnStore
from agentcy_ray.core.errors import (
    AgentcyError,
    BudgetExceededError,
    LeaseLostError,
    ModelError,
    NotFoundError,
    StoreUnavailableError,
)
from agentcy_ray.core.events import EventType
from agentcy_ray.core.settings import Settings
from agentcy_ray.core.tools import ToolSpec
from agentcy_ray.llm.model import Done, Message, Model, ModelRequest, ToolOffer
from agentcy_ray.llm.registry import Models

_log = structlog.get_logger(__name__)
TAKEOVERS = 20
"""A run that has been taken up so often is given up: it may well be what kills its executors."""
_SEPARATOR = "\n\n"
"""Between the words of two turns."""


@dataclass(frozen=True)
class LoopParts:
    """What the loop works with; one set for all runs of a process."""

    settings: Settings
    runs: RunStore
    log: RunLog
    turns: TurnStore
    agents: AgentStore
    models: Models
    context: ContextBuilder
    tools: Tools
    offers: Sequence[ToolSpec]
    """The meta-tools, as the model sees them."""
    approvals: Approvals
    spending: Spending | None = None
    """Budgets; None where nobody keeps any."""


class AgentLoop:
    """Executes runs that the caller has claimed."""

    def __init__(self, parts: LoopParts) -> None:
        self._parts = parts

    async def execute(self, run: Run, control: RunControl) -> None:
        """Bring a claimed run to its end, whatever was done of it before.

        Raises:
            Stopped: ``handover`` or ``lost``; the run is not ended and a successor continues it.
            LeaseLostError: the run has a newer owner; nothing more was written.
            StoreUnavailableError: Postgres does not answer; a successor continues.
        """
        await _Execution(self._parts, run, control).execute()


class _Execution:
    """One run in the hands of one executor."""

    def __init__(self, parts: LoopParts, run: Run, control: RunControl) -> None:
        self._parts = parts
        self._run = run
        self._control = control
        self._agent: AgentProfile | None = None
        self._usage = run.usage
        self._said: list[str] = []
        self._used: list[int] = []
        self._tool_calls = 0
        self._half: tuple[str, list[int]] = "", []
        """Words and keys of the turn that is being streamed, as readers have them."""
        self._citations = Citations()
        self._tools: ToolTurn | None = None
        self._budget = RunBudget(parts.spending, run, control, parts.runs, parts.turns)

    async def execute(self) -> None:
        """See ``AgentLoop.execute``."""
        watch = asyncio.create_task(self._watch(), name="run-timeout")
        try:
            ending = await self._ending()
        finally:
            watch.cancel()
            await self._budget.close()
        if ending.status != "completed":
            await self._parts.approvals.cancel_for_run(self._run.org_id, self._run.id)
        await self._parts.runs.end(self._run, ending)

    async def _ending(self) -> Ending:
        try:
            return await self._stages()
        except Stopped as stopped:
            if stopped.reason == "withdrawn":
                why = "whoever began this run holds less by now; ask anew with what they hold"
                await self._warn(("rights_withdrawn", why))
            if stopped.reason in ("cancelled", "withdrawn"):
                return self._end("cancelled")
            if stopped.reason == "timeout":
                return self._end("timeout")
            raise
        except (LeaseLostError, StoreUnavailableError):
            raise
        except BudgetExceededError as error:
            await self._warn((error.code, error.message))
            return self._end("budget_exceeded")
        except AgentcyError as error:
            return self._failed(error.code, error.message, retryable=error.transient)
        except Exception:  # noqa: BLE001 - a run ends in its log, whatever happens
            _log.exception("run_failed", run=self._run.id.hex)
            return self._failed(
                "internal", "the run failed for a reason of our own; repeat the message", True
            )

    async def _stages(self) -> Ending:
        parts, run = self._parts, self._run
        if run.cancel_requested:
            raise Stopped("cancelled")
        if run.epoch > TAKEOVERS:
            message = f"the run was taken up {TAKEOVERS} times without an end; ask anew"
            return self._failed("internal", message, retryable=False)
        if run.status == "waiting_approval":  # a former executor's wait; ours begins anew
            await parts.runs.move(run.key, "running")
        await self._budget.take_over()
        self._agent = await self._profile()
        model = parts.models.resolve(run.model)
        past = await parts.turns.load(run.org_id, run.id)
        built = past.context or await self._context(model)
        self._remember(built, past)
        messages = list(await parts.context.transcript(run, model.window))
        self._tools = await self._tool_turn(past)
        limit = self._limit()
        for turn in past.turns:
            if not turn.message.tool_calls:
                return self._end(_finish_reason(turn))
            if turn.number >= limit:
                return await self._exhausted(turn)
            messages += await self._called(turn)
        if run.epoch > 1:
            await self._void_half_turn()
        number = len(past.turns)
        while True:
            number += 1
            self._control.check()
            turn, saving = await self._turn(number, model, built, messages)
            if not turn.message.tool_calls or number >= limit:
                await saving
            if not turn.message.tool_calls:
                return self._end(_finish_reason(turn))
            if number >= limit:
                return await self._exhausted(turn)
            messages += await self._called(turn, saving)

    # -- stage 2 --------------------------------------------------------------------------------

    async def _context(self, model: Model) -> Built:
        built = await self._control.guard(
            self._parts.context.build(self._run, self._agent, model.window)
        )
        await self._parts.turns.save_context(self._run.key, built)
        await self._warn(*(("context_incomplete", message) for message in built.warnings))
        return built

    def _remember(self, built: Built, past: Past) -> None:
        found = list(built.evidence)
        for turn in past.turns:
            self._used = list(turn.used)
            self._say(turn.said)
            for index in sorted(turn.results):
                found += turn.results[index].evidence
        self._citations = Citations(found)

    # -- stage 3 --------------------------------------------------------------------------------

    async def _turn(
        self, number: int, model: Model, built: Built, messages: Sequence[Message]
    ) -> tuple[Turn, asyncio.Future[Any]]:
        """One model turn, and when it is stored; with the fallback model where the first fails."""
        request = ModelRequest(
            system=built.system,
            messages=tuple(messages),
            tools=tuple(_offer(spec) for spec in self._parts.offers),
            temperature=self._agent.temperature if self._agent else None,
            evidence=self._citations.evidence,
        )
        try:
            done = await self._stream(number, model, request)
        except ModelError as error:
            fallback = self._agent.fallback_model if self._agent else None
            if fallback is None or fallback == model.reference:
                raise
            await self._void_half_turn(f"{error.message}; going on with {fallback}")
            second = self._parts.models.resolve(fallback)
            done = await self._stream(number, second, request)
        self._usage += done.usage
        said, used = self._half
        turn = Turn(
            number=number,
            message=done.message,
            said=said,
            used=tuple(used),
            usage=done.usage,
            stop_reason=done.stop_reason,
        )
        saving = self._parts.turns.save(self._run.key, turn, self._usage)
        self._keep_half()
        return turn, saving

    async def _stream(self, number: int, model: Model, request: ModelRequest) -> Done:
        """Stream one answer; what was shown of it is in ``_half``, also when it fails."""
        self._control.check()
        request, held = await self._budget.hold(number, model.reference, request)
        citations = CitationStream(self._citations, self._used)
        settings = self._parts.settings
        writer = DeltaWriter(
            self._append,
            citations,
            lead=_SEPARATOR if self._said else "",
            every_ms=settings.stream_coalesce_ms,
            every_chars=settings.stream_coalesce_chars,
        )
        try:
            reasoning = self._agent is not None and self._agent.show_reasoning
            turn = stream_turn(model, request, writer, reasoning=reasoning)
            done = await self._control.guard(turn)
        except BaseException:
            self._budget.cut_off(held, request, writer.said)
            raise
        finally:
            self._half = writer.said, citations.used
        self._budget.used(held, done.usage)
        return done

    async def _void_half_turn(self, why: str = "the run was taken over") -> None:
        """Tell readers from where on the deltas of a turn that is begun anew are void."""
        first = await self._parts.turns.void_from(self._run.org_id, self._run.id)
        self._half = "", self._used
        if first is not None:
            message = f"{why}; what was streamed from event {first} on is void"
            data = {"code": "turn_restarted", "message": message, "from_seq": first}
            await self._append([(EventType.WARNING, data)])

    # -- stage 4 --------------------------------------------------------------------------------

    async def _called(self, turn: Turn, saving: asyncio.Future[Any] | None = None) -> list[Message]:
        """The turn and the results of its calls, as the model gets them."""
        assert self._tools is not None
        turn = await self._tools.run(turn, saving)
        self._tool_calls += len(turn.results)
        return [turn.message, Message(role="user", parts=turn.replies)]

    async def _exhausted(self, turn: Turn) -> Ending:
        """The model asks for more turns than it has: its last calls are not carried out."""
        assert self._tools is not None
        message = f"the run has used its {turn.number} model turns; the call was not made"
        await self._tools.skip(turn, "max_iterations", message)
        return self._end("max_iterations")

    async def _tool_turn(self, past: Past) -> ToolTurn:
        parts, run = self._parts, self._run
        tools = ToolTurn(
            run,
            CallContext(
                principal=run.principal,
                realm=run.realm,
                run_id=run.id,
                conversation_id=run.conversation_id,
                agent=self._agent,
                request_id=run.input.request_id,
                parent_run_id=run.parent_run_id,
            ),
            self._control,
            self._citations,
            tools=parts.tools,
            approvals=parts.approvals,
            turns=parts.turns,
            runs=parts.runs,
            log=parts.log,
        )
        if past.turns:
            tools.resume(await parts.turns.announced(run.org_id, run.id))
        return tools

    # -- ends -----------------------------------------------------------------------------------

    def _end(self, reason: FinishReason) -> Ending:
        self._keep_half()
        status = "completed"
        if reason == "cancelled":
            status = "cancelled"
        elif reason in ("timeout", "budget_exceeded"):
            status = "failed"
        return Ending(
            status=status,
            reason=reason,
            usage=self._usage,
            events=(message_end(self._run, reason, self._usage),),
            text="".join(self._said),
            citations=tuple(self._citations.describe(key) for key in self._used),
            tool_calls=self._tool_calls,
        )

    def _failed(self, code: str, message: str, retryable: bool) -> Ending:
        self._keep_half()
        data = {"code": code, "message": message, "retryable": retryable}
        return Ending(
            status="failed",
            reason="error",
            usage=self._usage,
            events=((EventType.ERROR, data),),
            text="".join(self._said),
            citations=tuple(self._citations.describe(key) for key in self._used),
            tool_calls=self._tool_calls,
        )

    # -- small things ---------------------------------------------------------------------------

    def _keep_half(self) -> None:
        """What readers were shown is what the message holds."""
        said, used = self._half
        self._say(said)
        if said:
            self._used = used
        self._half = "", self._used

    def _say(self, text: str) -> None:
        if text:
            self._said.append(text)

    def _limit(self) -> int:
        own = self._agent.max_iterations if self._agent else None
        most = self._parts.settings.agent_max_iterations
        return most if own is None else min(own, most)

    async def _profile(self) -> AgentProfile | None:
        """The agent as it is now; None when it was deleted meanwhile."""
        if self._run.agent_id is None:
            return None
        try:
            return await self._parts.agents.get(self._run.org_id, self._run.agent_id)
        except NotFoundError:
            return None

    async def _warn(self, *warnings: tuple[str, str]) -> None:
        await self._append([
            (EventType.WARNING, {"code": code, "message": message}) for code, message in warnings
        ])

    async def _append(self, events: Sequence[NewEvent]) -> None:
        await self._parts.log.append(self._run.key, events)

    async def _watch(self) -> None:
        """End the run when its time of work is over; waiting for a person does not count."""
        left = self._parts.settings.agent_run_timeout_secs
        clock = asyncio.get_running_loop().time
        while left > 0:
            began = clock()
            await asyncio.sleep(min(left, 1.0))
            if not self._budget.waits and (self._tools is None or not self._tools.waits):
                left -= clock() - began
        self._control.stop("timeout")


def _finish_reason(turn: Turn) -> FinishReason:
    return "max_tokens" if turn.stop_reason == "max_tokens" else "end_turn"


def _offer(spec: ToolSpec) -> ToolOffer:
    return ToolOffer(name=spec.name, description=spec.description, input_schema=spec.input_schema)
