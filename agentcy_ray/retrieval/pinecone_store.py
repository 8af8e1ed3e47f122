"""Vectors in a Pinecone index: a namespace a space.

All spaces of an installation share one index, and an index takes vectors of one length and compares
them in one way; a space of another one is refused before anything is written.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import httpx
import numpy as np
import orjson
import pyarrow as pa
from pinecone import AsyncIndex, AsyncPinecone
from pinecone.errors import (
    ApiError,
    NotFoundError,
    PineconeConnectionError,
    PineconeError,
    PineconeTimeoutError,
)

from agentcy_ray.core.errors import ConfigError, StoreUnavailableError
from agentcy_ray.core.settings import Settings
from agentcy_ray.retrieval.embedder import Vectors, matrix_of
from agentcy_ray.retrieval.index import Neighbour
from agentcy_ray.retrieval.space import Distance, Space
from agentcy_ray.retrieval.vector_store import EARLIEST, Criteria, Payload, Vector, payloads
from agentcy_ray.stores.egress import proxy_of

MAX_BYTES = 2_000_000
"""Of a write."""
MAX_ROWS = 1_000
"""Of a write, and ids of a delete."""
FETCH_ROWS = 100
"""Ids travel in the address of a read."""
AT_ONCE = 4
TIMEOUT_SECS = 30.0
_CONTROL = "api.pinecone.io"

_NUMBER_BYTES = 14
"""A float32 as JSON with its comma, at most, but for rare exponents; ``_SPARE`` covers those."""
_SPARE = 0.9
_METRICS: Mapping[Distance, str] = {"cosine": "cosine", "l2": "euclidean", "ip": "dotproduct"}


class PineconeStore:
    """The ``VectorStore`` of a Pinecone index; see the protocol for what its methods do."""

    def __init__(
        self, key: str, host: str | None, name: str | None, proxy: str | None = None
    ) -> None:
        self._key = key
        self._proxy = proxy
        self._host = host
        self._name = name
        self._index: AsyncIndex | None = None
        self._shape: tuple[int | None, str | None] | None = None
        self._opening = asyncio.Lock()

    @classmethod
    def open(cls, settings: Settings) -> PineconeStore:
        """A client of the index; connects when it is first used.

        Raises:
            ConfigError: the key or the index is not set.
        """
        key, host, name = settings.pinecone_api_key, settings.pinecone_host, settings.pinecone_index
        if key is None or not (host or name):
            raise ConfigError(
                "vectors are to lie in Pinecone; set PINECONE_API_KEY, and PINECONE_INDEX or "
                "PINECONE_HOST"
            )
        address = host or _CONTROL
        proxy = proxy_of(settings, address if "://" in address else f"https://{address}")
        return cls(key.get_secret_value(), host, name, proxy)

    async def upsert(self, space: Space, chunks: pa.RecordBatch, vectors: Vectors) -> None:
        """Write the vectors of rows of ``CHUNKS``; returns once the store has them."""
        index = await self._opened(space)
        matrix, told = matrix_of(vectors), payloads(chunks)
        waiting: list[Awaitable[Any]] = []
        async with _told():
            for start, end in _batches(told, space.dim):
                rows = [
                    (fields.pop("key"), values, fields)
                    for fields, values in zip(
                        told[start:end], matrix[start:end].tolist(), strict=True
                    )
                ]
                waiting.append(index.upsert(vectors=rows, namespace=_namespace(space.id)))
                if len(waiting) == AT_ONCE:
                    await asyncio.gather(*waiting)
                    waiting = []
            await asyncio.gather(*waiting)

    async def patch(self, space: Space, payloads: Mapping[str, Payload]) -> None:
        """Replace fields of the payloads of chunks, by key: a request each."""
        if not payloads:
            return
        index = await self._opened(space)

        async def write(key: str, fields: Payload) -> None:
            known = {name: value for name, value in fields.items() if name != "key"}
            try:
                await index.update(id=key, set_metadata=known, namespace=_namespace(space.id))
            except NotFoundError:  # what is absent stays so
                return

        items = list(payloads.items())
        async with _told():
            for start in range(0, len(items), AT_ONCE):
                await asyncio.gather(*(write(*item) for item in items[start : start + AT_ONCE]))

    async def delete(self, space: Space, keys: Sequence[str]) -> None:
        """Delete the vectors of chunks, by key."""
        if not keys:
            return
        index = await self._opened(space)
        async with _told():
            for start in range(0, len(keys), MAX_ROWS):
                some = list(keys[start : start + MAX_ROWS])
                try:
                    await index.delete(ids=some, namespace=_namespace(space.id))
                except NotFoundError:  # nothing was written to the space yet
                    return

    async def nearest(
        self, space: Space, vector: Vector, criteria: Criteria, limit: int
    ) -> list[Neighbour]:
        """Those nearest to ``vector`` of the chunks that pass, nearest first."""
        if criteria.nothing:
            return []
        index = await self._opened(space)
        async with _told():
            try:
                answer = await index.query(
                    vector=vector.tolist(),
                    top_k=limit,
                    namespace=_namespace(space.id),
                    filter=_filter(criteria),
                )
            except NotFoundError:  # nothing was written to the space yet
                return []
        return [(match.id, _similarity(space.distance, match.score)) for match in answer.matches]

    async def fetch(self, space: Space, keys: Sequence[str]) -> Mapping[str, Vector]:
        """The vectors of chunks by key; one that is absent is left out."""
        if not keys:
            return {}
        index = await self._opened(space)

        async def read(start: int) -> dict[str, Vector]:
            some = list(keys[start : start + FETCH_ROWS])
            try:
                answer = await index.fetch(ids=some, namespace=_namespace(space.id))
            except NotFoundError:
                return {}
            return {
                key: np.asarray(each.values, np.float32) for key, each in answer.vectors.items()
            }

        found: dict[str, Vector] = {}
        starts = range(0, len(keys), FETCH_ROWS)
        async with _told():
            for first in range(0, len(starts), AT_ONCE):
                some = starts[first : first + AT_ONCE]
                for part in await asyncio.gather(*(read(start) for start in some)):
                    found |= part
        return found

    async def count(self, space: Space) -> int:
        """Vectors of the space, archived ones too; what was just written may not be counted."""
        index = await self._opened(space)
        async with _told():
            stats = await index.describe_index_stats()
        summary = stats.namespaces.get(_namespace(space.id))
        return 0 if summary is None else summary.vector_count

    async def drop(self, space_id: UUID) -> None:
        """Delete all that the store has of a space."""
        index = await self._connected()
        async with _told():
            try:
                await index.delete_namespace(name=_namespace(space_id))
            except NotFoundError:
                return

    async def close(self) -> None:
        """Give the connections back."""
        if self._index is not None:
            await self._index.close()

    async def _connected(self) -> AsyncIndex:
        async with self._opening:
            if self._index is None:
                async with _told():
                    host = self._host or await self._address()
                self._index = AsyncIndex(
                    host=host, api_key=self._key, timeout=TIMEOUT_SECS, proxy_url=self._proxy
                )
            return self._index

    async def _address(self) -> str:
        async with AsyncPinecone(self._key, timeout=TIMEOUT_SECS, proxy_url=self._proxy) as control:
            found = await control.indexes.describe(self._name or "")
        return str(found.host)

    async def _opened(self, space: Space) -> AsyncIndex:
        """The index, known to take vectors of the space.

        Raises:
            ConfigError: it does not.
        """
        index = await self._connected()
        if self._shape is None:
            async with _told():
                stats = await index.describe_index_stats()
            self._shape = stats.dimension, stats.metric
        dim, metric = self._shape
        wanted = _METRICS[space.distance]
        if (dim or space.dim, metric or wanted) != (space.dim, wanted):
            raise ConfigError(
                f"the Pinecone index takes vectors of {dim} numbers by {metric}, and the space has "
                f"{space.dim} by {wanted}; let PINECONE_INDEX name an index of that kind"
            )
        return index


def _namespace(space_id: UUID) -> str:
    return f"agentcy-{space_id.hex}"


def _batches(told: Sequence[Payload], dim: int) -> Iterator[tuple[int, int]]:
    """Ranges of rows, each within what one request may hold."""
    start, size = 0, 0
    for at, fields in enumerate(told):
        row = dim * _NUMBER_BYTES + len(orjson.dumps(fields)) + 64
        if at > start and (size + row > MAX_BYTES * _SPARE or at - start == MAX_ROWS):
            yield start, at
            start, size = at, 0
        size += row
    if told:
        yield start, len(told)


def _similarity(distance: Distance, score: float) -> float:
    """``score`` of an l2 index is the square of the distance."""
    return max(0.0, 1 - score / 2 if distance == "l2" else score)


def _filter(asked: Criteria) -> dict[str, Any]:
    tests: list[dict[str, Any]] = [{"archived": {"$eq": False}}]
    if asked.realms is not None:
        tests.append({"realm": {"$in": list(asked.realms)}})
    if asked.labels:
        tests.append({"labels": {"$in": list(asked.labels)}})
    if asked.sources is not None:
        tests.append({"source": {"$in": list(asked.sources)}})
    if asked.after is not None or asked.before is not None:
        earliest = EARLIEST if asked.after is None else asked.after
        tests.append({"seen_at": {"$gte": earliest}})
    if asked.before is not None:
        tests.append({"seen_at": {"$lte": asked.before}})
    if asked.excluded:
        tests.append({"properties": {"$nin": list(asked.excluded)}})
    return {"$and": tests}


@asynccontextmanager
async def _told() -> AsyncGenerator[None]:
    """Errors of the client as ours."""
    try:
        yield
    except ApiError as error:
        code = error.status_code
        if code in {408, 429} or code >= 500:
            raise StoreUnavailableError(f"Pinecone answered {code}; try again") from error
        hint = "check PINECONE_API_KEY" if code in {401, 403} else "check PINECONE_INDEX"
        raise ConfigError(f"Pinecone refused with {code}: {error.message}; {hint}") from error
    except (PineconeConnectionError, PineconeTimeoutError, httpx.TransportError) as error:
        raise StoreUnavailableError("Pinecone does not answer; try again") from error
    except PineconeError as error:
        raise ConfigError(f"Pinecone cannot be asked: {error}") from error
