"""Conversations and their messages: who said what, in which order, and what was read."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal
from uuid import UUID

import asyncpg
from pydantic import BaseModel, ConfigDict, Field

from agentcy_ray.core.errors import InvalidError, NotFoundError
from agentcy_ray.core.events import Usage
from agentcy_ray.core.ids import AgentId, ConversationId, MessageId, RunId, UserId, encode, new_id
from agentcy_ray.core.tenancy import Principal
from agentcy_ray.stores.postgres import Database

if TYPE_CHECKING:
    from agentcy_ray.agent.run_writer import Connection

TITLE_CHARS = 80

_COLUMNS = (
    "c.id, c.user_id, c.title, c.realm, c.agent_id, c.model, c.archived, c.last_seq,"
    " c.created_at, c.updated_at"
)
_READ_UP_TO = (
    "coalesce((SELECT r.last_read_seq FROM conversation_reads r"
    " WHERE r.conversation_id = c.id AND r.user_id = $1), 0)"
)
_UNREAD = f"c.last_seq - {_READ_UP_TO} AS unread_count"
_ACTIVE = (
    "(SELECT r.id FROM runs r WHERE r.conversation_id = c.id"
    " AND r.status IN ('queued', 'running', 'waiting_approval')) AS active_run_id"
)
_INSERT = """
INSERT INTO conversations (id, org_id, user_id, title, realm, agent_id, model)
VALUES ($1, $2, $3, $4, $5, $6, $7)
"""
_GET = f"""
SELECT {_COLUMNS}, {_UNREAD}, {_ACTIVE} FROM conversations c
WHERE c.id = $2 AND ($3::uuid IS NULL OR c.user_id = $3)
"""
_LIST = f"""
SELECT {_COLUMNS}, {_UNREAD}, {_ACTIVE} FROM conversations c
WHERE ($2::uuid IS NULL OR c.user_id = $2) AND c.archived = $3 AND ($4::uuid IS NULL OR c.id < $4)
  AND (NOT $6 OR c.last_seq > {_READ_UP_TO})
  AND ($7::text IS NULL OR strpos(lower(c.title), lower($7)) > 0)
ORDER BY c.id DESC LIMIT $5
"""
_UPDATE = """
UPDATE conversations SET title = $2, realm = $3, agent_id = $4, model = $5, archived = $6
WHERE id = $1
"""
_DELETE = "DELETE FROM conversations WHERE id = $1"
_MESSAGES = """
SELECT id, conversation_id, seq, role, kind, content, citations, run_id, usage, created_at
FROM messages WHERE conversation_id = $1 AND ($2::bigint IS NULL OR seq < $2)
ORDER BY seq DESC LIMIT $3
"""
_MESSAGES_AFTER = """
SELECT id, conversation_id, seq, role, kind, content, citations, run_id, usage, created_at
FROM messages WHERE conversation_id = $1 AND seq > $2 ORDER BY seq LIMIT $3
"""
_READ = """
INSERT INTO conversation_reads (org_id, conversation_id, user_id, last_read_seq)
SELECT $1, c.id, $3, least($4, c.last_seq) FROM conversations c WHERE c.id = $2
ON CONFLICT (conversation_id, user_id)
DO UPDATE SET last_read_seq = greatest(conversation_reads.last_read_seq, excluded.last_read_seq)
"""
_ADD_MESSAGE = """
WITH head AS (
  UPDATE conversations SET last_seq = last_seq + 1,
    title = CASE WHEN title = '' AND $4 = 'user' THEN $9 ELSE title END
  WHERE id = $3 RETURNING last_seq
)
INSERT INTO messages (id, org_id, conversation_id, seq, role, content, citations, run_id, usage)
SELECT $1, $2, $3, head.last_seq, $4, $5, $6, $7, $8 FROM head
RETURNING seq
"""


class ConversationSettings(BaseModel):
    """What may be chosen for a conversation."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str = Field(default="", max_length=200)
    realm: str | None = None
    agent_id: AgentId | None = None
    model: str | None = None
    """Chosen for this conversation; wins over the agent's."""


