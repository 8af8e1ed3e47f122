"""Three ways to a publication: extract a source, go back to a package, resume a publish.

Each ends with the run in ``publishing`` and a plan that can be computed again from packages alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from agentcy_ray.core.ids import new_id
from agentcy_ray.ingest import transitions
from agentcy_ray.ingest.addressing import Addresser
from agentcy_ray.ingest.chains import (
    Totals,
    half_published,
    insert_package,
    load_state,
    sweep,
    totals,
)
from agentcy_ray.ingest.extract import Extracted, OpenSource, extract
from agentcy_ray.ingest.fence import Lease
from agentcy_ray.ingest.graph_publish import Probe
from agentcy_ray.ingest.links import read_rules, rules_changed
from agentcy_ray.ingest.packages import PackageFacts, PackageWriter, fold, upload
from agentcy_ray.ingest.plan import Plan, guard, make_plan
from agentcy_ray.ingest.progress import Beats, Meter
from agentcy_ray.ingest.state import Blend, Layer, State
from agentcy_ray.ingest.transitions import RunFacts
from agentcy_ray.retrieval.canonical import text_hash

if TYPE_CHECKING:
    from agentcy_ray.core.settings import Settings
    from agentcy_ray.stores.objects import ObjectStore

FULL_EVERY = 24
"""Every so many incremental syncs one is full, unless the connector reports deletions."""


@dataclass(frozen=True)
class Attempt:
    """One attempt at one run, with the places it works in."""

    lease: Lease
    facts: RunFacts
    beat: Beats
    meter: Meter
    folder: Path

    @property
    def cache(self) -> Path:
        """Where segments of a store that is not local are kept."""
        return self.folder / "cache"


@dataclass(frozen=True)
class Publication:
    """Everything that a publish and its commit need."""

    plan: Plan
    package_id: UUID
    """The package that becomes the source's current one."""
    cursors: Mapping[str, Mapping[str, Any]]
    counts: Mapping[str, Any]


