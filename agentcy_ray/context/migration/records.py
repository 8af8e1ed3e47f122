"""A migration as its row holds it, and what of it decides where reads and writes go."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from agentcy_ray.core.ids import JobId, MigrationId, OrgId, UserId

EngineName = Literal["basic", "advanced"]
Status = Literal[
    "planned", "backfilling", "verifying", "cutover", "done", "failed", "cancelled"
]  # fmt: skip
OPEN: tuple[Status, ...] = ("planned", "backfilling", "verifying", "cutover")
BOTH: tuple[Status, ...] = ("backfilling", "verifying", "cutover")
"""States in which every write goes to both engines."""


class Route(BaseModel):
    """Where an organisation's reads go, and whether its writes go to both engines."""

    model_config = ConfigDict(frozen=True)

    reads: EngineName
    both: bool = False


class GroupDifference(BaseModel):
    """A group whose entities were not the same in both engines when they were compared."""

    model_config = ConfigDict(frozen=True)

    kind: Literal["node", "edge"]
    realm: str
    name: str
    """A label, or the type of edges."""
    basic: int
    """Entities on Basic."""
    advanced: int
    basic_checksum: str
    """Sum of the hashes of the entities mod 2⁶⁴, hexadecimal."""
    advanced_checksum: str
    round: int
    """How many repairs came before it."""


class Migration(BaseModel):
    """One migration of an organisation; ``mig_…``."""

    model_config = ConfigDict(frozen=True)

    id: MigrationId
    org_id: OrgId
    status: Status
    job_id: JobId | None
    cursor: dict[str, Any]
    """Up to where entities lie in the new engine: ``{source, package, part, after}``."""
    counts: dict[str, Any]
    """``rows`` written, ``total`` to write, ``repaired``; ``groups`` compared."""
    checksums: dict[str, Any]
    """``{nodes, edges}``, each ``{count, checksum}``, as both engines had them at the end."""
    differences: list[GroupDifference]
    error: dict[str, Any] | None
    created_by: UserId | None
    started_at: datetime | None
    cut_over_at: datetime | None
    ended_at: datetime | None
    pruned_at: datetime | None
    """When the organisation's rows were deleted from Basic, a week after the cut-over."""
    created_at: datetime
