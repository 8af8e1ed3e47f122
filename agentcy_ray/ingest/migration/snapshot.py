"""What lies on Basic when a backfill begins: ids, hashes and times of every live entity.

Taken after writes began to go to both engines, so whatever is written later is on Advanced without
the backfill. About 60 bytes an entity are held; no properties.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from agentcy_ray.context.migration.tally import hashes_of
from agentcy_ray.ingest.arrow import pc
from agentcy_ray.ingest.state import fixed_keys

Column = npt.NDArray[Any]


@dataclass
class Part:
    """The entities of one kind and source, ordered by id."""

    ids: Column
    hashes: Column
    first: Column
    last: Column
    types: Column
    names: list[str]
    """What ``types`` number; empty for nodes."""
    taken: Column = field(init=False)
    """Which have been found in the package as Basic has them."""

    def __post_init__(self) -> None:
        self.taken = np.zeros(len(self.ids), dtype=bool)

    def match(self, ids: pa.ChunkedArray, content: pa.ChunkedArray) -> tuple[Column, Column]:
        """Which rows are on Basic with the same content, and the place of each of those here.

        Args:
            ids: ids of rows of a package.
            content: their content hashes.
        """
        keys = fixed_keys(ids)
        if not len(self.ids) or not len(keys):
            return np.zeros(len(keys), dtype=bool), np.empty(0, dtype=np.int64)
        at = np.minimum(np.searchsorted(self.ids, keys), len(self.ids) - 1)
        made = hashes_of(ids.combine_chunks(), content.combine_chunks())
        mask = (self.ids[at] == keys) & (self.hashes[at] == made)
        self.taken[at[mask]] = True
        return mask, at[mask]

    def times(self, at: Column) -> tuple[pa.Array, pa.Array]:
        """When the entities at some places were first and last seen."""
        kind = pa.timestamp("us", tz="UTC")
        return pa.array(self.first[at]).cast(kind), pa.array(self.last[at]).cast(kind)

    def left(self, after: str) -> Iterator[tuple[str, dict[str, list[str]]]]:
        """Ids behind ``after`` that the package has not, or has otherwise, in parts.

        Yields:
            The last id of a part, and the ids by type; nodes have the type ''.
        """
        rest = np.flatnonzero(~self.taken & (self.ids > after.encode()))
        for start in range(0, len(rest), LEFT_ROWS):
            some = rest[start : start + LEFT_ROWS]
            parts: dict[str, list[str]] = {}
            for number in np.unique(self.types[some]):
                ids = self.ids[some[self.types[some] == number]]
                parts[self.names[number] if self.names else ""] = [id_.decode() for id_ in ids]
            yield max(ids[-1] for ids in parts.values()), parts

    def upto(self, after: str) -> int:
        """How many ids are not behind ``after``."""
        return int(np.searchsorted(self.ids, np.bytes_(after.encode()), side="right"))


LEFT_ROWS = 2_000


class Snapshot:
    """All live entities of a kind, by source."""

    def __init__(self, parts: dict[str, Part]) -> None:
        self.parts = parts

    def __len__(self) -> int:
        """How many there are."""
        return sum(len(part.ids) for part in self.parts.values())

    def of(self, source: str) -> Part:
        """Those of a source, by its id in hexadecimal."""
        return self.parts.get(source) or _part({}, np.empty(0, dtype=np.int64), [])

    @classmethod
    async def read(cls, batches: AsyncIterator[pa.RecordBatch], *, typed: bool) -> Snapshot:
        """Take ``SEEN`` batches in; ``typed`` for edges."""
        columns: dict[str, list[Column]] = {}
        sources: dict[str, int] = {}
        names: dict[str, int] = {}
        async for batch in batches:
            for name, values in _columns(batch, sources, names, typed=typed).items():
                columns.setdefault(name, []).append(values)
        if not columns:
            return cls({})
        whole = {name: np.concatenate(values) for name, values in columns.items()}
        order = np.lexsort((whole["ids"], whole["source"]))
        found: dict[str, Part] = {}
        numbers = whole["source"][order]
        for source, number in sources.items():
            low, high = np.searchsorted(numbers, [number, number + 1])
            found[source] = _part(whole, order[low:high], list(names))
        return cls(found)


def _columns(
    batch: pa.RecordBatch, sources: dict[str, int], names: dict[str, int], *, typed: bool
) -> dict[str, Column]:
    ids = batch.column("id")
    return {
        "ids": fixed_keys(ids),
        "hashes": hashes_of(ids, batch.column("content_hash")),
        "first": batch.column("first_seen").cast(pa.int64()).to_numpy(),
        "last": batch.column("last_seen").cast(pa.int64()).to_numpy(),
        "source": _numbered(batch.column("source_id"), sources),
        "types": _numbered(pc.list_element(batch.column("names"), 0), names)
        if typed
        else np.zeros(len(ids), dtype=np.int32),
    }


def _numbered(values: pa.Array, known: dict[str, int]) -> Column:
    found = pc.dictionary_encode(values)
    numbers = np.array(
        [known.setdefault(each, len(known)) for each in found.dictionary.to_pylist()],
        dtype=np.int32,
    )
    return numbers[found.indices.to_numpy(zero_copy_only=False)]


def _part(whole: dict[str, Column], rows: Column, names: list[str]) -> Part:
    def column(name: str, kind: str) -> Column:
        return whole[name][rows] if whole else np.empty(0, dtype=kind)

    return Part(
        column("ids", "S28"), column("hashes", "u8"), column("first", "i8"), column("last", "i8"),
        column("types", "i4"), names,
    )  # fmt: skip
