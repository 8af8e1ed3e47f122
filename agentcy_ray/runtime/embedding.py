"""Embedding actors, and the pool that makes an ``Embedder`` of them.

Actors load their model once the platform serves, or at the first call: it is up before torch is.
Vectors come back as an Arrow array whose memory is the object store's: nothing copies them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayActorError, RayError

from agentcy_ray.core.errors import AgentcyError, EmbedderUnavailableError
from agentcy_ray.core.settings import Settings
from agentcy_ray.retrieval.embedder import (
    Embedded,
    EmbedderInfo,
    EmbedUsage,
    MeteredEmbedder,
    Vectors,
    matrix_of,
    no_vectors,
    vectors_of,
)
from agentcy_ray.retrieval.embedders import REMOTE, load_embedder
from agentcy_ray.runtime.cluster import NAMESPACE

SPLIT_TEXTS = 32
"""A block of fewer texts is not worth another actor."""
ATTEMPTS = 6
"""With pauses that double from half a second: as long as Ray takes to start an actor anew."""
START_SECS = 900.0
"""In which an actor has to be placed and its model loaded, perhaps from the model hub."""


class EmbeddingActor:
    """Actor class. Holds one model, which lets questions pass bulk work; loads it when asked.

    An error of ours is returned, since Ray would wrap it.
    """

    def __init__(
        self,
        threads: int,
        batch: int = 0,
        reference: str | None = None,
        foreman: Any | None = None,
        gpus: int = 1,
    ) -> None:
        """Nothing is loaded yet.

        Args:
            threads: CPU cores that the model uses; 0 = all.
            batch: tokens of one model call; 0 = what suits the device.
            reference: of the model; None = ``EMBEDDING_MODEL``.
            foreman: handle of what owns the shared actors.
            gpus: how many GPUs the model uses, where it runs on any.
        """
        self._threads = threads
        self._gpus = gpus
        self._batch = batch
        self._reference = reference
        self._foreman = foreman
        self._loading: asyncio.Task[MeteredEmbedder] | None = None

    async def ping(self) -> bool:
        """Answers while the actor is alive, whether its model is loaded or not."""
        return True

    async def warm(self) -> None:
        """Start loading; returns at once. A model that runs elsewhere is not asked from here."""
        reference = self._reference or Settings.load().embedding_model
        if reference.partition(":")[0] not in REMOTE:
            self._start()

    async def info(self) -> EmbedderInfo | AgentcyError:
        """Identity of the model; waits until it is loaded."""
        try:
            return (await self._model()).info
        except AgentcyError as error:
            return error

    async def embed(self, texts: list[str]) -> Embedded | AgentcyError:
        """Vectors of ``texts``, in their order, and what they cost."""
        try:
            return await (await self._model()).embed_metered(texts)
        except AgentcyError as error:
            return error

    async def pool(self, reference: str) -> list[str]:
        """Names of the actors of another model, which the foreman starts where there are none."""
        if self._foreman is None:
            return []
        return await self._foreman.embedders.remote(reference)

    def _start(self) -> asyncio.Task[MeteredEmbedder]:
        loading = self._loading
        if loading is None or (loading.done() and (loading.cancelled() or loading.exception())):
            loading = self._loading = asyncio.create_task(self._load())
        return loading

    async def _load(self) -> MeteredEmbedder:
        settings = Settings.load()
        reference = self._reference or settings.embedding_model
        return await load_embedder(
            reference, settings, threads=self._threads or None, tokens=self._batch or None,
            gpus=self._gpus,
        )  # fmt: skip

    async def _model(self) -> MeteredEmbedder:
        return await asyncio.shield(self._start())


class EmbeddingPool:
    """A ``MeteredEmbedder`` over named actors; bulk work is spread, questions go to the idlest."""

    def __init__(
        self, names: Sequence[str], revive: Callable[[], Awaitable[object]] | None = None
    ) -> None:
        """Nothing is asked yet.

        Args:
            names: of the actors, which all hold one model.
            revive: starts them again where they went with whoever owned them.
        """
        self._names = tuple(names)
        self._busy = dict.fromkeys(names, 0)
        self._revive = revive
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
            InvalidError: the model's reference cannot be used.
            EmbedderUnavailableError: no actor could load it, or has a place on the cluster.
        """
        if self._info is None:
            try:
                async with asyncio.timeout(START_SECS):
                    info: EmbedderInfo = await self._asked("info", 0)
            except TimeoutError as error:
                raise EmbedderUnavailableError(
                    f"embedding actor {self._names[0]!r} was not up in {START_SECS:g} s; see in "
                    "`ray status` whether a node has the CPUs, GPUs and memory of embedding: in "
                    "the cluster config"
                ) from error
            self._info = info
        return self._info

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """Vectors of ``texts`` in their order; see ``embed_metered``."""
        return (await self.embed_metered(texts)).vectors

    async def embed_metered(self, texts: Sequence[str]) -> Embedded:
        """Vectors of ``texts``, and what they cost; each actor gets a share when there are many.

        Raises:
            EmbedderUnavailableError: every actor is away.
            EmbedderRefusedError: the model will not embed these texts.
        """
        info = await self.ready()
        if not texts:
            return Embedded(no_vectors(info.dim), EmbedUsage())
        parts = max(1, min(len(self._names), len(texts) // SPLIT_TEXTS))
        if parts == 1:
            return await self._asked("embed", len(texts), list(texts))
        # Dealt out in turns, since callers sort by length: every actor gets long and short ones.
        blocks = [list(texts[i::parts]) for i in range(parts)]
        answers: list[Embedded] = await asyncio.gather(
            *(self._asked("embed", len(block), block) for block in blocks)
        )
        vectors = np.empty((len(texts), info.dim), dtype=np.float32)
        for i, answer in enumerate(answers):
            vectors[i::parts] = matrix_of(answer.vectors)
        return Embedded(
            vectors_of(vectors), sum((answer.usage for answer in answers), EmbedUsage())
        )

    async def aclose(self) -> None:
        """The actors stay; whoever owns them ends them."""

    async def _asked(self, method: str, size: int, *args: object) -> Any:
        # An actor that died comes back by itself; embedding is pure, so asking again is safe.
        for attempt in range(ATTEMPTS):
            name = min(self._names, key=lambda n: self._busy[n])
            self._busy[name] += size
            try:
                answer = await self._call(name, method, *args)
            except EmbedderUnavailableError:
                if attempt == ATTEMPTS - 1:
                    raise
            else:
                if isinstance(answer, AgentcyError):
                    raise answer  # the model's own word, the same from any actor
                return answer
            finally:
                self._busy[name] -= size
            await asyncio.sleep(0.5 * 2**attempt)
            if self._revive is not None:
                await self._revive()
        raise AssertionError("unreachable")

    async def _call(self, name: str, method: str, *args: object) -> Any:
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
