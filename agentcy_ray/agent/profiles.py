"""Agents: who answers, with which instructions, model, reach and approval defaults."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

import asyncpg
from pydantic import BaseModel, ConfigDict, Field

from agentcy_ray.core.errors import ConflictError, NotFoundError
from agentcy_ray.core.ids import AgentId, OrgId, encode, new_id
from agentcy_ray.core.tools import Effect
from agentcy_ray.stores.postgres import Database

DEFAULT_AGENT = "default"
ApprovalDefault = Literal["allow", "approve", "deny"]

_COLUMNS = (
    "id, org_id, name, description, instructions, model, fallback_model, realms, connectors,"
    " approval_defaults, max_iterations, temperature, show_reasoning, created_at, updated_at"
)
_GET = f"SELECT {_COLUMNS} FROM agents WHERE id = $1"
_BY_NAME = f"SELECT {_COLUMNS} FROM agents WHERE name = $1"
_LIST = f"""
SELECT {_COLUMNS} FROM agents WHERE ($1::uuid IS NULL OR id < $1) ORDER BY id DESC LIMIT $2
"""
_INSERT = f"""
INSERT INTO agents (id, org_id, name, description, instructions, model, fallback_model, realms,
  connectors, approval_defaults, max_iterations, temperature, show_reasoning)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13) RETURNING {_COLUMNS}
"""
_UPDATE = f"""
UPDATE agents SET description = $2, instructions = $3, model = $4, fallback_model = $5,
  realms = $6, connectors = $7, approval_defaults = $8, max_iterations = $9, temperature = $10,
  show_reasoning = $11
WHERE id = $1 RETURNING {_COLUMNS}
"""


class AgentSettings(BaseModel):
    """What may be changed on an agent."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    description: str = Field(default="", max_length=1000)
    instructions: str = Field(default="", max_length=32 * 1024)
    model: str | None = None
    fallback_model: str | None = None
    realms: tuple[str, ...] | None = None
    """Realms that it may look into; None = all that the caller may."""
    connectors: tuple[str, ...] | None = None
    """Connectors that it may use; None = all."""
    approval_defaults: Mapping[Effect, ApprovalDefault] = Field(
        default_factory=dict[Effect, ApprovalDefault]
    )
    max_iterations: int | None = Field(default=None, ge=1, le=100)
    temperature: float | None = Field(default=None, ge=0, le=2)
    show_reasoning: bool = False
    """Whether what its model thinks goes into the log, where every reader of the run sees it."""


class NewAgent(AgentSettings):
    """An agent to be made."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_-]{0,47}$")


class AgentProfile(NewAgent):
    """A stored agent."""

    id: AgentId
    org_id: OrgId
    created_at: datetime
    updated_at: datetime


class AgentStore:
    """Rows of ``agents``."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def get(self, org_id: UUID, agent_id: UUID) -> AgentProfile:
        """One agent.

        Raises:
            NotFoundError: the organisation has none with this id.
        """
        async with self._db.tenant(org_id) as connection:
            row = await connection.fetchrow(_GET, agent_id)
        if row is None:
            raise NotFoundError(f"no agent {encode('agt', agent_id)}; list the agents to find one")
        return _profile(row)

    async def by_name(self, org_id: UUID, name: str) -> AgentProfile:
        """One agent by its name.

        Raises:
            NotFoundError: the organisation has none of this name.
        """
        async with self._db.tenant(org_id) as connection:
            row = await connection.fetchrow(_BY_NAME, name)
        if row is None:
            raise NotFoundError(f"no agent named {name!r}; list the agents to find one")
        return _profile(row)

    async def list(
        self, org_id: UUID, *, limit: int = 50, before: UUID | None = None
    ) -> list[AgentProfile]:
        """Agents, newest first, those made before ``before`` only."""
        async with self._db.tenant(org_id) as connection:
            rows = await connection.fetch(_LIST, before, limit)
        return [_profile(row) for row in rows]

    async def create(self, org_id: UUID, agent: NewAgent) -> AgentProfile:
        """Store a new agent.

        Raises:
            ConflictError: the name is taken.
        """
        try:
            async with self._db.tenant(org_id) as connection:
                row = await connection.fetchrow(
                    _INSERT, new_id(), org_id, agent.name, *_values(agent)
                )
        except asyncpg.UniqueViolationError:
            raise ConflictError(
                f"an agent named {agent.name!r} exists; choose another name or change that one"
            ) from None
        assert row is not None
        return _profile(row)

    async def update(
        self, org_id: UUID, agent_id: UUID, changes: Mapping[str, Any]
    ) -> AgentProfile:
        """Change fields of ``AgentSettings``; absent ones stay.

        Raises:
            NotFoundError: no such agent.
            pydantic.ValidationError: a value is outside its limits or a field does not exist.
        """
        current = await self.get(org_id, agent_id)
        kept = {name: getattr(current, name) for name in AgentSettings.model_fields}
        wanted = AgentSettings.model_validate({**kept, **changes})
        async with self._db.tenant(org_id) as connection:
            row = await connection.fetchrow(_UPDATE, agent_id, *_values(wanted))
        if row is None:
            raise NotFoundError(f"no agent {encode('agt', agent_id)}; list the agents to find one")
        return _profile(row)


def _values(agent: AgentSettings) -> tuple[Any, ...]:
    return (
        agent.description,
        agent.instructions,
        agent.model,
        agent.fallback_model,
        agent.realms,
        agent.connectors,
        {Effect(effect).value: what for effect, what in agent.approval_defaults.items()},
        agent.max_iterations,
        agent.temperature,
        agent.show_reasoning,
    )


def _profile(row: asyncpg.Record) -> AgentProfile:
    return AgentProfile.model_validate(dict(row))
