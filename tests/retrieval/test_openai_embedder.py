"""Embedding by an OpenAI-compatible server: a real one, on loopback."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from threading import Lock
from typing import Any

import numpy as np
import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from agentcy_ray.core.errors import EmbedderRefusedError, EmbedderUnavailableError
from agentcy_ray.core.settings import Settings
from agentcy_ray.retrieval import remote_embedder
from agentcy_ray.retrieval.embedder import MeteredEmbedder, matrix_of
from agentcy_ray.retrieval.embedders import load_embedder
from agentcy_ray.retrieval.embeddings_http import EmbeddingsServer
from agentcy_ray.stores.http_post import JsonPoster
from tests.egress import loopback_guard

DIM = 5


class Provider:
    """Gives each text a vector of its length and first letter; counts, and fails as told."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.keys: set[str] = set()
        self.failures: list[Response] = []
        self.numbers = False
        self.busy = self.most_busy = 0
        self._lock = Lock()

    def __call__(self, request: Request) -> Response:
        with self._lock:
            self.busy += 1
            self.most_busy = max(self.most_busy, self.busy)
        try:
            return self._answer(request)
        finally:
            with self._lock:
                self.busy -= 1

    def _answer(self, request: Request) -> Response:
        body = json.loads(request.data)
        self.requests.append(body)
        self.keys.add(request.headers.get("authorization", ""))
        if self.failures:
            return self.failures.pop(0)
        data = [
            {"object": "embedding", "index": i, "embedding": self._encoded(text)}
            for i, text in enumerate(body["input"])
        ]
        usage = {"prompt_tokens": 3 * len(data), "total_tokens": 3 * len(data)}
        answer = {"object": "list", "model": "served-model-v2", "usage": usage}
        return Response(json.dumps({**answer, "data": data[::-1]}), mimetype="application/json")

    def _encoded(self, text: str) -> Any:
        vector = vector_of(text)
        return vector.tolist() if self.numbers else base64.b64encode(vector.tobytes()).decode()


