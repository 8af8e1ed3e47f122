"""A backfill, as its row holds it, and how it is to be made."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from agentcy_ray.core.ids import BackfillId, JobId, OrgId, SpaceId, UserId
from agentcy_ray.ingest.backfill.quiet import QuietHours

Engine = Literal["coordinator", "ray-data"]
Status = Literal["queued", "running", "paused", "done", "failed", "cancelled"]
Phase = Literal["planning", "embedding", "retrying", "indexing", "checking"]
OPEN: tuple[Status, ...] = ("queued", "running", "paused")


class BackfillOptions(BaseModel):
    """How a backfill is to be made; every bound is of the whole backfill."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    block_chunks: int = Field(default=1000, ge=16, le=20_000)
    """Chunks of a block, about: what is written at once, and what a killed worker repeats."""
    lanes: int = Field(default=2, ge=1, le=64)
    """Blocks that are embedded at once; two let one fill the actors that the other leaves idle."""
    share: float = Field(default=1.0, gt=0, le=1)
    """Part of the time that a lane may have the model; it rests for the other part."""
    max_chunks_per_s: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    max_tokens_per_s: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    quiet: tuple[QuietHours, ...] = ()
    """When nothing is embedded."""

    def shared_by(self, workers: int) -> BackfillOptions:
        """The part of one of several workers that know nothing of each other."""
        chunks, tokens = self.max_chunks_per_s, self.max_tokens_per_s
        return self.model_copy(
            update={
                "max_chunks_per_s": None if chunks is None else chunks / workers,
                "max_tokens_per_s": None if tokens is None else tokens / workers,
            }
        )


class Backfill(BaseModel):
    """One filling of a space; ``bkf_…``."""

    model_config = ConfigDict(frozen=True)

    id: BackfillId
    org_id: OrgId
    space_id: SpaceId
    engine: Engine
    status: Status
    phase: Phase
    note: str
    """What it waits for; empty while it works."""
    options: BackfillOptions
    job_id: JobId | None
    epoch: int
    nodes: int
    nodes_done: int
    blocks: int
    blocks_done: int
    chunks: int
    tokens: int
    cost_usd: float
    gpu_secs: float
    chunks_per_s: float | None
    tokens_per_s: float | None
    eta_secs: float | None
    errors: int
    """Texts that no attempt could embed so far."""
    recall: dict[str, Any] | None
    error: dict[str, Any] | None
    created_by: UserId | None
    started_at: datetime | None
    ended_at: datetime | None
    created_at: datetime

    @property
    def total(self) -> int | None:
        """Chunks that there will be, estimated from the blocks that are done; None before any."""
        if self.nodes_done == 0:
            return 0 if self.started_at and self.phase != "planning" and not self.nodes else None
        return max(self.chunks, round(self.chunks * self.nodes / self.nodes_done))

    def progress(self) -> dict[str, Any]:
        """How far it is, in the form that every part shows."""
        return {
            "status": self.status,
            "phase": self.phase,
            "note": self.note,
            "done": self.chunks,
            "total": self.total,
            "unit": "chunks",
            "tokens": self.tokens,
            "chunks_per_s": self.chunks_per_s,
            "tokens_per_s": self.tokens_per_s,
            "cost_usd": round(self.cost_usd, 6),
            "gpu_secs": round(self.gpu_secs, 3),
            "eta_secs": self.eta_secs,
            "errors": self.errors,
        }


class EmbedError(BaseModel):
    """A text that could not be embedded."""

    model_config = ConfigDict(frozen=True)

    chunk_key: str
    node_id: str
    code: str
    message: str
    attempts: int
    created_at: datetime
