"""``embedding_rate``: our embedder against bare ``SentenceTransformer.encode`` on the same texts.

Texts are as long as chunks are: most short, some as long as a chunk may be. Control: float32,
PyTorch's default threads, length-sorted by the library, the best of four batch sizes, found before
the rounds. ``question_beside_bulk_ms`` is a question asked while our embedder works through the
texts, against the same one asked while nothing else is.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time

from sentence_transformers import SentenceTransformer

from agentcy_ray.core.settings import Settings
from agentcy_ray.retrieval.local_embedder import LocalEmbedder
from agentcy_ray.retrieval.local_model import bundled_folder
from benchmarks.figures import Figure, alternate, compared
from benchmarks.fixtures import paragraphs

TEXTS, ROUNDS = 400, 5
BATCHES = (8, 16, 32, 64)
QUESTION = "Which service writes the invoices, and who may change it?"


async def run(size: int = TEXTS) -> list[Figure]:
    """Texts a second of both, in turns, and questions meanwhile."""
    texts = mixed_texts(size)
    model = SentenceTransformer(str(bundled_folder()), device="cpu")
    ours = LocalEmbedder.load(Settings.load({}))
    model.max_seq_length = ours.info.max_tokens
    best = min(BATCHES, key=lambda size: _encode(model, texts[:100], size))
    await ours.embed(texts[:50])
    beside: list[float] = []
    alone: list[float] = []

    async def subject() -> float:
        alone.append(await _ask(ours))
        began = time.perf_counter()
        await ours.embed(texts)
        rate = len(texts) / (time.perf_counter() - began)
        bulk = asyncio.create_task(ours.embed(texts[:200]))
        await asyncio.sleep(0)
        while not bulk.done():
            beside.append(await _ask(ours))
        await bulk
        return rate

    async def control() -> float:
        return len(texts) / await asyncio.to_thread(_encode, model, texts, best)

    values, control_values = await alternate(subject, control, ROUNDS)
    ours.close()
    return [
        compared(
            "embedding_rate", "texts/s", f"SentenceTransformer.encode, batch {best}",
            values, control_values, at_least=1.3,
        ),
        compared(
            "question_beside_bulk_ms", "ms", "the same question alone",
            [statistics.median(beside)], [statistics.median(alone)], at_most=5,
        ),
    ]  # fmt: skip


def mixed_texts(count: int) -> list[str]:
    """Texts as a code base's and a wiki's chunks are: a median of 40 words, a tenth over 150."""
    lengths = random.Random(3)
    return [
        paragraphs(1, words=min(230, 3 + int(lengths.lognormvariate(3.7, 1.0))), seed=i)[0]
        for i in range(count)
    ]


async def _ask(embedder: LocalEmbedder) -> float:
    began = time.perf_counter()
    await embedder.embed([QUESTION])
    return 1000 * (time.perf_counter() - began)


def _encode(model: SentenceTransformer, texts: list[str], size: int) -> float:
    began = time.perf_counter()
    model.encode(texts, batch_size=size, show_progress_bar=False, normalize_embeddings=True)
    return time.perf_counter() - began
