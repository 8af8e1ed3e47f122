"""Vectors by a model of the cluster's own: by handle, and a whole space through ray.data.llm."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from agentcy_ray.cli import patience
from agentcy_ray.retrieval.embedder import matrix_of
from agentcy_ray.retrieval.served_embedder import open_served
from tests.e2e.conftest import Machine
from tests.vllm.conftest import READY_SECS

if TYPE_CHECKING:
    from agentcy_ray.runtime.served_models import ServedModels

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]
MODEL = "vllm:tiny-embed"


@pytest.mark.requirement("EMB-03")
async def test_a_served_model_embeds_with_an_identity_of_its_weights(served: ServedModels) -> None:
    embedder = await open_served(MODEL, "tiny-embed", served)
    assert embedder.info.dim == 128
    assert embedder.info.revision.startswith("tiny@")
    texts = ["retries double", "a pool of connections", "retries double", "x " * 30_000]
    vectors = matrix_of(await embedder.embed(texts))
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-3)
    assert np.allclose(vectors[0], vectors[2], atol=1e-3)
    assert not np.allclose(vectors[0], vectors[1], atol=1e-2)


@pytest.mark.requirement("EMB-03")
async def test_a_space_is_filled_through_ray_data_llm(machine: Machine, repository: Path) -> None:
    machine.agentcy("sources", "add", "code", "git", "--set", f"url={repository}")
    machine.agentcy("sources", "sync", "code")
    words = ("embed", "backfill", "--model", MODEL, "--engine", "ray-data", "--no-follow")
    made = machine.agentcy(*words)["space"]["id"]
    ended = await _ended(machine, made)
    assert ended["backfill"]["status"] == "done", ended
    assert ended["space"]["status"] == "ready"
    assert ended["space"]["embedder"] == MODEL
    assert ended["backfill"]["chunks"] >= 24
    assert not ended["backfill"]["errors"]


async def _ended(machine: Machine, space_id: str) -> dict[str, Any]:
    """The space when its backfill is over; a new engine starts first, which takes minutes."""

    async def over() -> dict[str, Any] | None:
        told = await asyncio.to_thread(machine.agentcy, "embed", "status")
        state = next(one for one in told["spaces"] if one["space"]["id"] == space_id)
        return state if state["backfill"]["status"] in {"done", "failed"} else None

    return await patience.until(over, limit_secs=READY_SECS, every_secs=2)
