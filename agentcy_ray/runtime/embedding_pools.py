"""The embedder of each model on the cluster: a pool of actors, or a way to a server.

The default model's pool is always there. Another model's actors are started when it is first asked
for, as many and as large as the default's, and are the foreman's, like all shared actors. A model
that runs elsewhere (a provider, a server, one that the cluster serves) is asked from this process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError

from agentcy_ray.core.errors import EmbedderUnavailableError
from agentcy_ray.core.metrics import Metrics
from agentcy_ray.core.settings import Settings
from agentcy_ray.retrieval.counted_embedder import CountedEmbedder
from agentcy_ray.retrieval.embedder import Embedded, EmbedderInfo, MeteredEmbedder, Vectors
from agentcy_ray.retrieval.embedders import REMOTE, load_embedder, scheme_of
from agentcy_ray.retrieval.served_embedder import ServedVectors
from agentcy_ray.runtime.cluster import NAMESPACE
from agentcy_ray.runtime.embedding import EmbeddingPool


class EmbeddingPools:
    """``AnyEmbedders`` of a process of the cluster. One per process."""

    def __init__(
        self,
        settings: Settings,
        names: Sequence[str],
        metrics: Metrics,
        served: ServedVectors | None = None,
    ) -> None:
        """Nothing is started yet.

        Args:
            settings: the install's.
            names: of the default model's actors.
            metrics: of this process.
            served: the embedding models that the cluster serves.
        """
        self._settings = settings
        self._names = tuple(names)
        self._metrics = metrics
        self._served = served
        self._opening: dict[str, asyncio.Task[MeteredEmbedder]] = {}
        self._default = _Late(self, settings.embedding_model)

    @property
    def default(self) -> MeteredEmbedder:
        """The embedder of ``EMBEDDING_MODEL``; what it is, is known once it has answered."""
        return self._default

    async def of(self, reference: str) -> MeteredEmbedder:
        """The embedder of a model, up and known; the same one for the same reference.

        Raises:
            InvalidError: the reference names no kind of embedder, or a setting for it is missing.
            EmbedderUnavailableError: the model is away or cannot be loaded.
            EmbedderRefusedError: its server does not know it, or refuses the key.
        """
        task = self._opening.get(reference)
        if task is None or (task.done() and (task.cancelled() or task.exception())):
            task = self._opening[reference] = asyncio.create_task(self._open(reference))
        return await asyncio.shield(task)

    async def _open(self, reference: str) -> MeteredEmbedder:
        if scheme_of(reference, self._settings) in REMOTE:
            found = await load_embedder(reference, self._settings, served=self._served)
            return CountedEmbedder(found, reference, self._metrics)
        if reference == self._settings.embedding_model:
            pool = EmbeddingPool(self._names)
        else:
            names = await self._start(reference)
            pool = EmbeddingPool(names, lambda: self._start(reference))
        await pool.ready()
        return CountedEmbedder(pool, reference, self._metrics)

    async def _start(self, reference: str) -> list[str]:
        """Names of a model's actors, started where there are none."""
        try:
            actor: Any = ray.get_actor(self._names[0], namespace=NAMESPACE)
            names: list[str] = await actor.pool.remote(reference)
        except (RayActorError, ValueError) as error:
            raise EmbedderUnavailableError(
                f"embedding actor {self._names[0]!r} is away; it is restarted, try again in a "
                "moment"
            ) from error
        except RayError as error:
            cause = getattr(error, "cause", None)
            raise EmbedderUnavailableError(
                f"no actors were started for {reference}: {cause or error}; see the log of the "
                "foreman"
            ) from error
        if not names:
            raise EmbedderUnavailableError(
                f"{reference} is not the model of this cluster, and nobody starts actors for "
                "another; set EMBEDDING_MODEL and start again"
            )
        return names


class _Late:
    """The default's embedder before and after it is up."""

    def __init__(self, pools: EmbeddingPools, reference: str) -> None:
        self._pools = pools
        self._reference = reference
        self._found: MeteredEmbedder | None = None

    @property
    def info(self) -> EmbedderInfo:
        if self._found is None:
            raise EmbedderUnavailableError("the embedding model is still loading; try again")
        return self._found.info

    async def embed(self, texts: Sequence[str]) -> Vectors:
        return (await self.embed_metered(texts)).vectors

    async def embed_metered(self, texts: Sequence[str]) -> Embedded:
        if self._found is None:
            self._found = await self._pools.of(self._reference)
        return await self._found.embed_metered(texts)