class Conversation(ConversationSettings):
    """A conversation as its user sees it."""

    id: ConversationId
    user_id: UserId
    archived: bool
    last_seq: int
    unread_count: int
    """Messages that the asking user has not read."""
    active_run_id: RunId | None
    created_at: datetime
    updated_at: datetime


class ChatMessage(BaseModel):
    """One message of a conversation."""

    model_config = ConfigDict(frozen=True)

    id: MessageId
    conversation_id: ConversationId
    seq: int
    role: Literal["user", "assistant", "system"]
    kind: str
    content: str
    citations: tuple[dict[str, Any], ...] = ()
    run_id: RunId | None = None
    usage: Usage | None = None
    created_at: datetime


class ConversationStore:
    """Rows of ``conversations``, ``messages`` and ``conversation_reads``.

    A principal whose grant is ``own`` meets their own conversations only.
    """

    def __init__(self, db: Database) -> None:
        self._db = db

    async def create(self, principal: Principal, new: ConversationSettings) -> Conversation:
        """Start a conversation.

        Raises:
            InvalidError: the realm or the agent does not exist.
        """
        conversation_id = new_id()
        await self._write(
            principal, _INSERT, conversation_id, principal.org_id, principal.user_id, new.title,
            new.realm, new.agent_id, new.model,
        )  # fmt: skip
        return await self.get(principal, conversation_id)

    async def get(
        self, principal: Principal, conversation_id: UUID, *, permission: str = "chat.read"
    ) -> Conversation:
        """One conversation that the principal may meet under ``permission``.

        Raises:
            NotFoundError: there is none, or it is somebody else's.
        """
        owner = _owner(principal, permission)
        async with self._db.tenant(principal.org_id) as connection:
            row = await connection.fetchrow(_GET, principal.user_id, conversation_id, owner)
        if row is None:
            raise _absent(conversation_id)
        return Conversation.model_validate(dict(row))

    async def list(
        self,
        principal: Principal,
        *,
        archived: bool = False,
        unread: bool = False,
        title: str | None = None,
        limit: int = 50,
        before: UUID | None = None,
    ) -> list[Conversation]:
        """Conversations, newest first.

        Args:
            principal: whose; with a full grant all of the organisation.
            archived: those put away, instead of the others.
            unread: only those with messages after the principal's read mark.
            title: only those whose title contains it, in any case.
            limit: at most so many.
            before: only those made before this one.
        """
        owner = _owner(principal, "chat.read")
        async with self._db.tenant(principal.org_id) as connection:
            rows = await connection.fetch(
                _LIST, principal.user_id, owner, archived, before, limit, unread, title
            )
        return [Conversation.model_validate(dict(row)) for row in rows]

    async def update(
        self, principal: Principal, conversation_id: UUID, changes: Mapping[str, Any]
    ) -> Conversation:
        """Change ``title``, ``realm``, ``agent_id``, ``model`` or ``archived``; absent ones stay.

        None takes a choice back; a title becomes empty, and ``archived`` stays.

        Raises:
            NotFoundError: no such conversation.
            InvalidError: the realm or the agent does not exist.
        """
        current = await self.get(principal, conversation_id, permission="chat.write")
        rest = dict(changes)
        if rest.get("title", "") is None:
            rest["title"] = ""
        archived = rest.pop("archived", None)
        archived = current.archived if archived is None else archived
        kept = {name: getattr(current, name) for name in ConversationSettings.model_fields}
        wanted = ConversationSettings.model_validate({**kept, **rest})
        await self._write(
            principal, _UPDATE, conversation_id, wanted.title, wanted.realm, wanted.agent_id,
            wanted.model, archived,
        )  # fmt: skip
        return await self.get(principal, conversation_id)

    async def delete(self, principal: Principal, conversation_id: UUID) -> None:
        """Remove a conversation with its messages and runs.

        Raises:
            NotFoundError: no such conversation.
        """
        await self.get(principal, conversation_id, permission="chat.write")
        await self._write(principal, _DELETE, conversation_id)

    async def messages(
        self,
        principal: Principal,
        conversation_id: UUID,
        *,
        limit: int = 50,
        before_seq: int | None = None,
        after_seq: int | None = None,
    ) -> list[ChatMessage]:
        """Messages, newest first; with ``after_seq`` those that follow it, oldest first.

        Raises:
            NotFoundError: no such conversation.
        """
        await self.get(principal, conversation_id)
        if after_seq is not None:
            async with self._db.tenant(principal.org_id) as connection:
                rows = await connection.fetch(_MESSAGES_AFTER, conversation_id, after_seq, limit)
            return [ChatMessage.model_validate(dict(row)) for row in rows]
        return await self.transcript(
            principal.org_id, conversation_id, limit=limit, before_seq=before_seq
        )

    async def transcript(
        self,
        org_id: UUID,
        conversation_id: UUID,
        *,
        limit: int = 200,
        before_seq: int | None = None,
    ) -> list[ChatMessage]:
        """Messages, newest first, for the platform itself."""
        async with self._db.tenant(org_id) as connection:
            rows = await connection.fetch(_MESSAGES, conversation_id, before_seq, limit)
        return [ChatMessage.model_validate(dict(row)) for row in rows]

    async def mark_read(self, principal: Principal, conversation_id: UUID, seq: int) -> None:
        """Note that the principal has read up to ``seq``; never goes back.

        Raises:
            NotFoundError: no such conversation.
        """
        await self.get(principal, conversation_id)
        await self._write(
            principal, _READ, principal.org_id, conversation_id, principal.user_id, seq
        )

    async def _write(self, principal: Principal, statement: str, *values: Any) -> None:
        try:
            async with self._db.tenant(principal.org_id) as connection:
                await connection.execute(statement, *values)
        except asyncpg.ForeignKeyViolationError as error:
            field = "realm" if "realm" in str(error.constraint_name) else "agent_id"
            raise InvalidError(
                f"the conversation's {field} does not exist; list what there is",
                errors=[{"loc": [field], "message": "does not exist"}],
            ) from None


