"""Rows of replays: what was tried over which days, and what came out."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from agentcy_ray.core.errors import NotFoundError
from agentcy_ray.core.ids import JobId, ReplayId, UserId
from agentcy_ray.policy.candidates import Candidate
from agentcy_ray.policy.replay import BlastRadius
from agentcy_ray.stores.postgres import Database

JOB_KIND = "policy_replay"

_INSERT = """
INSERT INTO policy_replays (id, org_id, author, candidate, since, until, job_id)
VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING *
"""
_GET = "SELECT * FROM policy_replays WHERE id = $1"
_FINISH = "UPDATE policy_replays SET result = $2 WHERE id = $1"


class Replay(BaseModel):
    """A replay that was asked for; ``result`` is None until its job has ended well."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: ReplayId
    author: UserId
    candidate: list[Candidate]
    since: datetime
    until: datetime
    job_id: JobId
    result: BlastRadius | None
    created_at: datetime


class ReplayStore:
    """Reads and writes replays of one organisation at a time."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def insert(
        self,
        connection: Any,
        org_id: UUID,
        author: UUID,
        candidates: Sequence[Candidate],
        since: datetime,
        until: datetime,
        *,
        replay_id: UUID,
        job_id: UUID,
    ) -> Replay:
        """Write a replay on the transaction that writes its job."""
        texts = [candidate.model_dump() for candidate in candidates]
        row = await connection.fetchrow(
            _INSERT, replay_id, org_id, author, texts, since, until, job_id
        )
        return Replay(**dict(row))

    async def get(self, org_id: UUID, replay_id: UUID) -> Replay:
        """One replay.

        Raises:
            NotFoundError: there is none with this id.
        """
        async with self._db.tenant(org_id) as connection:
            row = await connection.fetchrow(_GET, replay_id)
        if row is None:
            raise NotFoundError("no such replay; start one with `agentcy policy replay`")
        return Replay(**dict(row))

    async def finish(self, org_id: UUID, replay_id: UUID, result: BlastRadius) -> None:
        """Keep what came out; writing it twice is harmless."""
        async with self._db.tenant(org_id) as connection:
            await connection.execute(_FINISH, replay_id, result.model_dump(mode="json"))
