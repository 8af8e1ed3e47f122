"""The tool calls of one turn (stage 4 of a run), by the turn rules.

All calls are opened in the model's order, so that every approval is asked for before the first is
waited for. Then the reads run together, and after the last of them the writes one by one. Each
result is kept as it comes; a successor finishes only what is missing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol
from uuid import UUID

import orjson

from agentcy_ray.agent.calls import CallContext, OpenCall
from agentcy_ray.agent.citations import Citations, pieces_of_search
from agentcy_ray.agent.control import RunControl, Stopped
from agentcy_ray.agent.gateway import Released
from agentcy_ray.agent.metatools import Use
from agentcy_ray.agent.run_records import Run
from agentcy_ray.agent.runlog import NewEvent, RunLog
from agentcy_ray.agent.runs import RunStore
from agentcy_ray.agent.turns import StoredResult, Turn, TurnStore
from agentcy_ray.core.events import EventType
from agentcy_ray.core.ids import encode, new_id
from agentcy_ray.core.redaction import Redactor
from agentcy_ray.core.tools import ToolFault, ToolResult, ToolStatus
from agentcy_ray.llm.model import ToolReply, ToolUse

CALLS_PER_TURN = 1000
"""Places in a turn; a call's position in the run is turn × 1000 + place."""
ARGS_INLINE_CHARS = 4096
"""Longer arguments are told in pieces of this length, so that no event is without bound."""
_CITED = frozenset({("rag", "search")})


class Tools(Protocol):
    """The meta-tools as the loop calls them; ``MetaTools`` is the one."""

    async def open(self, ctx: CallContext, uses: Sequence[Use]) -> list[OpenCall]:
        """Bring calls to the point where they wait or may be dispatched."""
        ...

    async def finish(self, ctx: CallContext, calls: Sequence[OpenCall], released: Released) -> None:
        """Wait, dispatch, record; ``released`` gets groups of calls with their results. Faults are
        results."""
        ...


class Approvals(Protocol):
    """What the loop needs of the approval registry."""

    async def cancel_for_run(self, org_id: UUID, run_id: UUID) -> int:
        """Void whatever a run waits for."""
        ...


@dataclass(frozen=True)
class _Pending:
    index: int
    use: ToolUse
    opened: OpenCall