def vector_of(text: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.array([len(text), ord(text[0]), 1, 0, 2], dtype="<f4")


def refusal(status: int, message: str = "no", **headers: str) -> Response:
    body = json.dumps({"error": {"message": message}})
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Response(body, status, named, mimetype="application/json")


@pytest.fixture
def provider(httpserver: HTTPServer) -> Iterator[Provider]:
    found = Provider()
    httpserver.expect_request("/v1/embeddings", method="POST").respond_with_handler(found)
    yield found
    httpserver.clear()


@pytest.fixture
def settings(httpserver: HTTPServer) -> Settings:
    url = httpserver.url_for("/v1")
    return Settings.load({}, embedding_base_url=url, embedding_api_key="key-of-the-server")


async def opened(settings: Settings) -> MeteredEmbedder:
    return await load_embedder("openai_compatible:bge-small", settings)


@pytest.mark.parametrize("numbers", [False, True], ids=["base64", "numbers"])
async def test_vectors_come_in_order_and_of_unit_length_from_many_requests(
    provider: Provider, settings: Settings, numbers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_embedder, "REQUEST_TEXTS", 50)
    provider.numbers = numbers
    embedder = await opened(settings)
    texts = [f"{'abcdefg'[i % 7]}{'x' * (i * 13 % 101)}" for i in range(430)]
    made = await embedder.embed_metered(texts)
    expected = np.stack([vector_of(text) for text in texts])
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(matrix_of(made.vectors), expected, atol=1e-6)
    assert made.usage.tokens == 3 * len(texts)
    assert len(provider.requests) == 1 + 9
    assert 1 <= provider.most_busy <= remote_embedder.IN_FLIGHT
    assert provider.keys == {"Bearer key-of-the-server"}
    assert all(body["encoding_format"] == "base64" for body in provider.requests)
    await embedder.aclose()


async def test_the_identity_is_what_the_server_says_it_runs(
    provider: Provider, settings: Settings
) -> None:
    embedder = await opened(settings)
    assert embedder.info.dim == DIM
    assert embedder.info.revision == "served-model-v2"
    assert embedder.info.signature == "openai_compatible:bge-small@served-model-v2/8191"
    await embedder.aclose()


async def test_a_busy_server_is_asked_again_when_it_said(
    provider: Provider, settings: Settings
) -> None:
    provider.failures = [refusal(429, retry_after="7"), refusal(503), refusal(500)]
    waited: list[float] = []

    async def sleep(secs: float) -> None:
        waited.append(secs)

    server = EmbeddingsServer.of("openai_compatible:m", settings)
    server = EmbeddingsServer("openai_compatible:m", server.poster, sleep=sleep)
    answer = await server.ask({"model": "m", "input": ["a"]})
    assert len(answer["data"]) == 1
    assert waited[0] == 7
    assert len(waited) == 3
    assert len(provider.requests) == 4
    await server.aclose()


async def test_a_server_that_wants_a_long_pause_is_away(
    provider: Provider, settings: Settings
) -> None:
    provider.failures = [refusal(429, retry_after="3600")]
    with pytest.raises(EmbedderUnavailableError, match="answered 429") as away:
        await opened(settings)
    assert away.value.details["wait_secs"] == 3600
    assert len(provider.requests) == 1


@pytest.mark.parametrize(
    ("status", "texts", "said"),
    [(400, True, "leave out"), (401, False, "EMBEDDING_API_KEY"), (404, False, "model's name")],
)
async def test_a_refusal_is_final_and_says_whether_the_texts_are_at_fault(
    provider: Provider, settings: Settings, status: int, texts: bool, said: str
) -> None:
    embedder = await opened(settings)
    provider.failures = [refusal(status, "input 3 is too long")]
    with pytest.raises(EmbedderRefusedError, match=said) as refused:
        await embedder.embed(["one"])
    assert refused.value.details["texts"] is texts
    assert "input 3 is too long" in refused.value.message
    assert "key-of-the-server" not in refused.value.message
    assert len(provider.requests) == 2
    await embedder.aclose()


async def test_another_model_behind_the_same_name_is_noticed(
    provider: Provider, settings: Settings
) -> None:
    embedder = await opened(settings)
    longer = base64.b64encode(np.ones(DIM + 1, "<f4").tobytes()).decode()
    body = {"data": [{"index": 0, "embedding": longer}]}
    provider.failures = [Response(json.dumps(body), mimetype="application/json")]
    with pytest.raises(EmbedderUnavailableError, match="another model"):
        await embedder.embed(["one"])
    await embedder.aclose()


@pytest.mark.parametrize("body", ["<html>", '{"data": [{"index": 0}]}', '{"object": "list"}'])
async def test_what_is_no_embedding_says_to_look_at_the_base_url(
    provider: Provider, settings: Settings, body: str
) -> None:
    provider.failures = [Response(body, mimetype="application/json")]
    with pytest.raises(EmbedderUnavailableError, match="with /v1"):
        await opened(settings)


async def test_a_server_that_is_not_there_is_away(httpserver: HTTPServer) -> None:
    async def sleep(secs: float) -> None:
        pass

    poster = JsonPoster(
        "http://127.0.0.1:9/v1", {}, guard=loopback_guard(), timeout_secs=5, max_bytes=1_000,
        connections=1,
    )  # fmt: skip
    server = EmbeddingsServer("openai_compatible:m", poster, sleep=sleep)
    with pytest.raises(EmbedderUnavailableError, match="did not answer"):
        await server.ask({})
    await server.aclose()


async def test_an_answer_that_is_too_large_is_not_read_to_its_end(httpserver: HTTPServer) -> None:
    httpserver.expect_request("/v1/embeddings").respond_with_data(b" " * 5_000)
    poster = JsonPoster(
        httpserver.url_for("/v1"), {}, guard=loopback_guard(), timeout_secs=5, max_bytes=1_000,
        connections=1,
    )  # fmt: skip
    with pytest.raises(Exception, match="more than 1000 bytes"):
        await poster.post("embeddings", {})
    await poster.aclose()
