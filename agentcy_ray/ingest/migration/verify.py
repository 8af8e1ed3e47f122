"""Comparing both engines group by group, and mending what differs.

The whole graph is compared while publishes go on. Groups that differ may only have been read at
different moments, so these alone are compared again while nobody writes. What differs then is
listed, mended entity by entity from Basic, and compared once more; after two repairs it is failed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

import pyarrow as pa

from agentcy_ray.context.engine import EntityKind
from agentcy_ray.context.migration.records import GroupDifference, Migration
from agentcy_ray.context.migration.router import Engines
from agentcy_ray.context.migration.store import Migrations
from agentcy_ray.context.migration.tally import CENSUS, Group, Tally, differing
from agentcy_ray.core.errors import ConflictError
from agentcy_ray.ingest.progress import Beats
from agentcy_ray.jobs.records import Progress

if TYPE_CHECKING:
    import asyncpg
    from asyncpg.pool import PoolConnectionProxy

REPAIRS = 2
MENDED = 2_000
"""Entities that are mended at once."""
KINDS: tuple[EntityKind, ...] = ("node", "edge")

Batches = AsyncIterator[pa.RecordBatch]


@dataclass(frozen=True)
class Verifier:
    """Compares one organisation's graph on both engines."""

    engines: Engines
    migrations: Migrations
    migration: Migration
    epoch: int
    beat: Beats
    probe: Callable[[str], None]

    async def look(self) -> tuple[Tally, list[Group]]:
        """Compare everything while others write.

        Returns:
            What Basic holds, and the groups that were not the same.
        """
        self.beat.progress(Progress(unit="entities", note="comparing the engines"))
        org_id, seen = self.migration.org_id, _Count(self.beat)
        ours, theirs = Tally(), Tally()
        for kind in KINDS:
            await asyncio.gather(
                seen.into(ours, kind, self.engines.leaving.seen(org_id, kind)),
                seen.into(theirs, kind, self.engines.arriving.census(org_id, kind)),
            )
        found = [_group(each) for each in differing(ours, theirs)]
        self.probe("compared")
        return ours, found

    async def settle(
        self, connection: PoolConnectionProxy[asyncpg.Record], ours: Tally, suspects: list[Group]
    ) -> bool:
        """Make sure that the engines are the same, while nobody writes.

        Args:
            connection: the transaction that keeps others from writing (``alone``).
            ours: what ``look`` saw of Basic.
            suspects: what ``look`` saw differ.

        Returns:
            Whether they are the same; if not, the differences are recorded.
        """
        real = [each async for each in self._differing(suspects, 0)]
        listed = list(real)
        repaired = 0
        for number in range(REPAIRS):
            if not real:
                break
            for kind in KINDS:  # the ends of edges first
                for difference in real:
                    if difference.kind == kind:
                        repaired += await self._mend(_group(difference))
            self.probe("repaired")
            real = [each async for each in self._differing([_group(d) for d in real], number + 1)]
            listed += real
        summary: dict[str, Any] = {**ours.summary(), "groups": len(ours.groups)}
        summary |= {"repaired": repaired, "same": not real}
        await self.migrations.result(connection, self.migration, self.epoch, summary, listed)
        return not real

    async def _differing(
        self, groups: Sequence[Group], number: int
    ) -> AsyncIterator[GroupDifference]:
        org_id = self.migration.org_id
        for group in groups:
            self.beat.check()
            ours, theirs, seen = Tally(), Tally(), _Count(self.beat)
            await asyncio.gather(
                seen.into(ours, group.kind, self.engines.leaving.group(org_id, group)),
                seen.into(theirs, group.kind, self.engines.arriving.group(org_id, group)),
            )
            for each in differing(ours, theirs, number):
                if _group(each) == group:  # entities of a label may have others beside it
                    yield each

    async def _mend(self, group: Group) -> int:
        """Make a group on Advanced what it is on Basic; returns how many entities were not."""
        org_id, kind = self.migration.org_id, group.kind
        ours = await _contents(self.engines.leaving.group(org_id, group))
        theirs = await _contents(self.engines.arriving.group(org_id, group))
        wrong = sorted(id_ for id_, content in ours.items() if theirs.get(id_) != content)
        extra = sorted(theirs.keys() - ours.keys())
        type_ = group.name if kind == "edge" else ""
        for start in range(0, len(wrong), MENDED):
            some = wrong[start : start + MENDED]
            found = await self.engines.leaving.entities(org_id, kind, some, type_)
            await self.engines.arriving.adopt(org_id, kind, found, over_all=True)
        if extra:
            extra = await self._absent(org_id, kind, extra, type_)
            await self.engines.arriving.hide(org_id, kind, extra, datetime.now(UTC))
        return len(wrong) + len(extra)

    async def _absent(
        self, org_id: UUID, kind: EntityKind, ids: list[str], type_: str
    ) -> list[str]:
        """Those that Basic has not; the others only lack this label there, and are written anew."""
        if kind == "edge":
            return ids
        there: set[str] = set()
        for start in range(0, len(ids), MENDED):
            some = ids[start : start + MENDED]
            found = await self.engines.leaving.entities(org_id, kind, some, type_)
            await self.engines.arriving.adopt(org_id, kind, found, over_all=True)
            there.update(found.rows.column("id").to_pylist())
        return [id_ for id_ in ids if id_ not in there]


def differences_error(differences: Sequence[GroupDifference]) -> ConflictError:
    """Why a migration that could not be mended has failed."""
    last = [each for each in differences if each.round == REPAIRS]
    names = ", ".join(f"{each.kind}s {each.realm}/{each.name}" for each in last[:5])
    return ConflictError(
        f"the engines still differ after {REPAIRS} repairs, in {len(last)} groups: {names}; "
        "organisation and reads stay on Basic. Look at the migration's differences, then start "
        "it again",
        code="migration_differs",
        groups=len(last),
    )


class _Count:
    """Tells how many entities were compared."""

    def __init__(self, beat: Beats) -> None:
        self._beat = beat
        self._done = 0

    async def into(self, tally: Tally, kind: EntityKind, batches: Batches) -> None:
        """Add what is visible to a tally."""
        async for batch in batches:
            self._beat.check()
            await asyncio.to_thread(tally.add, kind, _visible(batch))
            self._done += batch.num_rows
            note = "comparing the engines"
            self._beat.progress(Progress(done=self._done, unit="entities", note=note))


def _visible(batch: pa.RecordBatch) -> pa.RecordBatch:
    if "visible" in batch.schema.names:
        batch = cast("pa.RecordBatch", batch.filter(batch.column("visible")))
    return pa.RecordBatch.from_arrays([batch.column(name) for name in CENSUS.names], schema=CENSUS)


async def _contents(batches: Batches) -> dict[str, str]:
    found: dict[str, str] = {}
    async for batch in batches:
        rows = _visible(batch)
        ids, contents = (rows.column(name).to_pylist() for name in ("id", "content_hash"))
        found.update(zip(ids, contents, strict=True))
    return found


def _group(difference: GroupDifference) -> Group:
    return Group(difference.kind, difference.realm, difference.name)
