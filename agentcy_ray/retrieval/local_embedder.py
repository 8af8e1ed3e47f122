"""Embedding in this process, by sentence-transformers.

The default model's weights come with a Python package, so it needs no network, ever.

A call goes in windows of texts of like length: while the model works on one, threads of their own
tokenise the next. A window is sorted by its true token counts and cut into batches of at most a
budget of tokens, padding included.

On a CPU, batches run side by side on single-threaded workers: the cores are used as fully as by
torch's own threads, and unlike those the workers do not wait for each other when other processes
take a core away (measured: up to ten times slower). On a GPU two workers with a stream each keep it
busy: one prepares and launches while the other's batch is computed. Of several GPUs each has the
model and two workers. In all cases one worker more is kept for questions, which never wait behind
bulk work.

This file and what it imports need nothing but torch, transformers, sentence-transformers and
pyarrow: ``benchmarks/gpu_embed.py`` runs where the rest of the platform is not installed.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from agentcy_ray.core.errors import EmbedderUnavailableError, InvalidError
from agentcy_ray.retrieval.batching import Rows, batches_of
from agentcy_ray.retrieval.embedder import (
    Embedded,
    EmbedUsage,
    Matrix,
    Vectors,
    guessed_tokens,
    vectors_of,
)
from agentcy_ray.retrieval.local_model import (
    SCHEME,
    LocalModel,
    bundled_folder,
    on_gpus,
    open_model,
)
from agentcy_ray.retrieval.text_tokens import Ids

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from agentcy_ray.core.settings import Settings

CPU_TOKENS = 2_048
"""Padded tokens per batch on a CPU; larger batches fall out of its caches and are slower."""
GPU_TOKENS = 65_536
GPU_TEXTS = 4_096
GPU_WORKERS = 2
CPU_WINDOW, GPU_WINDOW = 1_024, 8_192
"""Texts that are tokenised and sorted together: enough for many batches."""
WINDOWS_AHEAD = 2
QUESTION_CHARS = 4_096
"""A call with less text in all is a question, and is served beside bulk work."""
MOST_TOKENIZERS = 16


class LocalEmbedder:
    """A ``MeteredEmbedder`` over one loaded model. Build it with ``LocalEmbedder.load``."""

    def __init__(
        self,
        model: LocalModel,
        *,
        texts: int,
        tokens: int,
        workers: int,
        others: Sequence[LocalModel] = (),
    ) -> None:
        """Start the threads.

        Args:
            model: what embeds.
            texts: most texts of a batch.
            tokens: budget of a batch, padding included.
            workers: batches at once on all devices, one for a question besides.
            others: the same model on further devices.
        """
        self._model = model
        models = (model, *others)
        self._devices = len(models)
        self._texts = texts
        self._tokens = tokens
        self._window = GPU_WINDOW if model.on_gpu else CPU_WINDOW
        self._readers = min(MOST_TOKENIZERS, usable_cores() if model.on_gpu else workers)
        self._bulk = asyncio.Semaphore(workers)
        self._pool = ThreadPoolExecutor(workers + 1, "embed", initializer=_one_thread)
        self._reading = ThreadPoolExecutor(self._readers, "tokenize")
        self._places: SimpleQueue[_Place] = SimpleQueue()
        self._slots = workers + 1
        for number in range(self._slots):  # who waits longest is next, so devices take turns
            self._places.put(_Place.of(models[number % len(models)]))
        self.info = model.info

    @classmethod
    def load(
        cls,
        settings: Settings,
        threads: int | None = None,
        *,
        reference: str | None = None,
        tokens: int | None = None,
        device: Literal["auto", "cpu", "cuda"] | None = None,
        gpus: int = 1,
    ) -> LocalEmbedder:
        """Load a model as the settings say. Takes seconds; call it on a thread.

        Args:
            settings: reference, device and batch size.
            threads: CPU cores to use; None = all that this process may run on.
            reference: of the model, in place of ``EMBEDDING_MODEL``.
            tokens: budget of a batch; None = what suits the device.
            device: in place of ``EMBEDDING_DEVICE``.
            gpus: how many of the GPUs that this process sees are used, where it runs on any.

        Raises:
            InvalidError: the reference does not start with ``local:``.
            EmbedderUnavailableError: the model cannot be loaded.
        """
        return cls.open(
            reference or settings.embedding_model,
            device=device or settings.embedding_device,
            texts=settings.embedding_batch,
            tokens=tokens,
            threads=threads,
            gpus=gpus,
        )

    @classmethod
    def open(
        cls,
        reference: str,
        *,
        device: Literal["auto", "cpu", "cuda"] = "auto",
        texts: int = 64,
        tokens: int | None = None,
        threads: int | None = None,
        gpus: int = 1,
    ) -> LocalEmbedder:
        """Load a model without settings; see ``load``.

        Args:
            reference: ``local:`` and the bundled model, a folder or a name of the model hub.
            device: where it runs.
            texts: most texts of a batch on a CPU; a GPU's are bounded by tokens alone.
            tokens: budget of a batch; None = what suits the device.
            threads: CPU cores to use; None = all that this process may run on.
            gpus: how many of the GPUs that this process sees are used, where it runs on any.
        """
        if not reference.startswith(SCHEME):
            raise InvalidError(
                f"{reference!r} is not run in this process; name a sentence-transformers model as "
                f"{SCHEME}<model>"
            )
        model, *others = on_gpus(open_model(reference, device), gpus)
        gpu = model.on_gpu
        return cls(
            model,
            texts=GPU_TEXTS if gpu else texts,
            tokens=tokens or (GPU_TOKENS if gpu else CPU_TOKENS),
            workers=GPU_WORKERS * (1 + len(others)) if gpu else threads or usable_cores(),
            others=others,
        )

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """Vectors of ``texts`` in their order, of unit length; see ``embed_metered``."""
        return (await self.embed_metered(texts)).vectors

    async def embed_metered(self, texts: Sequence[str]) -> Embedded:
        """Vectors of ``texts`` in their order, of unit length, and the tokens that were read.

        Texts longer than ``info.max_tokens`` are embedded by their beginning.

        Raises:
            EmbedderUnavailableError: the model fails, for example out of memory.
        """
        into = np.empty((len(texts), self.info.dim), dtype=np.float32)
        try:
            if sum(map(len, texts)) < QUESTION_CHARS:
                usage = await self._question(texts, into)
            else:
                usage = await self._windows(texts, into)
        except RuntimeError as error:  # torch's way to say out of memory and the like
            raise EmbedderUnavailableError(
                f"{self.info.reference} failed: {error}; give the process more memory or lower "
                "EMBEDDING_BATCH",
                reference=self.info.reference,
            ) from error
        return Embedded(vectors_of(into), usage)

    def close(self) -> None:
        """End the worker threads; nothing may be embedded after it."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._reading.shutdown(wait=False, cancel_futures=True)

    async def aclose(self) -> None:
        """As ``close``."""
        self.close()

    async def _question(self, texts: Sequence[str], into: Matrix) -> EmbedUsage:
        """Few texts: tokenised where the model runs, which saves waiting for another thread."""
        if not texts:
            return EmbedUsage()
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, self._answer, list(texts), into)

    def _answer(self, texts: list[str], into: Matrix) -> EmbedUsage:
        ids = self._read(texts)
        used = [self._run(texts, ids, batch, batch, into) for batch in self._batches(texts, ids)]
        return sum(used, EmbedUsage())

    async def _windows(self, texts: Sequence[str], into: Matrix) -> EmbedUsage:
        """Tokenise window after window, ahead of the batches of those before."""
        order = np.argsort([-len(text) for text in texts], kind="stable")
        ahead = asyncio.Semaphore(WINDOWS_AHEAD)
        running: list[asyncio.Task[EmbedUsage]] = []
        try:
            for start in range(0, len(order), self._window):
                await ahead.acquire()
                rows = order[start : start + self._window]
                part = [texts[int(row)] for row in rows]
                ids = await self._read_apart(part)
                work = asyncio.create_task(self._run_all(part, ids, rows, into))
                work.add_done_callback(lambda _: ahead.release())
                running.append(work)
            return sum(await asyncio.gather(*running), EmbedUsage())
        finally:
            for work in running:
                work.cancel()

    async def _read_apart(self, texts: list[str]) -> list[Ids] | None:
        """Token ids of a window, on the threads for it."""
        if self._model.tokens is None:
            return None
        loop, size = asyncio.get_running_loop(), -(-len(texts) // self._readers)
        parts = await asyncio.gather(
            *(
                loop.run_in_executor(self._reading, self._read, texts[start : start + size])
                for start in range(0, len(texts), size)
            )
        )
        return [ids for part in parts for ids in part or ()]

    def _read(self, texts: list[str]) -> list[Ids] | None:
        return None if self._model.tokens is None else self._model.tokens.encode(texts)

    def _batches(self, texts: list[str], ids: list[Ids] | None) -> list[Rows]:
        if ids is None:  # a wrong guess costs only speed
            lengths = [min(guessed_tokens(text), self.info.max_tokens) for text in texts]
        else:
            lengths = [len(one) for one in ids]
        return batches_of(
            lengths, tokens=self._tokens, texts=self._texts, multiple=self._model.multiple
        )

    async def _run_all(
        self, texts: list[str], ids: list[Ids] | None, rows: Rows, into: Matrix
    ) -> EmbedUsage:
        """The batches of a window, as many at once as there are workers."""
        loop = asyncio.get_running_loop()

        async def run(batch: Rows) -> EmbedUsage:
            async with self._bulk:
                return await loop.run_in_executor(
                    self._pool, self._run, texts, ids, batch, rows[batch], into
                )

        used = await asyncio.gather(*(run(batch) for batch in self._batches(texts, ids)))
        return sum(used, EmbedUsage())

    def _run(
        self, texts: list[str], ids: list[Ids] | None, batch: Rows, rows: Rows, into: Matrix
    ) -> EmbedUsage:
        """One batch, on a worker: the texts at ``batch``, whose vectors go to ``rows``."""
        texts = [texts[int(i)] for i in batch]
        ids = None if ids is None else [ids[int(i)] for i in batch]
        place = self._places.get()
        busy = (self._slots - self._places.qsize()) / self._devices  # batches on one device
        began = time.perf_counter()
        try:
            into[rows] = self._fitting(texts, ids, place)
        finally:
            self._places.put(place)
        tokens = sum(map(guessed_tokens, texts)) if ids is None else sum(map(len, ids))
        gpu_secs = (time.perf_counter() - began) / max(1.0, busy) if self._model.on_gpu else 0.0
        return EmbedUsage(tokens=tokens, gpu_secs=gpu_secs)

    def _fitting(self, texts: list[str], ids: list[Ids] | None, place: _Place) -> Matrix:
        """Vectors of a batch; in halves where it does not fit into the GPU's memory."""
        import torch

        try:
            batch = place.model.features_of(texts) if ids is None else ids
            return place.model.run(batch, place.stream)
        except torch.OutOfMemoryError:
            if len(texts) == 1:
                raise
        torch.cuda.empty_cache()
        half = len(texts) // 2
        parts = (slice(0, half), slice(half, None))
        return np.concatenate([
            self._fitting(texts[part], None if ids is None else ids[part], place) for part in parts
        ])


def bundled_tokenizer() -> Tokenizer:
    """The default model's tokenizer, which the chunker counts with; reads one file."""
    from agentcy_ray.retrieval.chunking import load_tokenizer

    return load_tokenizer(bundled_folder() / "tokenizer.json")


@dataclass(frozen=True)
class _Place:
    """Where a batch runs: a device with the model, and on a GPU a stream of it."""

    model: LocalModel
    stream: Any

    @classmethod
    def of(cls, model: LocalModel) -> _Place:
        """A place of its own on the device of a model."""
        if not model.on_gpu:
            return cls(model, None)
        import torch

        return cls(model, torch.cuda.Stream(model.model.device))


def usable_cores() -> int:
    """CPU cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):  # Linux: what this process may use, not what there is
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)
