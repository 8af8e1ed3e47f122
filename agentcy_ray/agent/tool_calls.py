"""Rows of ``tool_calls``: what was about to happen, and what came of it.

A ``write`` or ``destructive`` call has its row, with ``intent_at``, before it is dispatched, and
its receipt after. Reads have one only when they wait for an approval or are called directly.
Secrets in arguments are masked; those of a direct call are sealed beside it until it has ended.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from agentcy_ray.agent import call_writer
from agentcy_ray.agent.call_writer import CallWrite
from agentcy_ray.core.errors import NotFoundError
from agentcy_ray.core.ids import (
    ArtifactId,
    AuditId,
    ConversationId,
    OrgId,
    RunId,
    SourceId,
    ToolCallId,
    encode,
)
from agentcy_ray.core.states import TOOL_CALL, ends, sources_of
from agentcy_ray.core.tenancy import Principal
from agentcy_ray.core.tools import Effect, PolicyNote, ToolFault, ToolResult, ToolStatus
from agentcy_ray.stores.group_commit import GroupCommit
from agentcy_ray.stores.postgres import Database

if TYPE_CHECKING:
    import asyncpg
    from asyncpg.pool import PoolConnectionProxy

    Connection = PoolConnectionProxy[asyncpg.Record]

ENDED = frozenset(ToolStatus(state) for state in ends(TOOL_CALL)) | {ToolStatus.INDETERMINATE}
"""States with an answer. ``indeterminate`` may still turn into another when a late one arrives."""

_COLUMNS = (
    "id, org_id, run_id, conversation_id, position, source_id, connector, tool, args, args_sealed,"
    " args_sha256, effect, status, principal, context, idempotency_key, intent_at, receipt, result,"
    " result_artifact_id, usage_ms, error, audit_id, created_at, updated_at"
)
_INSERT = """
INSERT INTO tool_calls (id, org_id, run_id, conversation_id, position, source_id, connector, tool,
  args, args_sha256, effect, status, principal, context, idempotency_key, args_sealed, intent_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16,
  CASE WHEN $12 = 'dispatched' THEN clock_timestamp() END)
