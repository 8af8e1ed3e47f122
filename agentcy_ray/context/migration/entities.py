"""What a migration reads of entities, beside the schemas of packages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import pyarrow as pa

from agentcy_ray.context.migration.tally import CENSUS

MOMENT = pa.timestamp("us", tz="UTC")

SEEN = pa.schema([
    *CENSUS,
    pa.field("source_id", pa.string(), nullable=False),
    pa.field("first_seen", MOMENT, nullable=False),
    pa.field("last_seen", MOMENT, nullable=False),
    pa.field("visible", pa.bool_(), nullable=False),  # whether both ends of an edge are live
])
"""A live entity of Basic, without its properties."""


@dataclass(frozen=True)
class Entities:
    """Whole entities with the times at which they were first and last seen."""

    rows: pa.RecordBatch
    """Schema ``NODES`` or ``EDGES``; no id comes twice."""
    first_seen: pa.Array
    last_seen: pa.Array
    archived_at: pa.Array | None = None
    """When each was hidden; None when all are live."""

    def parts(self, size: int) -> list[Entities]:
        """The same in parts of at most ``size`` rows."""
        return [
            Entities(
                cast("pa.RecordBatch", self.rows.slice(start, size)),
                self.first_seen.slice(start, size),
                self.last_seen.slice(start, size),
                None if self.archived_at is None else self.archived_at.slice(start, size),
            )
            for start in range(0, self.rows.num_rows, size)
        ]