class ToolTurn:
    """Carries out the calls of turns of one run."""

    def __init__(
        self,
        run: Run,
        ctx: CallContext,
        control: RunControl,
        citations: Citations,
        *,
        tools: Tools,
        approvals: Approvals,
        turns: TurnStore,
        runs: RunStore,
        log: RunLog,
    ) -> None:
        self._run = run
        self._ctx = replace(ctx, emit=self._emit)
        self._opening = replace(ctx, emit=self._hold, ready=self._until_saved)
        self._held: list[NewEvent] = []
        """What the gates tell while calls are opened; it follows the announcement of the calls."""
        self._saving: asyncio.Future[Any] | None = None
        self._control = control
        self._citations = citations
        self._tools = tools
        self._approvals = approvals
        self._turns = turns
        self._runs = runs
        self._log = log
        self._redactor = Redactor()
        self._undecided: set[str] = set()
        self._announced: set[str] = set()

    @property
    def waits(self) -> bool:
        """Whether a person is being waited for."""
        return bool(self._undecided)

    def resume(self, announced: set[str]) -> None:
        """Take note of tool calls and approvals that a former executor has announced."""
        self._announced |= announced

    async def run(self, turn: Turn, saving: asyncio.Future[Any] | None = None) -> Turn:
        """Finish what is missing of a turn; answers the turn with all its results.

        Args:
            turn: as the model ended it, or as a former executor left it.
            saving: done once the turn is stored; no call is made before.

        Raises:
            Stopped: the run is to stop; a write that was under way has ended and is recorded.
            LeaseLostError: the run has a newer owner.
        """
        self._saving = saving
        missing = [
            (index, use)
            for index, use in enumerate(turn.message.tool_calls)
            if index not in turn.results
        ]
        results = dict(turn.results)
        calls = await self._open(turn, missing, results)
        reads = [call for call in calls if not call.opened.effect.consequential]
        if reads:
            await self._control.guard(self._finish(turn, reads, results))
        for call in calls:
            if call.opened.effect.consequential:
                await self._alone(turn, call, results)
        return turn.model_copy(update={"results": results})

    async def skip(self, turn: Turn, code: str, message: str) -> Turn:
        """Answer every call of a turn with a cancellation, without asking anybody."""
        results = dict(turn.results)
        for index, use in enumerate(turn.message.tool_calls):
            if index not in results:
                result = _ended(new_id(), ToolStatus.CANCELLED, code, message)
                await self._answer(turn, index, use, result, results)
        return turn.model_copy(update={"results": results})

    # -- opening --------------------------------------------------------------------------------

    async def _open(
        self, turn: Turn, missing: Sequence[tuple[int, ToolUse]], results: dict[int, StoredResult]
    ) -> list[_Pending]:
        self._control.check()
        uses = [(index, use) for index, use in missing if use.invalid is None]
        first = turn.number * CALLS_PER_TURN
        opened = await self._tools.open(
            self._opening, [(use.name, use.args, first + index) for index, use in uses]
        )
        held, self._held = self._held, []
        events: list[NewEvent] = []
        calls: list[_Pending] = []
        for (index, use), one in zip(uses, opened, strict=True):
            calls.append(_Pending(index, use, one))
            events += self._start_events(use, one.tool_call_id, one)
        # Every call is announced before the approvals that are needed.
        await self._announce([*events, *held])
        await self._until_saved()
        for index, use in missing:
            if use.invalid is not None:
                result = _ended(
                    new_id(), ToolStatus.ERROR, "invalid_args",
                    "the arguments are not a JSON object; send one that matches the tool's schema",
                )  # fmt: skip
                await self._answer(turn, index, use, result, results)
        return calls

    async def _hold(self, event: EventType, data: dict[str, Any]) -> None:
        self._held.append((event, data))

    async def _until_saved(self) -> None:
        if self._saving is not None:
            await self._saving

    async def _announce(self, events: Sequence[NewEvent]) -> None:
        new = self._unknown(events)
        asks = any(type_ is EventType.APPROVAL_REQUIRED for type_, _ in events)
        for type_, data in events:
            if type_ is EventType.APPROVAL_REQUIRED:
                self._undecided.add(str(data["approval_id"]))
        if asks:
            await self._runs.move(self._run.key, "waiting_approval", new)
        else:
            await self._log.append(self._run.key, new)

    def _unknown(self, events: Sequence[NewEvent]) -> list[NewEvent]:
        """Those that the log does not tell of yet; arguments go with the start of their call."""
        new: list[NewEvent] = []
        started: set[str] = set()
        for event in events:
            type_, data = event
            if type_ is EventType.TOOL_CALL_DELTA:
                if data["tool_call_id"] in started:
                    new.append(event)
            elif self._is_new(event):
                new.append(event)
                if type_ is EventType.TOOL_CALL_START:
                    started.add(str(data["tool_call_id"]))
        return new

    def _is_new(self, event: NewEvent) -> bool:
        type_, data = event
        name = {
            EventType.TOOL_CALL_START: "tool_call_id",
            EventType.APPROVAL_REQUIRED: "approval_id",
            EventType.APPROVAL_RESOLVED: "approval_id",
        }.get(type_)
        if name is None:
            return True
        identity = f"{type_}:{data[name]}"
        known = identity in self._announced
        self._announced.add(identity)
        return not known

    def _start_events(self, use: ToolUse, call_id: UUID, opened: OpenCall | None) -> list[NewEvent]:
        """A call and its arguments; long ones follow in pieces, as text that is JSON once joined.

        They are told when the call is complete and not while the model writes them: what is secret
        in them can be found in a whole value only.
        """
        name = encode("tc", call_id)
        data: dict[str, Any] = {"tool_call_id": name, "name": use.name}
        raw = orjson.dumps(use.args)
        if not self._redactor.harmless(raw, by_field=True):
            raw = orjson.dumps(self._redactor.json(use.args, by_field=True))
        pieces: list[str] = []
        if len(raw) <= ARGS_INLINE_CHARS:
            data["args"] = orjson.Fragment(raw)
        else:
            text = raw.decode()
            pieces = [
                text[at : at + ARGS_INLINE_CHARS] for at in range(0, len(text), ARGS_INLINE_CHARS)
            ]
        if opened is not None:
            data["effect"] = opened.effect.value
            if opened.call.connector:
                data |= {"connector": opened.call.connector, "tool": opened.call.tool}
        return [
            (EventType.TOOL_CALL_START, data),
            *(
                (EventType.TOOL_CALL_DELTA, {"tool_call_id": name, "args_delta": piece})
                for piece in pieces
            ),
        ]

    # -- finishing ------------------------------------------------------------------------------

    async def _alone(self, turn: Turn, call: _Pending, results: dict[int, StoredResult]) -> None:
        """Finish a write. Once it may have been dispatched it is not abandoned, whoever asks."""
        self._control.check()
        task = asyncio.create_task(self._finish(turn, [call], results))
        stopped = asyncio.create_task(self._control.wait())
        try:
            await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
            reason = self._control.reason
            if not task.done() and reason is not None:
                if reason in ("cancelled", "withdrawn", "timeout"):
                    await self._approvals.cancel_for_run(self._run.org_id, self._run.id)
                elif self.waits:
                    task.cancel()  # a successor finds the approval and goes on waiting
                await asyncio.wait({task})
            if task.cancelled():
                raise Stopped(reason or "handover")
            task.result()
        finally:
            stopped.cancel()
            if not task.done():
                task.cancel()
                await asyncio.wait({task})
        self._control.check()

    async def _finish(
        self, turn: Turn, calls: Sequence[_Pending], results: dict[int, StoredResult]
    ) -> None:
        """Finish calls; results that come together are kept together."""
        pending = {id(call.opened): call for call in calls}

        async def keep(ended: Sequence[OpenCall]) -> None:
            kept: dict[int, StoredResult] = {}
            events: list[NewEvent] = []
            for opened in ended:
                call, result = pending[id(opened)], opened.result
                assert result is not None
                if opened.approval is not None:  # decided, or used up by another process
                    await self._decided(encode("apr", opened.approval.id), [])
                kept[call.index] = self._stored(call.use, result, opened)
                events.append(_result_event(result))
            await self._turns.save_results(self._run.key, turn.number, kept, events)
            results.update(kept)

        await self._tools.finish(self._ctx, [call.opened for call in calls], keep)

    async def _answer(
        self,
        turn: Turn,
        index: int,
        use: ToolUse,
        result: ToolResult,
        results: dict[int, StoredResult],
    ) -> None:
        """Keep the result of a call that is not carried out."""
        stored = self._stored(use, result, None)
        events = [*self._start_events(use, result.tool_call_id, None), _result_event(result)]
        await self._turns.save_results(self._run.key, turn.number, {index: stored}, events)
        results[index] = stored

    def _stored(self, use: ToolUse, result: ToolResult, opened: OpenCall | None) -> StoredResult:
        value, encoded = result.result, result.encoded
        known = len(self._citations.evidence)
        if opened is not None and (opened.call.connector, opened.call.tool) in _CITED:
            value, encoded = self._with_keys(value), None
        if result.error is not None:
            value, encoded = {"error": result.document()["error"]}, None
            if result.result is not None:
                value["result"] = result.result
        if isinstance(value, str):
            text = value
        else:
            text = (encoded or orjson.dumps(value, default=str)).decode()
        reply = ToolReply(
            id=use.id, name=use.name, text=text, is_error=result.status is not ToolStatus.COMPLETED
        )
        return StoredResult(reply=reply, evidence=self._citations.evidence[known:])

    def _with_keys(self, value: Any) -> Any:
        """A search result whose hits name the keys to cite them by."""
        keyed = [
            {"cite": f"[{self._citations.add(piece).key}]", **hit}
            for hit, piece in pieces_of_search(value)
        ]
        return {**value, "hits": keyed} if keyed else value

    async def _emit(self, event: EventType, data: Mapping[str, Any]) -> None:
        """Events of the gateway while a call is being finished."""
        if event is EventType.APPROVAL_RESOLVED:
            new = [(event, data)] if self._is_new((event, data)) else []
            await self._decided(str(data["approval_id"]), new)
        else:
            await self._log.append(self._run.key, [(event, data)])

    async def _decided(self, approval_id: str, events: Sequence[NewEvent]) -> None:
        """Note a decision; after the last one the run is running again."""
        waited = self.waits
        self._undecided.discard(approval_id)
        if waited and not self.waits:
            await self._runs.move(self._run.key, "running", events)
        else:
            await self._log.append(self._run.key, events)


def _result_event(result: ToolResult) -> NewEvent:
    data = {name: value for name, value in result.document().items() if value is not None}
    data.pop("approval_id", None)
    if result.encoded is not None:
        data["result"] = orjson.Fragment(result.encoded)
    return EventType.TOOL_RESULT, data


def _ended(call_id: UUID, status: ToolStatus, code: str, message: str) -> ToolResult:
    return ToolResult(
        tool_call_id=call_id, status=status, error=ToolFault(code=code, message=message)
    )
