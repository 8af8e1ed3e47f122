"""Models by deployment handle on a real Serve; an engine that does as told stands for vLLM."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import Any

import numpy as np
import pytest

from agentcy_ray.core.errors import ModelError, ModelUnavailableError
from agentcy_ray.runtime.cluster_config import ClusterConfig
from agentcy_ray.runtime.llm_config import DEPLOYMENT, application_name
from agentcy_ray.runtime.served_models import ServedModels

CONFIG = ClusterConfig.model_validate({
    "models": [
        {"name": "m", "hf_id": "a/b", "device": "cpu"},
        {"name": "absent", "hf_id": "a/b", "tensor_parallel": 4},
    ]
})


class Engine:
    """The methods of ``ModelServer``."""

    def __init__(self) -> None:
        self._open = 0

    async def complete(self, body: dict[str, Any]) -> AsyncGenerator[Any]:
        self._open += 1
        try:
            yield 200
            yield f"data: {body['model']}\n\n".encode()
            if body.get("fail"):
                raise ValueError("the engine is dead")
            if body.get("endless"):
                await asyncio.Event().wait()
        finally:
            self._open -= 1

    async def embed(self, texts: list[str]) -> Any:
        return np.ones((len(texts), 2), dtype=np.float32)

    async def busy(self) -> int:
        return self._open

    async def __call__(self) -> str:
        return ""


@pytest.fixture(scope="module")
def served(ray_cluster: None) -> Iterator[ServedModels]:
    """One model of the two is served; Serve itself listens nowhere."""
    from ray import serve

    serve.start(proxy_location="Disabled")
    deployment: Any = serve.deployment(
        Engine, name=DEPLOYMENT, ray_actor_options={"num_cpus": 0}, max_ongoing_requests=10
    )
    serve.run(deployment.bind(), name=application_name(CONFIG.models[0]), route_prefix=None)
    yield ServedModels(CONFIG.models)
    serve.shutdown()


async def test_an_answer_comes_in_pieces_and_vectors_as_a_matrix(served: ServedModels) -> None:
    answer = await served.complete("m", {"messages": []})
    assert answer.status == 200
    assert [piece async for piece in answer.body] == [b"data: m\n\n"]
    assert (await served.embed("m", ["a", "b"])).shape == (2, 2)


async def test_a_reader_who_leaves_ends_the_request_in_the_replica(served: ServedModels) -> None:
    from ray import serve

    handle: Any = await asyncio.to_thread(serve.get_app_handle, application_name(CONFIG.models[0]))
    answer = await served.complete("m", {"endless": True})
    async with aclosing(answer.body) as body:
        assert await anext(body)
        assert await handle.busy.remote() == 1
    async with asyncio.timeout(60):
        while await handle.busy.remote():
            await asyncio.sleep(0)


async def test_a_failure_of_the_engine_is_one_of_ours(served: ServedModels) -> None:
    answer = await served.complete("m", {"fail": True})
    with pytest.raises(ModelError, match="the engine is dead"):
        [piece async for piece in answer.body]


async def test_a_model_that_is_not_served_says_why(served: ServedModels) -> None:
    states = {one.name: one for one in await served.states()}
    assert states["m"].state == "ready"
    assert states["absent"].state == "refused"
    for name, reason in (("absent", "is refused: "), ("unknown", "there are: m, absent")):
        with pytest.raises(ModelError, match=reason):
            await served.complete(name, {})
    with pytest.raises(ModelUnavailableError):
        await served.embed("absent", ["a"])
