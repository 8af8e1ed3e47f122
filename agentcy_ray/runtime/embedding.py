"""Embedding actors, and the pool that makes an ``Embedder`` of them.

Actors load their model once the platform serves, or at the first call: it is up before torch is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from ray.exceptions import RayActorError, RayError

from agentcy_ray.core.errors import EmbedderUnavailableError
from agentcy_ray.core.settings import Settings
from agentcy_ray.retrieval.embedder import Embedder, EmbedderInfo, Vectors, no_vectors
from agentcy_ray.runtime.cluster import NAMESPACE

SPLIT_TEXTS = 32
"""A block of fewer texts is not worth another actor."""
ATTEMPTS = 4


class EmbeddingActor:
    """Actor class. Holds one model, which lets questions pass bulk work; loads it when asked."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._loading: asyncio.Task[Embedder] | None = None

    async def ping(self) -> bool:
        """Answers while the actor is alive, whether its model is loaded or not."""
        return True

    async def warm(self) -> None:
        """Start loading; returns at once."""
        self._start()

    async def info(self) -> EmbedderInfo:
        """Identity of the model; waits until it is loaded."""
        return (await self._model()).info

    async def embed(self, texts: list[str]) -> Vectors:
        """Vectors of ``texts``, in their order."""
        return await (await self._model()).embed(texts)

    def _start(self) -> asyncio.Task[Embedder]:
        if self._loading is None or (self._loading.done() and self._loading.exception()):
            self._loading = asyncio.create_task(_load(self._threads))
        return self._loading

    async def _model(self) -> Embedder:
        return await asyncio.shield(self._start())


async def _load(threads: int) -> Embedder:
    from agentcy_ray.retrieval.local_embedder import LocalEmbedder

    return await asyncio.to_thread(LocalEmbedder.load, Settings.load(), threads or None)


class EmbeddingPool:
    """An ``Embedder`` over named actors; bulk work is spread, a question goes to the idlest."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = tuple(names)
        self._busy = dict.fromkeys(names, 0)
        self._info: EmbedderInfo | None = None

    @property
    def info(self) -> EmbedderInfo:
        """Identity of the model.

        Raises:
            EmbedderUnavailableError: ``ready`` has not been awaited yet.
        """
        if self._info is None:
            raise EmbedderUnavailableError("the embedding model is still loading; try again")
        return self._info

    async def ready(self) -> EmbedderInfo:
        """Wait until a model is loaded; returns its identity.

        Raises:
            EmbedderUnavailableError: no actor could load it.
        """
        if self._info is None:
            info: EmbedderInfo = await self._ask(self._names[0], "info")
            self._info = info
        return self._info

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """Vectors of ``texts``; a block goes to each actor when there are many.

        Raises:
            EmbedderUnavailableError: every actor is away.
        """
        info = await self.ready()
        if not texts:
            return no_vectors(info.dim)
        parts = max(1, min(len(self._names), len(texts) // SPLIT_TEXTS))
        # Dealt out in turns, since callers sort by length: every actor gets long and short ones.
        blocks = [list(texts[i::parts]) for i in range(parts)]
        answers = await asyncio.gather(*(self._embed(block) for block in blocks))
        if parts == 1:
            return answers[0]
        starts = np.cumsum([0, *map(len, blocks)])
        rows = np.arange(len(texts))
        return pa.concat_arrays(answers).take(pa.array(starts[rows % parts] + rows // parts))

    async def _embed(self, texts: list[str]) -> Vectors:
        # An actor that died comes back by itself; embedding is pure, so asking again is safe.
        for attempt in range(ATTEMPTS):
            name = min(self._names, key=lambda n: self._busy[n])
            self._busy[name] += len(texts)
            try:
                return await self._ask(name, "embed", texts)
            except EmbedderUnavailableError:
                if attempt == ATTEMPTS - 1:
                    raise
                await asyncio.sleep(0.5 * 2**attempt)
            finally:
                self._busy[name] -= len(texts)
        raise AssertionError("unreachable")

    async def _ask(self, name: str, method: str, *args: object) -> Any:
        try:
            actor = ray.get_actor(name, namespace=NAMESPACE)
            return await getattr(actor, method).remote(*args)
        except (RayActorError, ValueError) as error:
            raise EmbedderUnavailableError(
                f"embedding actor {name!r} is away; it is restarted, try again in a moment"
            ) from error
        except RayError as error:
            cause = getattr(error, "cause", None)
            raise EmbedderUnavailableError(f"embedding failed: {cause or error}") from error