@dataclass(frozen=True)
class Preparer:
    """Brings a run from ``running`` to ``publishing``."""

    objects: ObjectStore
    open_source: OpenSource
    settings: Settings
    probe: Probe

    async def extract(self, attempt: Attempt) -> Publication:
        """Read the source into a package, or find that nothing changed.

        Raises:
            SourceConfigError, ConnectorError, InvalidError: the source cannot be read.
            PublishGuardError: a full sync would archive too much.
            StorageFullError: no space for the package.
            CancelledByRequestError: the sync was called off.
        """
        lease, facts = attempt.lease, attempt.facts
        await sweep(
            lease.db,
            self.objects,
            lease.org_id,
            lease.source_id,
            lease.run_id,
            current=facts.current,
            keep=self.settings.package_keep,
        )
        package_id = new_id()
        async with self.open_source(lease.org_id, lease.source_id) as opened:
            await opened.session.check()
            full = (
                facts.full
                or not opened.spec.incremental
                or facts.current is None
                or not facts.cursors
                or await self._full_is_due(lease, opened.spec.reports_deletions)
            )
            addresser = Addresser(
                lease.org_id, lease.source_id, opened.spec.name, opened.realm, text_hash
            )
            writer = PackageWriter(addresser, attempt.folder / "package")
            result = await extract(
                opened,
                writer,
                {} if full else facts.cursors,
                full=full,
                beat=attempt.beat,
                meter=attempt.meter,
            )
        self.probe("extracted")
        cursors = {**({} if result.full else facts.cursors), **result.cursors}
        about = PackageFacts(
            package_id,
            lease.org_id,
            lease.source_id,
            opened.spec.name,
            opened.spec.version,
            facts.started_at,
            cursors,
        )
        dirty = await self._dirty(lease)
        if writer.empty and not result.full and not dirty and facts.current is not None:
            rules = await read_rules(lease.db, lease.org_id)
            if not await rules_changed(lease, rules):
                return await self._nothing_new(attempt, result, cursors)
        return await self._package(attempt, writer, about, result, dirty)

    async def _package(
        self,
        attempt: Attempt,
        writer: PackageWriter,
        about: PackageFacts,
        result: Extracted,
        dirty: list[UUID],
    ) -> Publication:
        lease, facts, meter = attempt.lease, attempt.facts, attempt.meter
        track = meter.start("package", "rows")
        base = await self._state(attempt, facts.current)
        layer = await asyncio.to_thread(writer.seal, about, None if result.full else base)
        after = State([layer]) if result.full else State([*base.layers, layer])
        if after.deltas > self.settings.package_delta_max:
            layer = await asyncio.to_thread(fold, after, about, attempt.folder / "folded")
            after = State([layer])
        meter.end(track)
        self.probe("sealed")
        plan, live = await self._plan(attempt, base, after, layer, dirty)
        counts = _report(plan, layer, result)
        if plan.empty and facts.current is not None:
            async with lease.hold() as connection:
                await self._begin(connection, lease, about.cursors, counts, result)
            return Publication(plan, facts.current, about.cursors, counts)
        if result.full and not facts.force:
            guard(plan, live, self.settings.sync_max_archive_ratio)
        await transitions.name_package(lease, about.package_id, full=result.full)
        await upload(self.objects, layer)
        self.probe("uploaded")
        attempt.beat.check()
        async with lease.hold() as connection:
            await insert_package(connection, layer.manifest, plan.live())
            await self._begin(connection, lease, about.cursors, counts, result)
        return Publication(plan, about.package_id, about.cursors, counts)

    async def _nothing_new(
        self, attempt: Attempt, result: Extracted, cursors: Mapping[str, Mapping[str, Any]]
    ) -> Publication:
        """An incremental extract that yielded nothing: no state is read, no package made."""
        lease, current = attempt.lease, attempt.facts.current
        assert current is not None
        async with lease.hold() as connection:
            plan = Plan.unchanged(await totals(connection, current))
            counts = _report(plan, None, result)
            await self._begin(connection, lease, cursors, counts, result)
        return Publication(plan, current, cursors, counts)

    async def revert(self, attempt: Attempt) -> Publication:
        """Plan the way back to the state of an older package.

        Raises:
            ConflictError: ``package_gone``.
            PackageCorruptError: a package is damaged.
        """
        lease, target = attempt.lease, attempt.facts.package_id
        assert target is not None
        base = await self._state(attempt, attempt.facts.current)
        after = await self._state(attempt, target)
        plan, _ = await self._plan(attempt, base, after, None, await self._dirty(lease))
        cursors = after.layers[-1].manifest.cursors
        result = Extracted(full=True, note="revert")
        counts = _report(plan, None, result)
        async with lease.hold() as connection:
            await self._begin(connection, lease, cursors, counts, result)
        return Publication(plan, target, cursors, counts)

    async def resume(self, attempt: Attempt) -> Publication:
        """Compute the same plan again from the same packages."""
        lease, facts = attempt.lease, attempt.facts
        target = facts.package_id or facts.current
        assert target is not None
        base = await self._state(attempt, facts.current)
        after = base if target == facts.current else await self._state(attempt, target)
        delta = after.layers[-1]
        grown = delta.manifest.base == facts.current and facts.kind == "sync"
        plan, _ = await self._plan(
            attempt, base, after, delta if grown else None, await self._dirty(lease)
        )
        return Publication(plan, target, facts.publish_cursor["cursors"], {})

    async def _plan(
        self, attempt: Attempt, base: State, after: State, newest: Layer | None, dirty: list[UUID]
    ) -> tuple[Plan, Totals]:
        track = attempt.meter.start("diff", "rows")
        async with attempt.lease.hold() as connection:
            live = await totals(connection, attempt.facts.current)
        delta = newest if newest is not None and newest.manifest.state == "delta" else None
        if dirty:
            states = [base, *[await self._state(attempt, each) for each in dirty]]
            plan = await asyncio.to_thread(make_plan, Blend(states), after, None, live)
        else:
            plan = await asyncio.to_thread(make_plan, base, after, delta, live)
        attempt.meter.end(track)
        return plan, live

    async def _begin(
        self,
        connection: Any,
        lease: Lease,
        cursors: Mapping[str, Mapping[str, Any]],
        counts: Mapping[str, Any],
        result: Extracted,
    ) -> None:
        await transitions.begin_publish(
            connection,
            lease,
            cursors=cursors,
            counts=counts,
            rejects=result.rejects,
            full=result.full,
        )

    async def _state(self, attempt: Attempt, package_id: UUID | None) -> State:
        return await load_state(
            attempt.lease.db, self.objects, attempt.lease.org_id, package_id, attempt.cache
        )

    async def _dirty(self, lease: Lease) -> list[UUID]:
        async with lease.hold() as connection:
            return await half_published(connection, lease.source_id, lease.run_id)

    async def _full_is_due(self, lease: Lease, reports_deletions: bool) -> bool:
        if reports_deletions:
            return False
        return await transitions.incrementals_since_full(lease) >= FULL_EVERY - 1


def _report(plan: Plan, layer: Layer | None, result: Extracted) -> dict[str, Any]:
    """Counts of a run before its publish."""
    counts: dict[str, Any] = dict(plan.report())
    counts["rejected"] = result.rejected
    counts["duplicates"] = layer.manifest.counts["duplicates"] if layer is not None else 0
    counts["bytes"] = layer.manifest.bytes if layer is not None else 0
    if result.note:
        counts["note"] = result.note
    return counts
