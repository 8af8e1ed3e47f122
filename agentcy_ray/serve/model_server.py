"""A replica of a model: Ray Serve LLM's server behind three methods, reached by handle only.

vLLM is loaded by the replica, never by who builds the application or calls it: requests and answers
cross as plain data.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from agentcy_ray.core.errors import ModelError
from agentcy_ray.retrieval.embedder import Matrix

_WHOLE = 16 * 2**20
"""Files up to this many bytes are hashed whole; of weights it is the head, which lists tensors."""


class ModelServer:
    """Deployment class."""

    async def __init__(self, config: dict[str, Any]) -> None:  # pyright: ignore[reportGeneralTypeIssues]
        """Load the model; Serve waits for it.

        Args:
            config: arguments of ``ray.serve.llm.LLMConfig``.
        """
        from ray.serve.llm import LLMConfig
        from ray.serve.llm.deployment import LLMServer

        self._config: Any = LLMConfig(**config)
        self._server: Any = LLMServer.sync_init(self._config)
        self._open = 0
        await self._server.start()

    async def complete(self, body: dict[str, Any]) -> AsyncGenerator[Any]:
        """A chat completion: its HTTP status, then the bytes of its body.

        A caller who cancels ends the request in the engine: the generators are closed in turn, and
        the engine drops a request whose reader is gone.
        """
        from pydantic import ValidationError
        from ray.serve.llm.openai_api_models import ChatCompletionRequest

        try:
            request: Any = ChatCompletionRequest(**body)
        except ValidationError as error:
            fault = error.errors(include_url=False, include_input=False, include_context=False)[0]
            yield 400
            yield _error(400, f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}")
            return
        self._open += 1
        try:
            async with aclosing(await self._server.chat(request)) as answers:
                first = True
                async for answer in answers:
                    blocks = answer if isinstance(answer, list) else [answer]
                    status, data = _wire(blocks)
                    if first:
                        first = False
                        yield status
                    yield data
        finally:
            self._open -= 1

    async def embed(self, texts: list[str]) -> Matrix:
        """Vectors of ``texts``, shape (texts, dim), rows of unit length.

        Raises:
            ModelError: the engine refused them.
        """
        from pydantic import TypeAdapter
        from ray.serve.llm.openai_api_models import EmbeddingRequest

        request: Any = TypeAdapter(EmbeddingRequest).validate_python({
            "model": self._config.model_id,
            "input": texts,
            "truncate_prompt_tokens": -1,
        })
        async with aclosing(await self._server.embeddings(request)) as answers:
            answer: Any = await anext(answers)
        error = getattr(answer, "error", None)
        if error is not None:
            raise ModelError(
                f"{self._config.model_id} did not embed: {error.message}", status=_status(error)
            )
        rows = np.asarray([one.embedding for one in answer.data], dtype=np.float32)
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        return np.divide(rows, np.maximum(lengths, 1e-12), dtype=np.float32)

    async def facts(self) -> dict[str, Any]:
        """Dimension and window of an embedding model, and which weights it has."""
        dim = (await self.embed(["dimension"])).shape[1]
        loading = self._config.model_loading_config
        source = str(loading.model_source)
        revision = self._config.engine_kwargs.get("revision") or "main"
        revision = await asyncio.to_thread(_digest, Path(source)) or revision
        client: Any = self._server.engine._engine_client
        return {
            "dim": dim,
            "max_tokens": int(client.model_config.max_model_len),
            "revision": f"{source.rsplit('/', 1)[-1]}@{revision}",
        }

    async def busy(self) -> dict[str, int]:
        """Requests that callers hold open, and those that the engine works on."""
        client: Any = self._server.engine._engine_client
        return {
            "open": self._open,
            "engine": int(client.output_processor.get_num_unfinished_requests()),
        }

    async def check_health(self) -> None:
        """Fail when the engine is dead; Serve then replaces this replica."""
        await self._server.check_health()

    async def __call__(self) -> str:
        """A deployment must be callable; nothing is answered here."""
        return "models are reached through the API"

    async def __del__(self) -> None:
        """Stop the engine's processes."""
        server = getattr(self, "_server", None)
        if server is not None and server.engine is not None:
            await server.engine.shutdown()


def deployment_options(config: dict[str, Any]) -> dict[str, Any]:
    """Options of the deployment as Ray Serve LLM works them out. Loads vLLM: run it as a task.

    Raises:
        ImportError: vLLM is not installed.
        ValueError: an argument of the engine is unknown or wrong.
    """
    from ray.serve.llm import LLMConfig
    from ray.serve.llm.deployment import LLMServer

    options: dict[str, Any] = LLMServer.get_deployment_options(LLMConfig(**config))
    return options


def _wire(blocks: list[Any]) -> tuple[int, bytes]:
    """Status and bytes of what the server gave at once: event lines, or one object."""
    parts: list[bytes] = []
    status = 200
    for block in blocks:
        if isinstance(block, str):
            parts.append(block.encode())
            continue
        error = getattr(block, "error", None)
        if error is None:
            parts.append(block.model_dump_json().encode())
            continue
        status = _status(error)
        parts.append(_error(status, str(error.message)))
    return status, b"".join(parts)


def _status(error: Any) -> int:
    """HTTP status of what the server answers as an error."""
    return int(error.code) if str(error.code).isdigit() else 500


def _error(status: int, message: str) -> bytes:
    return json.dumps({"error": {"message": message, "code": status}}).encode()


def _digest(folder: Path) -> str | None:
    """Which weights lie in a folder: names, sizes and beginnings of its files; None: no folder."""
    if not folder.is_dir():
        return None
    digest = blake2b(digest_size=8)
    for path in sorted(folder.rglob("*")):
        if not path.is_file():
            continue
        digest.update(f"{path.relative_to(folder)}:{path.stat().st_size}".encode())
        with path.open("rb") as file:
            digest.update(file.read(_WHOLE))
    return digest.hexdigest()
