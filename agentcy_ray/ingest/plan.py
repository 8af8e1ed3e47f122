"""From two states to a plan: what will be written, counted before anything is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from agentcy_ray.core.errors import PublishGuardError
from agentcy_ray.ingest.chains import Totals
from agentcy_ray.ingest.diff import Before, Difference, KindCounts
from agentcy_ray.ingest.manifest import KEYS, KINDS, Kind
from agentcy_ray.ingest.state import Keys, Layer, State
from agentcy_ray.ingest.texts import Texts

GUARDED_NODES = 100
"""Smaller sources may archive what they like."""


@dataclass(frozen=True)
class Plan:
    """A difference, counted."""

    difference: Difference
    ends: Keys
    """Ids of all nodes of the new state."""
    counts: Mapping[Kind, KindCounts]
    texts: int
    """Nodes to be chunked anew."""

    @classmethod
    def unchanged(cls, live: Totals) -> Plan:
        """The plan of a sync that found nothing new."""
        counts: dict[Kind, KindCounts] = {
            kind: KindCounts(unchanged=getattr(live, kind)) for kind in KINDS
        }
        return cls(Difference(State(), State()), Keys(), counts, 0)

    @property
    def rows(self) -> int:
        """Rows that the engine will be given."""
        return self.counts["nodes"].moved + self.counts["edges"].moved

    @property
    def empty(self) -> bool:
        """Whether both states are equal."""
        return not any(counts.moved for counts in self.counts.values())

    def live(self) -> Totals:
        """Rows of the new state."""
        return Totals(**{
            kind: counts.added + counts.updated + counts.unchanged
            for kind, counts in self.counts.items()
        })

    def report(self) -> dict[str, dict[str, int]]:
        """Counts for the sync run."""
        return {kind: asdict(counts) for kind, counts in self.counts.items()}


def make_plan(before: Before, after: State, delta: Layer | None, totals: Totals) -> Plan:
    """Compare two states; blocks, belongs on a thread.

    Args:
        before: what the stores hold.
        after: what they shall hold.
        delta: the newest layer of ``after`` when it is all that can differ.
        totals: live rows of ``before``.
    """
    difference = Difference(before, after, None if delta is None else touched_by(delta))
    counts: dict[Kind, KindCounts] = {
        kind: difference.counts(kind, getattr(totals, kind)) for kind in KINDS
    }
    moved = any(each.moved for each in counts.values())
    return Plan(
        difference,
        after.keys("nodes") if moved else Keys(),
        counts,
        Texts(difference).count() if moved else 0,
    )


def touched_by(delta: Layer) -> dict[Kind, Keys]:
    """The keys that a delta names."""
    return {
        kind: Keys([
            *(table[KEYS[kind]] for table in delta.rows(kind, [KEYS[kind]])),
            delta.tombstones(kind),
        ])
        for kind in KINDS
    }


def guard(plan: Plan, before: Totals, ratio: float) -> None:
    """Stop a full sync that would hide much of what is live: mostly a broken source.

    Raises:
        PublishGuardError: more than ``ratio`` of at least 100 nodes would be archived.
    """
    archived = plan.counts["nodes"].archived
    if before.nodes >= GUARDED_NODES and archived > ratio * before.nodes:
        raise PublishGuardError(
            f"this sync would archive {archived} of {before.nodes} nodes, more than "
            f"SYNC_MAX_ARCHIVE_RATIO={ratio} allows; look at the source, and repeat with force "
            "if that is right",
            archived=archived,
            live=before.nodes,
            ratio=ratio,
        )
