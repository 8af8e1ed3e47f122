"""Embedding actors, and the pool that makes an ``Embedder`` of them.

An actor cuts bulk work into small slices and serves questions between two slices, so a search keeps
its latency while a sync embeds. Actors load their model in the background: the platform is up
before torch is.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayActorError, RayError

from agentcy_ray.core.errors import EmbedderUnavailableError
from agentcy_ray.core.settings import Settings
from agentcy_ray.retrieval.embedder import Embedder, EmbedderInfo, Matrix
from agentcy_ray.runtime.cluster import NAMESPACE

INTERACTIVE_TEXTS = 8
"""Up to so many texts are a question and go first."""
SLICE_TEXTS = 32
"""Bulk work runs in slices of this many texts; a question waits for one at most."""


@dataclass(order=True)
class _Slice:
    priority: int
    order: int
    texts: list[str] = field(compare=False)
    done: asyncio.Future[Matrix] = field(compare=False)


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=0, max_concurrency=200)
class EmbeddingActor:
    """Holds one model; loads it at start."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._queue: asyncio.PriorityQueue[_Slice] | None = None
        self._order = itertools.count()
        self._loading: asyncio.Task[Embedder] | None = None
        self._worker: asyncio.Task[None] | None = None

    async def warm(self) -> None:
        """Start loading; returns at once."""
        self._start()

    async def info(self) -> EmbedderInfo:
        """Identity of the model; waits until it is loaded."""
        return (await self._model()).info

    async def embed(self, texts: list[str]) -> Matrix:
        """Vectors of ``texts``, in their order."""
        model = await self._model()
        assert self._queue is not None
        priority = 0 if len(texts) <= INTERACTIVE_TEXTS else 1
        # Sorting here keeps the padding of a slice small; the order is restored below.
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]), reverse=True)
        slices: list[_Slice] = []
        for start in range(0, len(order), SLICE_TEXTS):
            piece = [texts[i] for i in order[start : start + SLICE_TEXTS]]
            done: asyncio.Future[Matrix] = asyncio.get_running_loop().create_future()
            slices.append(_Slice(priority, next(self._order), piece, done))
            self._queue.put_nowait(slices[-1])
        vectors = np.empty((len(texts), model.info.dim), dtype=np.float32)
        if slices:
            vectors[order] = np.concatenate(await asyncio.gather(*(s.done for s in slices)))
        return vectors

    def _start(self) -> asyncio.Task[Embedder]:
        if self._loading is None or (self._loading.done() and self._loading.exception()):
            self._queue = self._queue or asyncio.PriorityQueue()
            self._loading = asyncio.create_task(_load(self._threads))
        return self._loading

    async def _model(self) -> Embedder:
        model = await asyncio.shield(self._start())
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work(model))
        return model

    async def _work(self, model: Embedder) -> None:
        assert self._queue is not None
        while True:
            piece = await self._queue.get()
            try:
                piece.done.set_result(await model.embed(piece.texts))
            except Exception as error:  # noqa: BLE001 - handed to whoever asked
                piece.done.set_exception(error)


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
            self._info = await self._ask(self._names[0], "info")
        return self._info

    async def embed(self, texts: Sequence[str]) -> Matrix:
        """Vectors of ``texts``; a block goes to each actor when there are many.

        Raises:
            EmbedderUnavailableError: every actor is away.
        """
        info = await self.ready()
        if not texts:
            return np.empty((0, info.dim), dtype=np.float32)
        parts = max(1, min(len(self._names), len(texts) // SLICE_TEXTS))
        blocks = [list(texts[i::parts]) for i in range(parts)]
        answers = await asyncio.gather(*(self._embed(block) for block in blocks))
        vectors = np.empty((len(texts), info.dim), dtype=np.float32)
        for i, answer in enumerate(answers):
            vectors[i::parts] = answer
        return vectors

    async def _embed(self, texts: list[str]) -> Matrix:
        # An actor that died comes back by itself; embedding is pure, so asking again is safe.
        for attempt in range(4):
            name = min(self._names, key=lambda n: self._busy[n])
            self._busy[name] += len(texts)
            try:
                return await self._ask(name, "embed", texts)
            except EmbedderUnavailableError:
                if attempt == 3:
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
