"""A job, as its row holds it and as everybody sees it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from agentcy_ray.core.ids import JobId, OrgId

QueueName = Literal["sync", "tasks", "embed", "maintenance", "channel"]

KINDS: Mapping[str, QueueName] = {
    "source_sync": "sync",
    "pipeline_run": "sync",
    "package_fold": "sync",
    "source_purge": "sync",
    "embed_backfill": "embed",
    "embed_reindex": "embed",
    "embed_swap": "embed",
    "task_run": "tasks",
    "workflow_run": "tasks",
    "lifecycle_dispatch": "tasks",
    "engine_migration": "maintenance",
    "kyma_compact": "maintenance",
    "memory_compaction": "maintenance",
    "retention_prune": "maintenance",
    "audit_retention": "maintenance",
    "policy_replay": "maintenance",
    "credential_rewrap": "maintenance",
    "org_erase": "maintenance",
    "channel_send": "channel",
}
"""Every kind of job and the queue that carries it."""
HEARD: frozenset[str] = frozenset({"embed_backfill", "embed_swap"})
"""Kinds whose handler hears of a cancel even before it has begun: a row that people follow says how
the work stands, and only the handler brings that to its end."""


class JobStatus(StrEnum):
    """States of a job; moves are in ``core/states.py``."""

    QUEUED = "queued"
    RUNNING = "running"
    RETRY_WAIT = "retry_wait"
    SUCCEEDED = "succeeded"
    DEAD = "dead"
    CANCELLED = "cancelled"


class Progress(BaseModel):
    """How far a piece of long work is; ``total`` and ``eta_secs`` are None while unknown."""

    model_config = ConfigDict(frozen=True)

    done: int = 0
    total: int | None = None
    unit: str = ""
    rate: float | None = None
    """Units a second."""
    eta_secs: float | None = None
    note: str = ""


class NewJob(BaseModel):
    """What a caller asks to be done."""

    model_config = ConfigDict(frozen=True)

    org_id: UUID
    kind: str
    payload: dict[str, Any] = Field(default_factory=dict)
    priority: int = Field(default=5, ge=0, le=9)
    """9 goes first."""
    delay_secs: float = Field(default=0.0, ge=0)
    max_attempts: int | None = Field(default=None, ge=1)
    """None = the setting ``JOB_MAX_ATTEMPTS``."""
    dedupe_key: str | None = None
    """While a job with this key is open, asking again answers that job."""


class Job(BaseModel):
    """One row of ``jobs``."""

    model_config = ConfigDict(frozen=True)

    id: JobId
    org_id: OrgId
    kind: str
    payload: dict[str, Any]
    priority: int
    status: JobStatus
    attempts: int
    max_attempts: int
    run_after: datetime
    lease_until: datetime | None
    epoch: int
    worker_id: str | None
    cancel_requested: bool
    progress: Progress | None
    error: dict[str, Any] | None
    dedupe_key: str | None
    created_at: datetime
    updated_at: datetime

    @property
    def queue(self) -> QueueName:
        """The queue that carries it."""
        return queue_of(self.kind)

    @property
    def open(self) -> bool:
        """Whether something may still happen to it by itself."""
        return self.status in {JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.RETRY_WAIT}


def queue_of(kind: str) -> QueueName:
    """The queue of a kind; kinds that nobody listed go with the tasks."""
    return KINDS.get(kind, "tasks")
