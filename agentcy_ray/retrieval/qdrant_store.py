"""Vectors in Qdrant: a collection a space, made when it is first written."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

import numpy as np
import pyarrow as pa
from qdrant_client import AsyncQdrantClient, models
from qdrant_client.common.client_exceptions import ResourceExhaustedResponse
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from agentcy_ray.core.errors import ConfigError, StoreUnavailableError
from agentcy_ray.core.settings import Settings
from agentcy_ray.retrieval.embedder import Vectors, matrix_of
from agentcy_ray.retrieval.index import Neighbour
from agentcy_ray.retrieval.space import Distance, Space
from agentcy_ray.retrieval.vector_store import EARLIEST, Criteria, Payload, Vector, payloads
from agentcy_ray.stores.egress import proxy_of

BATCH = 256
"""Points a request: a megabyte or two of JSON at 384 numbers each."""
AT_ONCE = 4
TIMEOUT_SECS = 30

_DISTANCES: Mapping[Distance, models.Distance] = {
    "cosine": models.Distance.COSINE,
    "l2": models.Distance.EUCLID,
    "ip": models.Distance.DOT,
}
_FIELDS: Mapping[str, models.PayloadSchemaType] = {
    "realm": models.PayloadSchemaType.KEYWORD,
    "labels": models.PayloadSchemaType.KEYWORD,
    "source": models.PayloadSchemaType.KEYWORD,
    "properties": models.PayloadSchemaType.KEYWORD,
    "seen_at": models.PayloadSchemaType.INTEGER,
    "archived": models.PayloadSchemaType.BOOL,
}


class QdrantStore:
    """The ``VectorStore`` of a Qdrant; see the protocol for what its methods do."""

    def __init__(self, client: AsyncQdrantClient, settings: Settings) -> None:
        self._client = client
        self._settings = settings
        self._made: set[UUID] = set()
        self._making = asyncio.Lock()

    @classmethod
    def open(cls, settings: Settings) -> QdrantStore:
        """A client of ``QDRANT_URL``; connects when it is first used.

        Raises:
            ConfigError: the address is not set.
        """
        if not settings.qdrant_url:
            raise ConfigError("vectors are to lie in Qdrant; set QDRANT_URL")
        key = settings.qdrant_api_key
        client = AsyncQdrantClient(
            url=settings.qdrant_url,
            api_key=None if key is None else key.get_secret_value(),
            timeout=TIMEOUT_SECS,
            check_compatibility=False,
            proxy=proxy_of(settings, settings.qdrant_url),
            trust_env=False,
            verify=ssl.create_default_context(),
        )
        return cls(client, settings)

    async def upsert(self, space: Space, chunks: pa.RecordBatch, vectors: Vectors) -> None:
        """Write the vectors of rows of ``CHUNKS``; returns once the store has them."""
        await self._make(space)
        matrix = matrix_of(vectors)

        async def write(start: int) -> None:
            part = chunks.slice(start, BATCH)
            keys: list[str] = part["chunk_key"].to_pylist()
            points = models.Batch(
                ids=[point_id(key) for key in keys],
                vectors=matrix[start : start + BATCH].tolist(),
                payloads=payloads(part),
            )
            await self._client.upsert(_name(space.id), points, wait=True)

        async with _told():
            await _each(write, range(0, chunks.num_rows, BATCH))

    async def patch(self, space: Space, payloads: Mapping[str, Payload]) -> None:
        """Replace fields of the payloads of chunks, by key."""
        changes = [
            models.SetPayloadOperation(
                # By a filter, for an id that is absent would be an error.
                set_payload=models.SetPayload(
                    payload=fields,
                    filter=models.Filter(must=[models.HasIdCondition(has_id=[point_id(key)])]),
                )
            )
            for key, fields in payloads.items()
        ]
        if not changes or not await self._there(space):
            return

        async def write(start: int) -> None:
            some = changes[start : start + BATCH]
            await self._client.batch_update_points(_name(space.id), some, wait=True)

        async with _told():
            await _each(write, range(0, len(changes), BATCH))

    async def delete(self, space: Space, keys: Sequence[str]) -> None:
        """Delete the vectors of chunks, by key."""
        if not keys or not await self._there(space):
            return
        async with _told():
            for start in range(0, len(keys), 10 * BATCH):
                ids: list[Any] = [point_id(key) for key in keys[start : start + 10 * BATCH]]
                chosen = models.PointIdsList(points=ids)
                await self._client.delete(_name(space.id), chosen, wait=True)

    async def nearest(
        self, space: Space, vector: Vector, criteria: Criteria, limit: int
    ) -> list[Neighbour]:
        """Those nearest to ``vector`` of the chunks that pass, nearest first."""
        if criteria.nothing or not await self._there(space):
            return []
        async with _told():
            answer = await self._client.query_points(
                _name(space.id),
                query=vector.tolist(),
                query_filter=_filter(criteria),
                search_params=models.SearchParams(
                    hnsw_ef=max(self._settings.hnsw_ef_search, limit)
                ),
                limit=limit,
                with_payload=["key"],
            )
        return [
            (str((point.payload or {})["key"]), _similarity(space.distance, point.score))
            for point in answer.points
        ]

    async def fetch(self, space: Space, keys: Sequence[str]) -> Mapping[str, Vector]:
        """The vectors of chunks by key; one that is absent is left out."""
        if not keys or not await self._there(space):
            return {}
        found: dict[str, Vector] = {}
        async with _told():
            for start in range(0, len(keys), BATCH):
                ids = [point_id(key) for key in keys[start : start + BATCH]]
                for point in await self._client.retrieve(
                    _name(space.id), ids, with_payload=["key"], with_vectors=True
                ):
                    key = str((point.payload or {})["key"])
                    found[key] = np.asarray(point.vector, np.float32)
        return found

    async def count(self, space: Space) -> int:
        """Vectors of the space, archived ones too."""
        if not await self._there(space):
            return 0
        async with _told():
            return (await self._client.count(_name(space.id), exact=True)).count

    async def drop(self, space_id: UUID) -> None:
        """Delete all that the store has of a space."""
        self._made.discard(space_id)
        async with _told():
            if await self._client.collection_exists(_name(space_id)):
                await self._client.delete_collection(_name(space_id))

    async def close(self) -> None:
        """Give the connections back."""
        await self._client.close()

    async def _there(self, space: Space) -> bool:
        """Whether the space was written yet."""
        if space.id not in self._made:
            async with _told():
                if not await self._client.collection_exists(_name(space.id)):
                    return False
            self._made.add(space.id)
        return True

    async def _make(self, space: Space) -> None:
        async with self._making:
            if space.id in self._made:
                return
            async with _told():
                await self._create(space)
            self._made.add(space.id)

    async def _create(self, space: Space) -> None:
        name, s = _name(space.id), self._settings
        if not await self._client.collection_exists(name):
            half = space.storage == "halfvec"
            try:
                await self._client.create_collection(
                    name,
                    vectors_config=models.VectorParams(
                        size=space.dim,
                        distance=_DISTANCES[space.distance],
                        datatype=models.Datatype.FLOAT16 if half else models.Datatype.FLOAT32,
                    ),
                    hnsw_config=models.HnswConfigDiff(
                        m=s.hnsw_m, ef_construct=s.hnsw_ef_construction
                    ),
                )
            except UnexpectedResponse as error:
                if error.status_code != 409:  # another process was first
                    raise
        for field, kind in _FIELDS.items():  # again, as whoever was first may have died here
            await self._client.create_payload_index(name, field, kind, wait=True)


def point_id(key: str) -> str:
    """The id of a chunk's point: Qdrant takes numbers and UUIDs only."""
    return str(uuid5(NAMESPACE_URL, f"agentcy:chunk:{key}"))


