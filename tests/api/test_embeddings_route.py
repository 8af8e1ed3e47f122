"""``POST /v1/embeddings``, by OpenAI's own client."""

from __future__ import annotations

from typing import Any

import numpy as np
import openai
import pytest

from agentcy_ray.retrieval.embedder import matrix_of
from tests.api.platform import Platform
from tests.api.vendors import openai_as

MODEL = "local:all-MiniLM-L6-v2"
TEXTS = ["How does the gateway retry?", "A recipe for bread."]


async def test_vectors_are_those_of_the_embedder_in_either_encoding(platform: Platform) -> None:
    client = await openai_as(platform, "viewer")
    embedder = await platform.services.embedders.of(MODEL)
    expected = matrix_of(await embedder.embed(TEXTS))
    plain = await client.embeddings.create(model=MODEL, input=TEXTS, encoding_format="float")
    packed = await client.embeddings.create(model=MODEL, input=TEXTS, dimensions=384)
    for answer in (plain, packed):
        assert [entry.index for entry in answer.data] == [0, 1]
        found = np.array([entry.embedding for entry in answer.data], np.float32)
        assert np.abs(found - expected).max() < 1e-5
        assert answer.usage.prompt_tokens == answer.usage.total_tokens > 0
    one = await client.embeddings.create(model=MODEL, input=TEXTS[0])
    assert len(one.data) == 1


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"input": [1, 2, 3]}, "input"),
        ({"input": [[1, 2], [3]]}, "input"),
        ({"input": []}, "input"),
        ({"input": {"text": "x"}}, "input"),
        ({"input": ["x"] * 257}, "input"),
        ({"input": ["x", " "]}, "input.1"),
        ({"dimensions": 100}, "dimensions"),
    ],
)
async def test_what_has_no_vector_is_a_bad_request(
    platform: Platform, change: dict[str, Any], param: str
) -> None:
    client = await openai_as(platform, "member")
    with pytest.raises(openai.BadRequestError) as refused:
        await client.embeddings.create(**{"model": MODEL, "input": TEXTS, **change})
    assert refused.value.param == param


async def test_nobody_makes_the_platform_load_a_model_that_is_not_in_use(
    platform: Platform,
) -> None:
    client = await openai_as(platform, "owner")
    for model in ("local:all-mpnet-base-v2", "agent:default", "text-embedding-3-small"):
        with pytest.raises(openai.NotFoundError) as absent:
            await client.embeddings.create(model=model, input=TEXTS)
        assert absent.value.code == "model_not_found"
