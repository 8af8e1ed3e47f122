"""Upkeep of extents: small ones are merged. Nothing in a row changes.

Extents of one order of magnitude are merged together, so a row is rewritten a few times at most
and a table never has more than a few dozen of them.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate

from agentcy_ray.devkyma.catalog import Extent, Table
from agentcy_ray.devkyma.engine import Engine

log = logging.getLogger(__name__)

TIER_FACTOR = 8
MERGE_FACTOR = 2
"""A merged extent, which is made in memory, is at most this many times a small one."""


@dataclass(slots=True)
class Merged:
    """What a compaction did."""

    tasks: int = 0
    extents: int = 0


class Upkeep:
    """Merges in the background, one table at a time, after an ingest asks for it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="upkeep")
        self._lock = threading.Lock()
        self._merging = threading.Lock()
        self._waiting: set[str] = set()
        engine.on_added = self.after_ingest

    def close(self) -> None:
        """Finish the merge that is under way, drop those that wait."""
        self._engine.on_added = None
        self._worker.shutdown(cancel_futures=True)

    def settled(self) -> None:
        """Wait for the merges that were asked for so far."""
        self._worker.submit(int).result()

    def after_ingest(self, table: Table) -> None:
        """Merge a table's extents when enough of one size have come together."""
        now = self._now(table)
        if now is None or self._due(now) is None:
            return
        with self._lock:
            if table.id in self._waiting:
                return
            self._waiting.add(table.id)
        self._worker.submit(self._settle, table)

    def compact(self, table: Table, *, most: int, small_bytes: int) -> Merged:
        """Merge the small extents of a table, ``most`` at a time."""
        done = Merged()
        small = [e for e in table.extents if e.bytes < small_bytes]
        for start in range(0, len(small), most):
            group = small[start : start + most]
            if len(group) > 1 and self._merge(table, group):
                done.tasks += 1
                done.extents += len(group)
        return done

    def _settle(self, table: Table) -> None:
        with self._lock:
            self._waiting.discard(table.id)
        try:
            while (now := self._now(table)) is not None and (group := self._due(now)) is not None:
                if not self._merge(now, group):
                    return
        except Exception:  # the extents stay as they are; the next ingest tries again
            log.exception("merging extents of %s.%s failed", table.database, table.name)

    def _due(self, table: Table) -> list[Extent] | None:
        config = self._engine.config
        tiers: dict[int, list[Extent]] = {}
        for extent in table.extents:
            if extent.bytes < config.small_bytes:
                tier = int(math.log(max(extent.bytes, 1), TIER_FACTOR))
                tiers.setdefault(tier, []).append(extent)
        full = next((g for g in tiers.values() if len(g) >= config.compact_at), None)
        if full is None:
            return None
        sizes = accumulate(extent.bytes for extent in full)
        fit = sum(1 for size in sizes if size <= MERGE_FACTOR * config.small_bytes)
        return full[: max(2, fit)]

    def _merge(self, table: Table, group: Iterable[Extent]) -> bool:
        engine, group = self._engine, list(group)
        with self._merging, engine.sessions.reading():
            if not {e.id for e in group} <= {
                e.id for e in getattr(self._now(table), "extents", ())
            }:
                return False
            merged = engine.extents.merge(table, group, engine.catalog.new_extent_id())
            gone = frozenset(e.id for e in group)
            if not engine.catalog.swap(table, gone, merged):
                engine.extents.remove(table.id, merged.id)
                return False
        engine.sessions.retire(table.id, gone)
        return True

    def _now(self, table: Table) -> Table | None:
        return (self._engine.catalog.tables(table.database) or {}).get(table.name)
