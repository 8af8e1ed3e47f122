"""Counts and checksums of entities by group, the same whatever order they come in.

The hash of an entity mixes its id and its content hash into 64 bits; the checksum of a group is
the sum of them mod 2⁶⁴. Everything is done for a whole batch at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from agentcy_ray.context.engine import EntityKind
from agentcy_ray.context.kyma.arrow import pc
from agentcy_ray.context.migration.records import GroupDifference

CENSUS = pa.schema([
    pa.field("id", pa.string(), nullable=False),
    pa.field("realm", pa.string(), nullable=False),
    pa.field("names", pa.list_(pa.string()), nullable=False),  # labels, or the one type
    pa.field("content_hash", pa.string(), nullable=False),
])
"""What is compared of an entity."""

ID_CHARS, HASH_CHARS = 28, 32
_ODD = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xBF58476D1CE4E5B9)
_SHIFT = np.uint64(31)

Words = npt.NDArray[np.uint64]


class Group(NamedTuple):
    """Entities that are compared together: of a realm, with a label or of a type."""

    kind: EntityKind
    realm: str
    name: str


@dataclass(frozen=True)
class Sum:
    """How many, and the sum of their hashes mod 2⁶⁴."""

    count: int = 0
    checksum: int = 0

    def __add__(self, other: Sum) -> Sum:
        return Sum(self.count + other.count, (self.checksum + other.checksum) & (2**64 - 1))

    @property
    def text(self) -> str:
        """The checksum in hexadecimal."""
        return f"{self.checksum:016x}"


@dataclass
class Tally:
    """Sums by group, and over all entities of a kind (each once, whatever its labels)."""

    groups: dict[Group, Sum] = field(default_factory=dict)
    totals: dict[EntityKind, Sum] = field(default_factory=dict)

    def add(self, kind: EntityKind, batch: pa.RecordBatch) -> None:
        """Count a batch of schema ``CENSUS``."""
        if not batch.num_rows:
            return
        hashes = hashes_of(batch.column("id"), batch.column("content_hash"))
        self.totals[kind] = self.totals.get(kind, Sum()) + Sum(len(hashes), int(hashes.sum()))
        names = batch.column("names")
        rows = pc.list_parent_indices(names)
        realms, labels = batch.column("realm").take(rows), pc.list_flatten(names)
        keys = pc.dictionary_encode(pc.binary_join_element_wise(realms, labels, "\x1f"))
        codes = keys.indices.to_numpy(zero_copy_only=False)
        order = np.argsort(codes, kind="stable")
        starts = np.flatnonzero(np.diff(codes[order], prepend=-1))
        mine = hashes[rows.to_numpy(zero_copy_only=False)][order]
        sums, counts = np.add.reduceat(mine, starts), np.diff(np.append(starts, len(order)))
        for code, total, count in zip(codes[order][starts], sums, counts, strict=True):
            realm, _, name = keys.dictionary[int(code)].as_py().partition("\x1f")
            group = Group(kind, realm, name)
            self.groups[group] = self.groups.get(group, Sum()) + Sum(int(count), int(total))

    def summary(self) -> dict[str, Any]:
        """``{nodes, edges}``, each ``{count, checksum}``."""
        kinds: Iterable[tuple[str, EntityKind]] = (("nodes", "node"), ("edges", "edge"))
        return {
            name: {"count": found.count, "checksum": found.text}
            for name, kind in kinds
            for found in [self.totals.get(kind, Sum())]
        }


def differing(basic: Tally, advanced: Tally, round_: int = 0) -> Iterator[GroupDifference]:
    """The groups whose counts or checksums are not the same, in a steady order."""
    for group in sorted(basic.groups.keys() | advanced.groups.keys()):
        ours, theirs = basic.groups.get(group, Sum()), advanced.groups.get(group, Sum())
        if ours != theirs:
            yield GroupDifference(
                **group._asdict(),
                basic=ours.count,
                advanced=theirs.count,
                basic_checksum=ours.text,
                advanced_checksum=theirs.text,
                round=round_,
            )


def hashes_of(ids: pa.Array, content: pa.Array) -> Words:
    """64 bits for each entity."""
    regular = pc.and_(
        pc.equal(pc.binary_length(ids), ID_CHARS), pc.equal(pc.binary_length(content), HASH_CHARS)
    ).to_numpy(zero_copy_only=False)
    made = np.zeros(len(ids), dtype=np.uint64)
    at = np.flatnonzero(regular)
    if len(at):
        made[at] = _mixed(ids.take(pa.array(at)), content.take(pa.array(at)))
    for row in np.flatnonzero(~regular):  # ids and hashes that no sync of ours makes
        text = f"{ids[row].as_py()}\x1f{content[row].as_py()}".encode()
        made[row] = int.from_bytes(blake2b(text, digest_size=8).digest(), "little")
    return made


def _mixed(ids: pa.Array, content: pa.Array) -> Words:
    block = np.zeros((len(ids), 64), dtype=np.uint8)
    for column, width, start in ((ids, ID_CHARS, 0), (content, HASH_CHARS, 32)):
        text = column.cast(pa.binary(width))
        raw = np.frombuffer(text.buffers()[1], dtype=np.uint8)
        raw = raw[text.offset * width : (text.offset + len(text)) * width]
        block[:, start : start + width] = raw.reshape(len(text), width)
    words = block.view("<u8").astype(np.uint64)
    state = np.full(len(ids), _ODD, dtype=np.uint64)
    for place in range(8):
        state = (state ^ words[:, place]) * _MIX
        state ^= state >> _SHIFT
    return state * _ODD
