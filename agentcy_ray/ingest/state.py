"""The state that a chain of packages describes, read as sorted streams.

A chain is a full package and the deltas on it, oldest first; of one key the newest layer wins and a
tombstone ends it. Nothing is folded ahead of time: a read merges the layers as it goes, and holds
one row group of each. ``within`` limits a read to some keys and skips the row groups that cannot
hold them, so a small delta does not read a large state.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from agentcy_ray.ingest.arrow import pc
from agentcy_ray.ingest.manifest import KEYS, TOMBSTONE_KINDS, Kind, Manifest
from agentcy_ray.ingest.merge import GONE, Stream, aligned, first_of_run, flat, live, newest

_KEY_TYPE = "S28"


class Keys:
    """A set of keys as one sorted block of 28 bytes each; cheap to look many keys up in."""

    def __init__(self, parts: Sequence[pa.Array | pa.ChunkedArray] = ()) -> None:
        blocks = [fixed_keys(part) for part in parts if len(part)]
        self._block = np.unique(np.concatenate(blocks)) if blocks else np.empty(0, _KEY_TYPE)

    def __len__(self) -> int:
        """How many keys there are."""
        return len(self._block)

    def mask(self, column: pa.Array | pa.ChunkedArray) -> pa.Array:
        """Which values of ``column`` are in the set."""
        asked = fixed_keys(column)
        if not len(self._block) or not len(asked):
            return pa.array(np.zeros(len(asked), dtype=bool))
        at = np.minimum(np.searchsorted(self._block, asked), len(self._block) - 1)
        return pa.array(self._block[at] == asked)

    def joined(self, other: Keys) -> Keys:
        """The keys of both."""
        both = Keys()
        both._block = np.union1d(self._block, other._block)
        return both

    def touches(self, low: str, high: str) -> bool:
        """Whether any key lies in ``low`` … ``high``."""
        first = np.searchsorted(self._block, np.bytes_(low.encode()))
        return bool(first < len(self._block) and self._block[first] <= np.bytes_(high.encode()))


@dataclass(frozen=True)
class Layer:
    """A package whose segments lie on this machine."""

    manifest: Manifest
    files: Mapping[str, Path]
    """Segment path → local file."""

    def rows(
        self,
        kind: Kind,
        columns: Sequence[str],
        *,
        after: str | None = None,
        within: Keys | None = None,
    ) -> Stream:
        """Rows of the package by key."""
        for segment in self.manifest.segments:
            if segment.kind == kind:
                yield from _read(self.files[segment.path], KEYS[kind], columns, after, within)

    def tombstones(self, kind: Kind) -> pa.Array:
        """Keys of a kind that the package ends, sorted."""
        found: list[pa.Array] = []
        for segment in self.manifest.segments:
            if segment.kind == "tombstones":
                table = pq.read_table(self.files[segment.path], memory_map=True)
                mine = table.filter(pc.equal(table["kind"], TOMBSTONE_KINDS[kind]))
                found.extend(mine["id"].chunks)
        return pa.concat_arrays(found) if found else pa.array([], pa.string())


class State:
    """What a source held after the last package of a chain; empty without one."""

    def __init__(self, layers: Sequence[Layer] = ()) -> None:
        self.layers = tuple(layers)

    def stream(
        self,
        kind: Kind,
        columns: Sequence[str],
        *,
        after: str | None = None,
        within: Keys | None = None,
    ) -> Stream:
        """Live rows of a kind by key; the key is the first column whether asked for or not.

        Args:
            kind: which rows.
            columns: what to read of them.
            after: only keys behind this one.
            within: only these keys.
        """
        key = KEYS[kind]
        names = [key, *(name for name in columns if name != key)]
        streams: list[Stream] = []
        for layer in self.layers:
            streams.append(layer.rows(kind, names, after=after, within=within))
            gone = layer.tombstones(kind)
            if len(gone):
                streams.append(iter([_marked(gone, key, after, within)]))
        if streams:
            yield from live(newest(streams, key))

    def keys(self, kind: Kind) -> Keys:
        """All live keys of a kind: 28 bytes each."""
        key = KEYS[kind]
        return Keys([table[key] for table in self.stream(kind, [key])])

    @property
    def deltas(self) -> int:
        """Deltas since the last full package."""
        return sum(layer.manifest.state == "delta" for layer in self.layers)


class Blend:
    """Several states of which it is not known which one a store holds.

    This is what a publish meets that follows one that failed half-way: an entity may be as the
    former state or as the failed one has it. Keys are those of all; a hash is kept only where all
    agree, and is blank else, so that it differs from every new one.
    """

    def __init__(self, states: Sequence[State]) -> None:
        self._states = tuple(states)

    def stream(
        self,
        kind: Kind,
        columns: Sequence[str],
        *,
        after: str | None = None,
        within: Keys | None = None,
    ) -> Stream:
        """Keys and hashes, as ``State.stream``; ``columns`` may name hashes only."""
        key = KEYS[kind]
        parts = [state.stream(kind, columns, after=after, within=within) for state in self._states]
        for window in aligned(parts, key):
            tables = [table for table in window if table is not None]
            together = (
                pa.concat_tables(tables, promote_options="default").combine_chunks().sort_by(key)
            )
            yield _agreed(together, key, len(self._states))


def _agreed(table: pa.Table, key: str, states: int) -> pa.Table:
    """One row a key; hashes blank unless ``states`` rows of the key carry the same ones."""
    first = np.flatnonzero(first_of_run(table[key]).to_numpy(zero_copy_only=False))
    runs = np.diff(np.append(first, table.num_rows))
    columns: dict[str, Any] = {key: table[key].take(pa.array(first))}
    for name in table.column_names:
        if name == key:
            continue
        values = table[name].to_numpy()
        same = np.append(values[1:] == values[:-1], False)  # row equals the next one
        agreed = np.array([
            length == states and bool(same[start : start + length - 1].all())
            for start, length in zip(first, runs, strict=True)
        ])
        columns[name] = pa.array(np.where(agreed, values[first], ""), pa.string())
    return pa.table(columns)


def _read(
    path: Path, key: str, columns: Sequence[str], after: str | None, within: Keys | None
) -> Iterator[pa.Table]:
    with pq.ParquetFile(path, memory_map=True) as file:
        at = file.schema_arrow.get_field_index(key)
        for group in range(file.num_row_groups):
            found = file.metadata.row_group(group).column(at).statistics
            if found is not None and found.has_min_max:
                if after is not None and found.max <= after:
                    continue
                if within is not None and not within.touches(found.min, found.max):
                    continue
            table = _cut(file.read_row_group(group, columns=list(columns)), key, after, within)
            if table.num_rows:
                yield table


def _cut(table: pa.Table, key: str, after: str | None, within: Keys | None) -> pa.Table:
    if after is not None:
        table = table.filter(pc.greater(table[key], after))
    if within is not None and table.num_rows:
        table = table.filter(within.mask(table[key]))
    return table


def _marked(gone: pa.Array, key: str, after: str | None, within: Keys | None) -> pa.Table:
    table = pa.table({key: gone, GONE: pa.repeat(True, len(gone))})
    return _cut(table, key, after, within)


def fixed_keys(column: pa.Array | pa.ChunkedArray) -> Any:
    """Keys as a numpy column of 28 bytes; all ids of the house have that length."""
    return flat(column).cast(pa.binary(28)).to_numpy(zero_copy_only=False).astype(_KEY_TYPE)
