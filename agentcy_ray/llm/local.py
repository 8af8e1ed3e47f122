"""Models that this cluster serves itself, behind a protocol that knows nothing of the cluster.

A request travels as the OpenAI chat body that the engine takes, and comes back as the bytes that it
sends. So the provider is the one of every OpenAI-compatible server, over a transport that opens no
connection: there is no port on which the engine could be reached without our gates.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import httpx2

from agentcy_ray.core.errors import ModelError
from agentcy_ray.llm.model import Record

if TYPE_CHECKING:
    from pydantic_ai.models import Model as LibraryModel

LOCAL_PROVIDERS = ("local", "vllm")
"""``vllm:NAME`` is another way to write ``local:NAME``."""
UNKNOWN_WINDOW = 32_768
"""Window of a model whose ``max_model_len`` is not set."""
_ADDRESS = "http://local.invalid/v1"
"""Never resolved: the transport takes every request."""
_NO_KEY = "unused"
_PASSING = frozenset({429, 503})

Task = Literal["chat", "embed"]


class LocalModel(Record):
    """A model of the cluster config."""

    name: str
    task: Task
    window: int = UNKNOWN_WINDOW
    adapters: bool = False
    """Whether ``NAME:ADAPTER`` is one too."""


class LocalState(Record):
    """How a model is, in one word and in one sentence that names the next step."""

    name: str
    task: Task
    state: Literal["ready", "starting", "refused", "failed"]
    message: str = ""


@dataclass(frozen=True)
class LocalAnswer:
    """What the engine answers: an HTTP status, and the body as it comes."""

    status: int
    body: AsyncGenerator[bytes]
    """Server-sent events when the request asked for a stream, else one JSON object. Close it."""


class LocalModels(Protocol):
    """The models of the cluster, from any of its processes."""

    def listed(self) -> tuple[LocalModel, ...]:
        """All of the cluster config, in its order."""
        ...

    async def states(self) -> tuple[LocalState, ...]:
        """How each of them is."""
        ...

    async def complete(self, name: str, body: Mapping[str, Any]) -> LocalAnswer:
        """Send a chat request to ``NAME`` or ``NAME:ADAPTER``; closing the body ends it there.

        Args:
            name: the model.
            body: OpenAI's form of a chat completion; ``model`` in it is replaced.

        Raises:
            ModelUnavailableError: it is not served, still starts, or its replicas were lost; the
                message says why and what to do.
        """
        ...


class NoLocalModels:
    """What stands in where no cluster is."""

    def listed(self) -> tuple[LocalModel, ...]:
        """None."""
        return ()

    async def states(self) -> tuple[LocalState, ...]:
        """None."""
        return ()

    async def complete(self, name: str, body: Mapping[str, Any]) -> LocalAnswer:
        """Refused."""
        raise ModelError(
            f"no model {name!r} is served here; list it under models in the cluster config"
        )


def library_model(models: LocalModels, provider: str, name: str) -> LibraryModel[Any]:
    """The library's OpenAI model over the cluster. Slow the first time: it loads the SDK."""
    from openai import AsyncOpenAI
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai_compatible import OpenAICompatibleProvider

    client = AsyncOpenAI(
        base_url=_ADDRESS,
        api_key=_NO_KEY,
        max_retries=0,
        http_client=httpx2.AsyncClient(transport=_Transport(models, provider, name), timeout=None),
    )
    return OpenAIChatModel(name, provider=OpenAICompatibleProvider("local", openai_client=client))


class _Transport(httpx2.AsyncBaseTransport):
    """Takes the SDK's requests to the cluster instead of to a server."""

    def __init__(self, models: LocalModels, provider: str, name: str) -> None:
        self._models = models
        self._name = name
        self._reference = f"{provider}:{name}"

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        body: dict[str, Any] = json.loads(await request.aread())
        try:
            answer = await self._models.complete(self._name, body)
            if answer.status >= 400 and answer.status not in _PASSING:
                raise await self._refused(answer)
        except ModelError as error:
            # The SDK turns whatever a transport raises into one of its own and keeps the cause,
            # which `faults` finds again.
            raise httpx2.ConnectError(error.message, request=request) from error
        kind = "text/event-stream" if body.get("stream") else "application/json"
        return httpx2.Response(
            answer.status, headers={"content-type": kind}, stream=_Body(answer.body)
        )

    async def _refused(self, answer: LocalAnswer) -> ModelError:
        said = _message(b"".join([part async for part in answer.body]))
        await answer.body.aclose()
        if "context length" in said:
            return ModelError(
                f"the conversation no longer fits the window of {self._reference}; start a new "
                "one, or raise max_model_len in the cluster config",
                model=self._reference,
                status=answer.status,
            )
        return ModelError(
            f"{self._reference} refused the request: {said[:400]}; mend the request, or the "
            "model's engine_args in the cluster config",
            model=self._reference,
            status=answer.status,
        )


class _Body(httpx2.AsyncByteStream):
    """The engine's answer as the SDK reads it; closing it closes the request in the engine."""

    def __init__(self, chunks: AsyncGenerator[bytes]) -> None:
        self._chunks = chunks

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._chunks:
            yield chunk

    async def aclose(self) -> None:
        await self._chunks.aclose()


def _message(body: bytes) -> str:
    """The words of an error body, or the body itself."""
    try:
        error: Any = json.loads(body)["error"]
        return str(error["message"])
    except (ValueError, KeyError, TypeError):
        return body.decode(errors="replace")