async def note_read(
    connection: Connection, org_id: UUID, conversation_id: UUID, user_id: UUID, seq: int
) -> None:
    """Note inside the caller's transaction that a user has read up to ``seq``."""
    await connection.execute(_READ, org_id, conversation_id, user_id, seq)


async def add_message(
    connection: Connection,
    org_id: UUID,
    conversation_id: UUID,
    *,
    message_id: UUID,
    role: Literal["user", "assistant"],
    content: str,
    citations: tuple[Mapping[str, Any], ...] = (),
    run_id: UUID | None = None,
    usage: Usage | None = None,
) -> int:
    """Put a message at the end of a conversation, inside the caller's transaction.

    The first words of a person become the title of an untitled conversation. Returns the number
    of the message.
    """
    title = " ".join(content.split())[:TITLE_CHARS]
    seq = await connection.fetchval(
        _ADD_MESSAGE, message_id, org_id, conversation_id, role, content,
        [dict(citation) for citation in citations], run_id,
        usage.model_dump(mode="json") if usage is not None else None, title,
    )  # fmt: skip
    return int(seq)


def _owner(principal: Principal, permission: str) -> UUID | None:
    """The user whose conversations the principal is limited to; None = all of the organisation."""
    return principal.user_id if principal.require(permission) == "own" else None


def _absent(conversation_id: UUID) -> NotFoundError:
    return NotFoundError(
        f"no conversation {encode('cnv', conversation_id)}; list yours to find one"
    )
