"""How the local embedder cuts its work: windows, budgets, other tokenizers, too little memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agentcy_ray.core.errors import EmbedderUnavailableError
from agentcy_ray.retrieval import local_embedder
from agentcy_ray.retrieval.embedder import Matrix, matrix_of
from agentcy_ray.retrieval.local_embedder import LocalEmbedder
from agentcy_ray.retrieval.local_model import LocalModel, open_model
from benchmarks.made_model import made_texts

TEXTS = made_texts(150, seed=2, longest=120)


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> LocalModel:
    return open_model(f"local:{tiny_model}", "cpu")


@dataclasses.dataclass(frozen=True)
class Small(LocalModel):
    """A model whose device holds but a few texts at once."""

    most: int = 0

    def run(self, batch: Any, stream: Any = None) -> Matrix:
        if len(batch) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().run(batch, stream)


@dataclasses.dataclass(frozen=True)
class Counting(LocalModel):
    """Notes the texts of each batch that it was given."""

    batches: list[int] = dataclasses.field(default_factory=list)

    def run(self, batch: Any, stream: Any = None) -> Matrix:
        self.batches.append(len(batch))
        return super().run(batch, stream)


@pytest.fixture(scope="module")
def alone(model: LocalModel) -> Matrix:
    """What the model makes of each text by itself."""
    tokens = model.tokens
    assert tokens is not None
    return np.concatenate([model.run([ids]) for ids in tokens.encode(TEXTS)])


@pytest.fixture
def opened() -> Iterator[Any]:
    made: list[LocalEmbedder] = []

    def open_(model: LocalModel, tokens: int = 1_024) -> LocalEmbedder:
        made.append(LocalEmbedder(model, texts=64, tokens=tokens, workers=1))
        return made[-1]

    yield open_
    for embedder in made:
        embedder.close()


def small(model: LocalModel, most: int) -> Small:
    return Small(**fields_of(model), most=most)


def fields_of(model: LocalModel) -> dict[str, Any]:
    return {field.name: getattr(model, field.name) for field in dataclasses.fields(model)}


async def test_windows_and_batches_of_true_lengths_change_no_vector(
    opened: Any, model: LocalModel, alone: Matrix, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_embedder, "CPU_WINDOW", 40)
    embedder = opened(model)
    made = await embedder.embed_metered(TEXTS)
    assert (matrix_of(made.vectors) * alone).sum(axis=1).min() > 0.999
    assert made.usage.tokens == sum(map(len, model.tokens.encode(TEXTS)))
    assert made.usage.gpu_secs == 0.0


async def test_a_model_with_another_tokenizer_tokenises_itself(
    opened: Any, model: LocalModel, alone: Matrix
) -> None:
    embedder = opened(dataclasses.replace(model, tokens=None))
    made = await embedder.embed_metered(TEXTS)
    assert (matrix_of(made.vectors) * alone).sum(axis=1).min() > 0.999
    question = await embedder.embed_metered(["a question"])
    assert question.usage.tokens > 0


async def test_devices_share_the_batches_and_say_the_same(model: LocalModel, alone: Matrix) -> None:
    first, second = (Counting(**fields_of(model)) for _ in range(2))
    embedder = LocalEmbedder(first, texts=8, tokens=1_024, workers=4, others=[second])
    made = await embedder.embed(TEXTS)
    embedder.close()
    assert (matrix_of(made) * alone).sum(axis=1).min() > 0.999
    assert len(first.batches) > 1
    assert len(second.batches) > 1
    assert sum(first.batches) + sum(second.batches) == len(TEXTS)


def test_a_copy_on_another_device_has_the_weights_and_says_the_same(model: LocalModel) -> None:
    assert model.tokens is not None
    copy = model.copied(torch.device("cpu"))
    ids = model.tokens.encode(TEXTS[:8])
    np.testing.assert_array_equal(copy.run(ids), model.run(ids))
    pairs = zip(copy.model.parameters(), model.model.parameters(), strict=True)
    assert all(mine.data_ptr() != theirs.data_ptr() for mine, theirs in pairs)


async def test_a_batch_that_does_not_fit_into_memory_is_halved(
    opened: Any, model: LocalModel, alone: Matrix, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    made = await opened(small(model, 3)).embed(TEXTS)
    assert (matrix_of(made) * alone).sum(axis=1).min() > 0.999


async def test_a_text_that_does_not_fit_alone_is_told(opened: Any, model: LocalModel) -> None:
    with pytest.raises(EmbedderUnavailableError, match="out of memory"):
        await opened(small(model, 0)).embed(["a question"])
