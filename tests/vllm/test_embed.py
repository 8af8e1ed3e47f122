"""Vectors by a model of the cluster's own: by handle, and a whole space through ray.data.llm."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

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
def test_a_space_is_filled_through_ray_data_llm(machine: Machine, repository: Path) -> None:
    machine.agentcy("sources", "add", "code", "git", "--set", f"url={repository}")
    machine.agentcy("sources", "sync", "code")
    words = ("embed", "backfill", "--model", MODEL, "--engine", "ray-data", "--no-follow")
    made = machine.agentcy(*words)["space"]["id"]
    ended = _ended(machine, made)
    assert ended["backfill"]["status"] == "done", ended
    assert ended["space"]["status"] == "ready"
    assert ended["space"]["embedder"] == MODEL
    assert ended["backfill"]["chunks"] >= 24
    assert not ended["backfill"]["errors"]


def _ended(machine: Machine, space_id: str) -> dict[str, Any]:
    """The space when its backfill is over; a new engine starts first, which takes minutes."""
    deadline = time.monotonic() + READY_SECS
    state: dict[str, Any] = {}
    while time.monotonic() < deadline:
        spaces = machine.agentcy("embed", "status")["spaces"]
        state = next(one for one in spaces if one["space"]["id"] == space_id)
        if state["backfill"]["status"] in {"done", "failed"}:
            return state
        time.sleep(2)
    raise AssertionError(f"the space is not filled after {READY_SECS} s: {state}")
