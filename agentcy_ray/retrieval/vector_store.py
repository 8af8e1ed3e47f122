"""Vectors in another store than Postgres: what one has to do, and what it is told of a chunk.

Such a store is an index and no more. Postgres keeps the rows and decides what lives and who may see
it; the store keeps a vector with the few fields that narrow a search, under an id that follows from
the chunk's key. So every call may be repeated, and one that was not answered for is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

import numpy as np
import orjson
import pyarrow as pa

from agentcy_ray.retrieval.embedder import Vectors
from agentcy_ray.retrieval.index import Neighbour
from agentcy_ray.retrieval.queries import Filters
from agentcy_ray.retrieval.space import Distance, Space

Vector = np.ndarray[Any, np.dtype[np.float32]]
Payload = dict[str, Any]
"""``key, realm, labels, source, seen_at, properties, archived``: see ``payload``."""

NEVER = -(10**15)
"""``seen_at`` of what was never seen, in milliseconds; earlier than any time there is."""
EARLIEST = -(10**14)
_NONE = "-"
"""Stands in an empty list, which not every store takes."""


@dataclass(frozen=True)
class Criteria:
    """What must hold of a chunk, in the terms of ``Payload``. None and empty = anything goes.

    Times are whole milliseconds and so may let one chunk too many through; Postgres looks again.
    """

    realms: tuple[str, ...] | None = None
    labels: tuple[str, ...] = ()
    sources: tuple[str, ...] | None = None
    """Hexadecimal ids."""
    after: int | None = None
    before: int | None = None
    excluded: tuple[str, ...] = ()
    """Tokens of properties."""

    @property
    def nothing(self) -> bool:
        """Whether no chunk can pass."""
        return self.realms == () or self.sources == ()


class VectorStore(Protocol):
    """The vectors of all spaces of one backend; each space apart from the others.

    Every method raises StoreUnavailableError when the store does not answer, and ConfigError when
    it refuses what it is asked: a wrong key, an index of another length.
    """

    async def upsert(self, space: Space, chunks: pa.RecordBatch, vectors: Vectors) -> None:
        """Write the vectors of rows of ``CHUNKS``; returns once the store has them."""
        ...

    async def patch(self, space: Space, payloads: Mapping[str, Payload]) -> None:
        """Replace fields of the payloads of chunks, by key; one that is absent stays so."""
        ...

    async def delete(self, space: Space, keys: Sequence[str]) -> None:
        """Delete the vectors of chunks, by key."""
        ...

    async def nearest(
        self, space: Space, vector: Vector, criteria: Criteria, limit: int
    ) -> list[Neighbour]:
        """Those nearest to ``vector`` of the chunks that pass, nearest first."""
        ...

    async def fetch(self, space: Space, keys: Sequence[str]) -> Mapping[str, Vector]:
        """The vectors of chunks by key; one that is absent is left out."""
        ...

    async def count(self, space: Space) -> int:
        """Vectors of the space, archived ones too."""
        ...

    async def drop(self, space_id: UUID) -> None:
        """Delete all that the store has of a space."""
        ...

    async def close(self) -> None:
        """Give the connections back."""
        ...


def criteria(realms: Sequence[str] | None, filters: Filters, sources: Sequence[UUID]) -> Criteria:
    """The filters of a query; ``sources`` are the ids of those it names."""
    return Criteria(
        realms=None if realms is None else tuple(realms),
        labels=tuple(filters.labels),
        sources=tuple(sorted({each.hex for each in sources})) if filters.sources else None,
        after=None if filters.after is None else _millis(filters.after),
        before=None if filters.before is None else _millis(filters.before),
        excluded=tuple(
            _token(name, value)
            for name, values in filters.exclude.items()
            for value in (values if isinstance(values, list) else [values])
        ),
    )


def payload(row: Mapping[str, Any]) -> Payload:
    """What a store is told of a live chunk: of a row of ``CHUNKS`` or of its table."""
    properties, source, seen = row["properties"], row["source_id"], row["seen_at"]
    if isinstance(properties, str):
        properties = orjson.loads(properties)
    return {
        "key": row["chunk_key"],
        "realm": row["realm"],
        "labels": list(row["labels"]) or [_NONE],
        "source": source.hex if isinstance(source, UUID) else source,
        "seen_at": NEVER if seen is None else _millis(seen),
        "properties": [
            _NONE,
            *sorted(
                _token(name, value)
                for name, value in properties.items()
                if isinstance(value, str | int | float)
            ),
        ],
        "archived": False,
    }


def payloads(chunks: pa.RecordBatch) -> list[Payload]:
    """One a row of ``CHUNKS``."""
    names = ["chunk_key", "realm", "labels", "source_id", "seen_at", "properties"]
    return [payload(row) for row in chunks.select(names).to_pylist()]


def similarities(
    distance: Distance, vector: Vector, found: Mapping[str, Vector]
) -> dict[str, float]:
    """The similarity of each of ``found`` to ``vector``, as Postgres would compute it."""
    if not found:
        return {}
    matrix = np.stack(list(found.values()))
    match distance:
        case "cosine":
            lengths = np.linalg.norm(matrix, axis=1) * np.linalg.norm(vector)
            near = matrix @ vector / np.maximum(lengths, np.finfo(np.float32).tiny)
        case "l2":
            near = 1 - np.square(matrix - vector).sum(axis=1) / 2
        case "ip":
            near = matrix @ vector
    return dict(zip(found, near.astype(float).tolist(), strict=True))


def _millis(at: datetime) -> int:
    return int(at.timestamp() * 1000 // 1)


def _token(name: str, value: Any) -> str:
    """Sixteen characters for a property with its value; 1 and 1.0 are one value, 1 and true two."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = orjson.dumps([name, value], option=orjson.OPT_NON_STR_KEYS | orjson.OPT_SORT_KEYS)
    return hashlib.blake2b(text, digest_size=8).hexdigest()
