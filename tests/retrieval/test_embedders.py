"""From a reference to an embedder: every kind, and what each refuses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from agentcy_ray.core.errors import (
    EmbedderRefusedError,
    EmbedderUnavailableError,
    InvalidError,
    ModelError,
)
from agentcy_ray.core.settings import Settings
from agentcy_ray.retrieval.batching import batches_of
from agentcy_ray.retrieval.embedder import Matrix, matrix_of, metered, vectors_of
from agentcy_ray.retrieval.embedder_check import embedder_check
from agentcy_ray.retrieval.embedders import load_embedder
from tests.retrieval.chunks import ChosenEmbedder
from tests.tiny_model import DIM

SETTINGS = Settings.load({})


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("all-MiniLM-L6-v2", "no embedding model"),
        ("local:", "no embedding model"),
        ("magic:model", "openai_compatible:<model>"),
        ("vllm:bge", "task: embed"),
        ("openai:text-embedding-3-small", "OPENAI_API_KEY"),
        ("openai_compatible:bge", "EMBEDDING_BASE_URL"),
        ("scripted:dimension=3", "dimension is not known"),
        ("scripted:dim=many", "cannot be read"),
        ("scripted:dim=0", "dim goes from 1"),
    ],
)
async def test_a_reference_that_cannot_be_used_says_what_to_do(reference: str, said: str) -> None:
    with pytest.raises(InvalidError, match=said):
        await load_embedder(reference, SETTINGS)


async def test_scripted_embedders_are_refused_where_demonstrations_are() -> None:
    with pytest.raises(InvalidError, match="AGENTCY_FEATURES_DEMO"):
        await load_embedder("scripted:dim=8", Settings.load({}, agentcy_features_demo=False))


async def test_scripted_texts_that_share_words_are_near_each_other() -> None:
    found = {}
    for seed in (1, 2):
        embedder = await load_embedder(f"scripted:dim=128,seed={seed}", SETTINGS)
        made = await embedder.embed_metered([
            "Pay the bill",
            "pay THE fee",
            "a far walrus",
            "",
            "pay the bill",
        ])
        assert made.usage.tokens == 3 + 3 + 3 + 1 + 3
        matrix = matrix_of(made.vectors)
        np.testing.assert_allclose(np.linalg.norm(matrix, axis=1), 1.0, atol=1e-6)
        assert matrix[0] @ matrix[1] > 0.5 > abs(matrix[0] @ matrix[2]) + 0.2
        assert (matrix[0] == matrix[4]).all()
        found[embedder.info.signature] = matrix
    one, other = found.values()
    assert abs((one[:3] * other[:3]).sum(axis=1)).max() < 0.9  # two models: not to be compared


async def test_a_scripted_embedder_refuses_the_word_that_it_was_told_to() -> None:
    embedder = await load_embedder("scripted:dim=8,fail=poison", SETTINGS)
    with pytest.raises(EmbedderRefusedError) as refused:
        await embedder.embed(["good", "some Poison here"])
    assert refused.value.details["texts"] is True
    assert len(await embedder.embed(["good", "poisonous"])) == 2


async def test_a_folder_is_a_model_with_its_own_length_and_revision(tiny_model: Path) -> None:
    one = await load_embedder(f"local:{tiny_model}", SETTINGS, threads=1)
    assert (one.info.dim, one.info.max_tokens) == (DIM, 256)
    assert one.info.revision
    assert one.info.revision in one.info.signature
    made = await one.embed_metered(["a text", "another text that is longer"])
    assert made.usage.tokens > 2 * 3
    await one.aclose()


async def test_an_embedder_that_counts_nothing_has_its_tokens_guessed() -> None:
    made = await metered(ChosenEmbedder(4)).embed_metered(["four words are here"])
    assert made.usage.tokens == 5


def test_batches_keep_their_budget_and_lose_no_text() -> None:
    lengths = np.random.default_rng(5).integers(1, 500, size=400)
    batches = batches_of(lengths, tokens=2_048, texts=64, multiple=8)
    assert sorted(np.concatenate(batches)) == list(range(400))
    for batch in batches:
        width = -(-lengths[batch].max() // 8) * 8
        assert len(batch) == 1 or (len(batch) * width <= 2_048 and len(batch) <= 64)
    padded = sum(len(batch) * lengths[batch].max() for batch in batches)
    assert padded < 1.05 * lengths.sum()


def test_vectors_are_views_of_a_matrix_and_back() -> None:
    matrix = np.arange(12, dtype=np.float32).reshape(4, 3)
    vectors = vectors_of(matrix)
    assert vectors.slice(1, 2).to_pylist() == [[3, 4, 5], [6, 7, 8]]
    assert np.shares_memory(matrix_of(vectors), matrix)
    assert matrix_of(vectors.slice(1, 2)).tolist() == matrix[1:3].tolist()


@pytest.mark.parametrize(
    ("reference", "ok", "said"),
    [
        ("local:all-MiniLM-L6-v2", True, "needs no network"),
        ("local:org/some-model", True, "model hub"),
        ("local:/nowhere", False, "name its folder"),
        ("openai_compatible:bge", False, "EMBEDDING_BASE_URL"),
        ("vllm:bge", True, "served by this cluster"),
        ("vllm:other", False, "task: embed"),
        ("nothing", False, "no embedding model"),
    ],
)
def test_the_doctor_tells_the_embedder_and_what_it_lacks(
    reference: str, ok: bool, said: str
) -> None:
    check = embedder_check(Settings.load({}, embedding_model=reference), ["bge"])
    assert check.ok is ok
    assert said in (check.found if ok else check.remedy)


async def test_texts_that_a_served_model_refuses_are_told_from_one_that_is_away() -> None:
    class Served:
        status = 400

        async def facts(self, name: str) -> dict[str, object]:
            return {"dim": 2, "max_tokens": 8, "revision": "r"}

        async def embed(self, name: str, texts: Sequence[str]) -> Matrix:
            raise ModelError("the engine says no", status=self.status)

    served = Served()
    embedder = await load_embedder("vllm:bge", SETTINGS, served=served)
    with pytest.raises(EmbedderRefusedError) as refused:
        await embedder.embed(["odd"])
    assert refused.value.details["texts"] is True
    served.status = 500
    with pytest.raises(EmbedderUnavailableError):
        await embedder.embed(["odd"])
