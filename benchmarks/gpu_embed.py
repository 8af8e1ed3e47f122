"""``gpu_embed``: tokens a second of the shipped embedder on one GPU, against plain ``encode``.

    python benchmarks/gpu_embed.py [--model FOLDER_OR_NAME] [--texts N] [--json FILE]

Needs this repository's files and nothing installed but torch, transformers, sentence-transformers
and pyarrow. Both sides embed the same texts, in turns, with the same weights: without ``--model`` a
model is made on the spot, with random weights, in the shape of a common one; its speed is that of
the real one. Control: ``SentenceTransformer.encode``, which sorts by length itself, as it comes and
in the half precision that ours runs in, each at its best of four batch sizes. How busy the GPU was
is sampled while each side works.

Exits with 0 when the goals are met, 1 when not, 2 where there is no GPU.
"""

# ruff: noqa: E402
from __future__ import annotations

import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]
if sys.path[0] == str(_ROOT / "benchmarks"):  # run as a file: names here would hide Python's own
    sys.path[0] = str(_ROOT)

import argparse
import asyncio
import json
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from benchmarks.figures import Figure, absolute, compared
from benchmarks.made_model import BASE, MINILM, Shape, made_texts, make_model

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

SHAPES: dict[str, Shape] = {"minilm": MINILM, "base": BASE}
BATCHES = (32, 128, 512, 1_024)
TEXTS, ROUNDS = 20_000, 3
GOAL, LEAST_COSINE = 1.5, 0.999
SAMPLE_SECS = 0.05
NO_GPU = (
    "torch sees no GPU here. Run this on a machine with one, with a build of torch for it "
    "(pip install torch transformers sentence-transformers pyarrow), or say --device cpu to see "
    "that it works."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and report; see the module for the exit codes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--model", help="folder or hub name; left out = one made on the spot")
    parser.add_argument("--shape", choices=SHAPES, default="minilm", help="of the one made")
    parser.add_argument("--texts", type=int, default=TEXTS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not _has_gpu():
        print(NO_GPU, file=sys.stderr)
        return 2
    figures = asyncio.run(
        run(
            options.texts, model=options.model, shape=SHAPES[options.shape],
            rounds=options.rounds, device=options.device,
        )
    )  # fmt: skip
    rows = [figure.row() | {"device": _device(options.device)} for figure in figures]
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2, ensure_ascii=False) + "\n")
    for row in rows:
        print(json.dumps(row, ensure_ascii=False))
    missed = [figure.figure for figure in figures if not figure.met]
    return 1 if missed and options.device == "cuda" else 0  # a CPU shows that it works, no more


async def run(
    size: int = TEXTS,
    *,
    model: str | None = None,
    shape: Shape = MINILM,
    rounds: int = ROUNDS,
    device: str = "cuda",
) -> list[Figure]:
    """Both sides in turns.

    Args:
        size: texts.
        model: its name or folder; None = one made on the spot.
        shape: of the one made.
        rounds: times that each side embeds all texts.
        device: ``cuda`` or ``cpu``.
    """
    if device == "cuda" and not _has_gpu():
        raise SystemExit(NO_GPU)
    with tempfile.TemporaryDirectory() as folder:
        name = model or str(make_model(Path(folder) / "made", shape))
        return await _measure(name, made_texts(size, longest=300), rounds, device)


async def _measure(name: str, texts: list[str], rounds: int, device: str) -> list[Figure]:
    from agentcy_ray.retrieval.embedder import matrix_of
    from agentcy_ray.retrieval.local_embedder import LocalEmbedder

    ours = LocalEmbedder.open(f"local:{name}", device="cuda" if device == "cuda" else "cpu")
    plain = {"as it comes": _bare(name, device, ours.info.max_tokens)}
    if device == "cuda":
        plain["in half precision"] = _bare(name, device, ours.info.max_tokens).to(_half())
    batches = {side: _best_batch(each, texts) for side, each in plain.items()}
    await ours.embed(texts[: max(64, len(texts) // 20)])  # kernels are chosen at their first use

    seconds: dict[str, list[float]] = {side: [] for side in ("ours", *plain)}
    busy: dict[str, list[float]] = {side: [] for side in seconds}
    made = await ours.embed_metered(texts[:1])
    for _ in range(rounds):
        for side, each in plain.items():
            with Watch(device) as watch:
                await asyncio.to_thread(_encode, each, texts, batches[side])
            seconds[side].append(watch.seconds)
            busy[side] += watch.shares
        with Watch(device) as watch:
            made = await ours.embed_metered(texts)
        seconds["ours"].append(watch.seconds)
        busy["ours"] += watch.shares
    first = await asyncio.to_thread(_encode, plain["as it comes"], texts[:256], 32)
    cosines = (matrix_of(made.vectors)[:256] * first).sum(axis=1)
    ours.close()

    rates = {side: [made.usage.tokens / one for one in each] for side, each in seconds.items()}
    figures = [
        compared(
            "gpu_embed" if side == "as it comes" else "gpu_embed_vs_half", "tokens/s",
            f"SentenceTransformer.encode {side}, batch {batches[side]}",
            rates["ours"], rates[side], at_least=GOAL if side == "as it comes" else None,
        )
        for side in plain
    ]  # fmt: skip
    figures += [
        compared("gpu_busy", "share", f"encode {side}", busy["ours"], busy[side])
        for side in plain
        if busy["ours"] and busy[side]
    ]
    apart = [1.0 - float(one) for one in cosines]
    figures.append(absolute("gpu_embed_cosine_lost", "", [max(apart)], at_most=1 - LEAST_COSINE))
    return figures


class Watch:
    """Times a block, and samples how busy the GPU is meanwhile: ``shares`` in 0..1."""

    def __init__(self, device: str) -> None:
        self.seconds = 0.0
        self.shares: list[float] = []
        self._gpu = device == "cuda"
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Watch:
        if self._gpu:
            self._thread.start()
        self._began = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._began
        self._end.set()
        if self._gpu:
            self._thread.join()

    def _sample(self) -> None:
        read = _reader()
        while read is not None and not self._end.wait(SAMPLE_SECS):
            self.shares.append(read())


def _reader() -> Callable[[], float] | None:
    """What reads the share of time in which kernels ran: NVML, else the vendor's tool."""
    import torch

    try:
        torch.cuda.utilization()
    except (ImportError, RuntimeError):  # its binding is a package of its own
        tool = shutil.which("nvidia-smi")
    else:
        return lambda: torch.cuda.utilization() / 100
    if tool is None:
        return None
    asked = [tool, "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-i", "0"]

    def ask() -> float:
        told = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=10)
        return float(told.stdout.split()[0]) / 100

    return ask


def _bare(name: str, device: str, longest: int) -> SentenceTransformer:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(name, device=device)
    model.max_seq_length = longest
    return model


def _best_batch(model: SentenceTransformer, texts: list[str]) -> int:
    sample = texts[: max(64, len(texts) // 20)]
    _encode(model, sample, BATCHES[0])

    def cost(size: int) -> float:
        began = time.perf_counter()
        _encode(model, sample, size)
        return time.perf_counter() - began

    return min((size for size in BATCHES if size <= len(sample)), key=cost)


def _encode(model: SentenceTransformer, texts: list[str], size: int) -> Any:
    return model.encode(texts, batch_size=size, show_progress_bar=False, normalize_embeddings=True)


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _half() -> Any:
    import torch

    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


def _device(device: str) -> str:
    import torch

    where = torch.cuda.get_device_name(0) if device == "cuda" else "CPU"
    return f"{where}, torch {torch.__version__}"


if __name__ == "__main__":
    raise SystemExit(main())
