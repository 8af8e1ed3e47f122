"""Turns of a run as they are kept, so that a successor repeats none that is complete.

Turn 0 is the context build. Every later turn is a model's message, stored before its tool calls
begin, with the results of those calls added one by one as they come.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from pydantic import Field

from agentcy_ray.agent.context_build import Built
from agentcy_ray.agent.run_writer import NewEvent, NewResults, NewTurn, RunKey, Stored
from agentcy_ray.agent.runlog import RunLog
from agentcy_ray.core.events import Usage
from agentcy_ray.llm.model import Evidence, Message, Record, StopReason, ToolReply
from agentcy_ray.stores.postgres import Database

_LOAD = "SELECT turn, messages, results, usage FROM run_turns WHERE run_id = $1 ORDER BY turn"
# While a model streams, only deltas, citations and (with a fallback model) restarts are written, so
# what lies above the newest event of another kind is the half turn.
_VOID_FROM = """
SELECT min(seq) FROM run_events WHERE run_id = $1 AND type IN ('content_delta', 'thinking_delta')
AND seq > (SELECT coalesce(max(seq), 0) FROM run_events WHERE run_id = $1
           AND type NOT IN ('content_delta', 'thinking_delta', 'citation'))
"""
_ANNOUNCED = """
SELECT type || ':' || (data->>CASE type WHEN 'tool_call_start' THEN 'tool_call_id'
                       ELSE 'approval_id' END) AS identity
FROM run_events WHERE run_id = $1
  AND type IN ('tool_call_start', 'approval_required', 'approval_resolved')
"""


_REPLY = tuple(ToolReply.model_fields)


class StoredResult(Record):
    """What a tool call brought: the model's reply and the pieces that got keys by it."""

    reply: ToolReply
    evidence: tuple[Evidence, ...] = ()

    def document(self) -> dict[str, Any]:
        """As it is kept; half the work of a model's own way."""
        reply = {name: getattr(self.reply, name) for name in _REPLY}
        return {"reply": reply, "evidence": [piece.model_dump() for piece in self.evidence]}


class Turn(Record):
    """A model's turn."""

    number: int
    message: Message
    said: str
    """Its words as readers saw them, citation keys checked."""
    used: tuple[int, ...] = ()
    """Citation keys used up to and including this turn."""
    stop_reason: StopReason = "end_turn"
    results: dict[int, StoredResult] = Field(default_factory=dict[int, StoredResult])
    """By place of the call in the message."""
    usage: Usage

    @property
    def replies(self) -> tuple[ToolReply, ...]:
        """Replies in the order of the calls."""
        return tuple(self.results[index].reply for index in sorted(self.results))


class Past(Record):
    """What is known of a run from before."""

    context: Built | None
    turns: tuple[Turn, ...]


class TurnStore:
    """Rows of ``run_turns``; every write checks the epoch."""

    def __init__(self, db: Database, log: RunLog) -> None:
        self._db = db
        self._log = log

    async def load(self, org_id: UUID, run_id: UUID) -> Past:
        """The context build and the turns so far."""
        async with self._db.tenant(org_id) as connection:
            rows = await connection.fetch(_LOAD, run_id)
        context: Built | None = None
        turns: list[Turn] = []
        for row in rows:
            if row["turn"] == 0:
                context = Built.model_validate(row["messages"])
            else:
                turns.append(
                    Turn.model_validate({
                        "number": row["turn"],
                        "usage": row["usage"],
                        "results": row["results"],
                        **row["messages"],
                    })
                )
        return Past(context=context, turns=tuple(turns))

    async def void_from(self, org_id: UUID, run_id: UUID) -> int | None:
        """Number of the first delta of a turn that was cut off half way; None when none was."""
        async with self._db.tenant(org_id) as connection:
            return await connection.fetchval(_VOID_FROM, run_id)

    async def announced(self, org_id: UUID, run_id: UUID) -> set[str]:
        """``<type>:<id>`` of the tool calls and approvals that the log has told of."""
        async with self._db.tenant(org_id) as connection:
            rows = await connection.fetch(_ANNOUNCED, run_id)
        return {row["identity"] for row in rows}

    async def save_context(self, key: RunKey, built: Built) -> None:
        """Keep the context build.

        Raises:
            LeaseLostError: the run has a newer owner, or has ended.
        """
        body = built.model_dump(mode="json")
        turn = NewTurn(0, body, Usage().model_dump(mode="json"), None)
        await self._log.append(key, (), turn=turn)

    def save(self, key: RunKey, turn: Turn, total: Usage) -> asyncio.Future[list[Stored]]:
        """Keep a complete model turn with the run's usage so far; then its calls may begin.

        The future may hold ``LeaseLostError``: the run has a newer owner, or has ended.
        """
        body = turn.model_dump(mode="json", include={"message", "said", "used", "stop_reason"})
        usage, totals = turn.usage.model_dump(mode="json"), total.model_dump(mode="json")
        return self._log.keep(key, NewTurn(turn.number, body, usage, totals))

    async def save_results(
        self,
        key: RunKey,
        number: int,
        results: Mapping[int, StoredResult],
        events: Sequence[NewEvent],
    ) -> None:
        """Keep what calls of turn ``number`` brought, by their places, with their events.

        Raises:
            LeaseLostError: the run has a newer owner, or has ended.
        """
        kept = {str(index): result.document() for index, result in results.items()}
        await self._log.append(key, events, results=NewResults(number, kept))
