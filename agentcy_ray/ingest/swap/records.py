"""A swap of the embedding model, as its row holds it."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from agentcy_ray.core.ids import JobId, OrgId, SpaceId, SwapId, UserId
from agentcy_ray.ingest.backfill.records import BackfillOptions

Status = Literal[
    "planned", "backfilling", "checking", "ready", "cut_over", "done", "rolled_back", "failed",
    "cancelled",
]  # fmt: skip
OPEN: tuple[Status, ...] = ("planned", "backfilling", "checking", "ready")
"""States of which an organisation has one at most."""
WORKING: tuple[Status, ...] = ("planned", "backfilling", "checking")
"""States that a job leads on; ``ready`` waits for a person."""


class SwapOptions(BaseModel):
    """How a swap is to be made."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    engine: Literal["coordinator", "ray-data"] = "coordinator"
    """What drives the backfill."""
    storage: Literal["vector", "halfvec"] | None = None
    """Column type of the new vectors; None = what the database has."""
    activate: bool = True
    """Cut over as soon as the gate lets it through; False = wait in ``ready``."""
    force: bool = False
    """Cut over whatever the gate says."""
    min_recall: float | None = Field(default=None, ge=0, le=1)
    """None = the setting ``EMBEDDING_MIN_RECALL``."""
    min_overlap: float | None = Field(default=None, ge=0, le=1)
    """None = the setting ``EMBEDDING_MIN_OVERLAP``."""
    backfill: BackfillOptions = BackfillOptions()
    """Bounds of the backfill: its share of the model, its rate, its quiet hours."""


class Recalled(BaseModel):
    """Recall@10 of the new space's index against an exact search in it."""

    model_config = ConfigDict(frozen=True)

    mean: float
    worst: float
    ef_search: int
    sampled: int
    floor: float


class Overlap(BaseModel):
    """What both spaces answer to the same queries."""

    model_config = ConfigDict(frozen=True)

    mean: float
    """Mean share of the former space's best ten hits that are among the new one's best ten."""
    worst: float
    asked: int
    """Queries that people have asked."""
    made: int
    """Names of entities in their place, where too few were asked."""
    emptied: int
    """Queries that the former space answers and the new one does not."""
    floor: float


class Coverage(BaseModel):
    """Whether both spaces hold the same chunks, after what differed was mended."""

    model_config = ConfigDict(frozen=True)

    by: Literal["chunks", "nodes"]
    """Spaces whose texts were cut differently are compared by node."""
    live: int
    """Of the former space."""
    mended: int
    """Chunks that were embedded, or hidden, so that the new space shows what the former does."""
    missing: int
    """Nodes of the former space that the new one lacks, and that a backfill has to bring."""


class Gate(BaseModel):
    """The figures by which a swap goes on or waits."""

    model_config = ConfigDict(frozen=True)

    recall: Recalled
    overlap: Overlap
    coverage: Coverage
    refused: tuple[str, ...]
    """Why it waits; empty = it may cut over."""
    at: datetime

    @property
    def passed(self) -> bool:
        """Whether nothing speaks against the new space."""
        return not self.refused


class Swap(BaseModel):
    """One change of the model; ``swp_…``."""

    model_config = ConfigDict(frozen=True)

    id: SwapId
    org_id: OrgId
    model: str
    from_space: SpaceId | None
    to_space: SpaceId | None
    status: Status
    job_id: JobId | None
    options: SwapOptions
    gate: Gate | None
    reason: str | None
    """Why it waits in ``ready``."""
    forced_by: UserId | None
    error: dict[str, Any] | None
    created_by: UserId | None
    started_at: datetime | None
    cut_over_at: datetime | None
    ended_at: datetime | None
    created_at: datetime