ON CONFLICT (idempotency_key) DO NOTHING RETURNING id
"""
_GET = f"SELECT {_COLUMNS} FROM tool_calls WHERE id = $1"
_BY_KEY = f"SELECT {_COLUMNS} FROM tool_calls WHERE idempotency_key = $1"
_OF_RUN = f"SELECT {_COLUMNS} FROM tool_calls WHERE run_id = $1 ORDER BY position, id"
_OF_CONVERSATION = f"""
SELECT {_COLUMNS} FROM tool_calls
WHERE conversation_id = $1 AND ($2::uuid IS NULL OR id < $2) ORDER BY id DESC LIMIT $3
"""


class ToolCallRow(BaseModel):
    """A stored call."""

    model_config = ConfigDict(frozen=True)

    id: ToolCallId
    org_id: OrgId
    run_id: RunId | None
    conversation_id: ConversationId | None
    position: int
    source_id: SourceId | None
    connector: str
    tool: str
    args: dict[str, Any]
    """Masked."""
    args_sealed: bytes | None = Field(default=None, exclude=True, repr=False)
    """As they were made, encrypted; only where the mask hides something and nobody else knows."""
    args_sha256: str
    """Of the arguments before they were masked."""
    effect: Effect
    status: ToolStatus
    principal: Principal
    context: dict[str, Any]
    """Realm, agent, request and address of the caller."""
    idempotency_key: str | None
    intent_at: datetime | None
    receipt: dict[str, Any] | None
    result: Any
    result_artifact_id: ArtifactId | None
    usage_ms: float | None
    error: ToolFault | None
    audit_id: AuditId | None
    created_at: datetime
    updated_at: datetime

    @property
    def ended(self) -> bool:
        """Whether there is an answer."""
        return self.status in ENDED

    def as_result(self, approval_id: UUID | None = None) -> ToolResult:
        """The row as the answer that its caller gets."""
        denied = self.status is ToolStatus.DENIED
        note = PolicyNote(decision="deny" if denied else "allow", audit_id=self.audit_id)
        return ToolResult(
            tool_call_id=self.id,
            status=self.status,
            result=self.result,
            error=self.error,
            truncated=self.result_artifact_id is not None,
            artifact_id=self.result_artifact_id,
            usage_ms=self.usage_ms or 0.0,
            policy=note if self.audit_id else None,
            approval_id=approval_id,
        )


@dataclass(frozen=True)
class NewToolCall:
    """A row to be written."""

    id: UUID
    principal: Principal
    run_id: UUID | None
    conversation_id: UUID | None
    position: int
    source_id: UUID | None
    connector: str
    tool: str
    args: dict[str, Any]
    args_sealed: bytes | None
    args_sha256: str
    effect: Effect
    context: dict[str, Any]
    idempotency_key: str | None


class ToolCallStore:
    """Reads and guarded moves of tool-call rows."""

    def __init__(self, db: Database) -> None:
        self.db = db
        # A row is moved once in a transaction, so that each end finds what came before it.
        self._writes = GroupCommit[CallWrite, bool](db, call_writer.put, lambda write: write.id)

    async def insert(self, connection: Connection, call: NewToolCall, status: ToolStatus) -> bool:
        """Write a row; False when one with this idempotency key exists."""
        return bool(
            await connection.fetchval(
                _INSERT, call.id, call.principal.org_id, call.run_id, call.conversation_id,
                call.position, call.source_id, call.connector, call.tool, call.args,
                call.args_sha256, call.effect.value, status.value,
                call.principal.model_dump(mode="json"), call.context, call.idempotency_key,
                call.args_sealed,
            )
        )  # fmt: skip

    async def add(
        self,
        call: NewToolCall,
        status: ToolStatus = ToolStatus.DISPATCHED,
        result: ToolResult | None = None,
        receipt: dict[str, Any] | None = None,
    ) -> bool:
        """Write a row with others' in one commit; False when one with its idempotency key exists.

        Args:
            call: the call.
            status: ``dispatched`` for an intent, else how it ended.
            result: of a call that has ended.
            receipt: of a call that has ended.

        Raises:
            StoreUnavailableError, StorageFullError: it is not known to be durable.
        """
        sealed = call.args_sealed if result is None else None
        row = {
            "run_id": _text(call.run_id),
            "conversation_id": _text(call.conversation_id),
            "position": call.position,
            "source_id": _text(call.source_id),
            "connector": call.connector,
            "tool": call.tool,
            "args": call.args,
            "args_sealed": None if sealed is None else f"\\x{sealed.hex()}",
            "args_sha256": call.args_sha256,
            "effect": call.effect.value,
            "status": status.value,
            "principal": call.principal.model_dump(mode="json"),
            "context": call.context,
            "idempotency_key": call.idempotency_key,
            **({} if result is None else _ending(result, receipt)),
        }
        return await self._writes.hand_in(
            call.principal.org_id, CallWrite(call.id, row, ends=False)
        )

    async def get(self, org_id: UUID, tool_call_id: UUID) -> ToolCallRow:
        """One call.

        Raises:
            NotFoundError: the organisation has no such row; reads of a run leave none.
        """
        async with self.db.tenant(org_id) as connection:
            row = await connection.fetchrow(_GET, tool_call_id)
        if row is None:
            raise NotFoundError(f"no tool call {encode('tc', tool_call_id)}")
        return ToolCallRow(**dict(row))

    async def by_key(self, org_id: UUID, key: str) -> ToolCallRow | None:
        """The call with this idempotency key, or None."""
        async with self.db.tenant(org_id) as connection:
            row = await connection.fetchrow(_BY_KEY, key)
        return None if row is None else ToolCallRow(**dict(row))

    async def of_run(self, org_id: UUID, run_id: UUID) -> list[ToolCallRow]:
        """The rows of a run, in the order of their positions."""
        async with self.db.tenant(org_id) as connection:
            return [ToolCallRow(**dict(row)) for row in await connection.fetch(_OF_RUN, run_id)]

    async def of_conversation(
        self, org_id: UUID, conversation_id: UUID, *, limit: int = 50, before: UUID | None = None
    ) -> list[ToolCallRow]:
        """The rows of a conversation, newest first."""
        async with self.db.tenant(org_id) as connection:
            rows = await connection.fetch(_OF_CONVERSATION, conversation_id, before, limit)
        return [ToolCallRow(**dict(row)) for row in rows]

    async def end(
        self, org_id: UUID, result: ToolResult, receipt: dict[str, Any] | None = None
    ) -> bool:
        """Write the end of a call, with others' in one commit.

        Answers False when its state no longer allows this end.

        Raises:
            StoreUnavailableError, StorageFullError: it is not known to be durable.
        """
        former = sources_of(TOOL_CALL, result.status.value)
        row = {**_ending(result, receipt), "of": list(former)}
        return await self._writes.hand_in(org_id, CallWrite(result.tool_call_id, row, ends=True))


def _ending(result: ToolResult, receipt: dict[str, Any] | None) -> dict[str, Any]:
    """The columns that say how a call ended, as JSON."""
    return {
        "status": result.status.value,
        "receipt": receipt,
        "result": result.result,
        "result_artifact_id": _text(result.artifact_id),
        "usage_ms": result.usage_ms,
        "error": result.document()["error"],
        "audit_id": None if result.policy is None else _text(result.policy.audit_id),
    }


def _text(value: UUID | None) -> str | None:
    return None if value is None else str(value)