def _name(space_id: UUID) -> str:
    return f"agentcy_{space_id.hex}"


def _similarity(distance: Distance, score: float) -> float:
    near = 1 - score * score / 2 if distance == "l2" else score
    return max(0.0, near)


def _filter(asked: Criteria) -> models.Filter:
    def one_of(field: str, values: Sequence[str]) -> models.FieldCondition:
        return models.FieldCondition(key=field, match=models.MatchAny(any=list(values)))

    must: list[Any] = [models.FieldCondition(key="archived", match=models.MatchValue(value=False))]
    if asked.realms is not None:
        must.append(one_of("realm", asked.realms))
    if asked.labels:
        must.append(one_of("labels", asked.labels))
    if asked.sources is not None:
        must.append(one_of("source", asked.sources))
    if asked.after is not None or asked.before is not None:
        earliest = EARLIEST if asked.after is None else asked.after
        must.append(
            models.FieldCondition(key="seen_at", range=models.Range(gte=earliest, lte=asked.before))
        )
    without: list[Any] = [one_of("properties", asked.excluded)] if asked.excluded else []
    return models.Filter(must=must, must_not=without)


async def _each(write: Any, starts: range) -> None:
    """Call ``write`` with each start, a bounded number at a time."""
    for first in range(0, len(starts), AT_ONCE):
        await asyncio.gather(*(write(start) for start in starts[first : first + AT_ONCE]))


@asynccontextmanager
async def _told() -> AsyncGenerator[None]:
    """Errors of the client as ours."""
    try:
        yield
    except UnexpectedResponse as error:
        code = error.status_code or 500
        if code in {408, 429} or code >= 500:
            raise StoreUnavailableError(f"Qdrant answered {code}; try again") from error
        hint = "check QDRANT_API_KEY" if code in {401, 403} else "check QDRANT_URL"
        raise ConfigError(f"Qdrant refused with {code}: {error.reason_phrase}; {hint}") from error
    except (ResponseHandlingException, ResourceExhaustedResponse) as error:
        raise StoreUnavailableError(
            "Qdrant does not answer; see whether the server of QDRANT_URL is up"
        ) from error
