"""What separates a new state from the one before: windows of added, changed and gone rows.

A hash join by key inside aligned windows of two sorted streams (``merge.aligned``), so neither
state is held. Windows are deterministic for the same packages: a publish that was cut off computes
them again and goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from agentcy_ray.ingest.arrow import pc
from agentcy_ray.ingest.manifest import KEYS, SCHEMAS, Kind
from agentcy_ray.ingest.merge import Stream, aligned, flat, last_key
from agentcy_ray.ingest.spool import count_true
from agentcy_ray.ingest.state import Keys, State


class Before(Protocol):
    """The state to compare with: a ``State``, or a ``Blend`` where a publish failed half-way."""

    def stream(
        self,
        kind: Kind,
        columns: list[str],
        *,
        after: str | None = None,
        within: Keys | None = None,
    ) -> Stream:
        """Rows by key."""
        ...


@dataclass(frozen=True)
class Window:
    """One key range of a comparison."""

    last: str
    """The highest key in it."""
    new: pa.Table
    """Rows of the new state, full or as projected."""
    added: pa.Array
    """Mask over ``new``: its key was not there before."""
    changed: pa.Array
    """Mask over ``new``: added, or with another hash."""
    archived: pa.Array
    """Keys that are no more."""


@dataclass
class KindCounts:
    """How the rows of a kind moved."""

    added: int = 0
    updated: int = 0
    unchanged: int = 0
    archived: int = 0

    @property
    def moved(self) -> int:
        """Rows that a publish has to write."""
        return self.added + self.updated + self.archived


@dataclass(frozen=True)
class Difference:
    """A new state against the one before."""

    before: Before
    after: State
    touched: dict[Kind, Keys] | None = None
    """Keys that can differ at all; None = any. A delta names them, a full package cannot."""

    def also(self, kind: Kind, keys: Keys) -> Difference:
        """The same difference that looks at more keys of a kind."""
        if self.touched is None or not len(keys):
            return self
        touched: dict[Kind, Keys] = {**self.touched, kind: self.touched[kind].joined(keys)}
        return Difference(self.before, self.after, touched)

    def windows(
        self,
        kind: Kind,
        *,
        columns: list[str] | None = None,
        compare: str = "content_hash",
        after: str | None = None,
    ) -> Iterator[Window]:
        """Compare a kind.

        Args:
            kind: which rows.
            columns: what of the new rows to read besides key and hash; None = all.
            compare: the hash that decides.
            after: only keys behind this one.
        """
        key = KEYS[kind]
        within = None if self.touched is None else self.touched[kind]
        wanted = SCHEMAS[kind].names if columns is None else [key, compare, *columns]
        names = list(dict.fromkeys(wanted))
        old = self.before.stream(kind, [key, compare], after=after, within=within)
        new = self.after.stream(kind, names, after=after, within=within)
        blank = _empty(SCHEMAS[kind], names)
        for was, now in aligned([old, new], key):
            yield compared(was, blank if now is None else now, key, compare)

    def counts(self, kind: Kind, total_before: int | None = None) -> KindCounts:
        """How many rows moved.

        Args:
            kind: which rows.
            total_before: live rows before, where ``touched`` hides the untouched ones.
        """
        counts = KindCounts()
        seen = 0
        for window in self.windows(kind, columns=[]):
            added = count_true(window.added)
            changed = count_true(window.changed)
            counts.added += added
            counts.updated += changed - added
            counts.unchanged += window.new.num_rows - changed
            counts.archived += len(window.archived)
            seen += window.new.num_rows - added + len(window.archived)
        if self.touched is not None and total_before is not None:
            counts.unchanged += total_before - seen
        return counts


def compared(was: pa.Table | None, now: pa.Table, key: str, compare: str) -> Window:
    """Join two tables of one key range by key."""
    if was is None or not was.num_rows:
        all_new = pa.repeat(True, now.num_rows)
        none = pa.array([], pa.string())
        return Window(last_key(now, key), now, all_new, all_new, none)
    old_keys = flat(was[key])
    match = pc.index_in(now[key], value_set=old_keys)
    added = pc.is_null(match)
    equal = pc.equal(was[compare].take(match), now[compare])
    changed = pc.invert(pc.fill_null(equal, False))
    archived = was.filter(pc.invert(pc.is_in(was[key], value_set=flat(now[key]))))[key]
    last = max(last_key(table, key) for table in (was, now) if table.num_rows)
    return Window(last, now, flat(added), flat(changed), flat(archived))


def _empty(schema: pa.Schema, names: list[str]) -> pa.Table:
    return pa.schema([schema.field(name) for name in names]).empty_table()
