"""Asking an embeddings server over HTTP: keys, repeats, and what its refusals mean."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import orjson

from agentcy_ray.core.errors import (
    EmbedderRefusedError,
    EmbedderUnavailableError,
    InvalidError,
    StoreUnavailableError,
)
from agentcy_ray.core.settings import Settings
from agentcy_ray.retrieval.remote_embedder import ABOUT_TEXTS, IN_FLIGHT
from agentcy_ray.stores.egress import Egress
from agentcy_ray.stores.http_post import Answer, JsonPoster

OPENAI_URL = "https://api.openai.com/v1"
ATTEMPTS = 6
LONGEST_WAIT_SECS = 60.0
"""A server that asks for a longer pause than this is away for the caller to deal with."""
_FIRST_WAIT_SECS = 0.5
_MAX_BYTES = 64 * 1024 * 1024
Sleep = Callable[[float], Awaitable[None]]


class EmbeddingsServer:
    """One server. Repeats what may succeed later, never sooner than it was asked to."""

    def __init__(self, reference: str, poster: JsonPoster, *, sleep: Sleep = asyncio.sleep) -> None:
        self._reference = reference
        self.poster = poster
        self._sleep = sleep

    @classmethod
    def of(cls, reference: str, settings: Settings) -> EmbeddingsServer:
        """The server of an ``openai:`` or ``openai_compatible:`` reference.

        Raises:
            InvalidError: a base URL or a key is not set.
            ConfigError: the base URL may not be asked.
        """
        url, key = server_of(reference, settings)
        poster = JsonPoster(
            url,
            {"authorization": f"Bearer {key}"} if key else {},
            guard=Egress(settings).guard("operator"),
            timeout_secs=settings.llm_timeout_secs,
            max_bytes=_MAX_BYTES,
            connections=IN_FLIGHT,
        )
        return cls(reference, poster)

    async def ask(self, body: dict[str, Any]) -> dict[str, Any]:
        """The answer to ``POST embeddings``.

        Raises:
            EmbedderUnavailableError: no answer after all attempts.
            EmbedderRefusedError: the server will not, however often it is asked.
        """
        for attempt in range(ATTEMPTS):
            wait = _FIRST_WAIT_SECS * 2**attempt * random.uniform(0.75, 1.25)
            try:
                answer = await self.poster.post("embeddings", body)
            except StoreUnavailableError as error:
                problem, cause = error.message, error
            else:
                if answer.status < 300:
                    return self._read(answer)
                problem, cause = self._problem(answer), None
                if answer.retry_after_secs is not None:
                    wait = answer.retry_after_secs
            if attempt == ATTEMPTS - 1 or wait > LONGEST_WAIT_SECS:
                raise EmbedderUnavailableError(
                    f"{self._reference}: {problem}", reference=self._reference, wait_secs=wait
                ) from cause
            await self._sleep(wait)
        raise AssertionError("unreachable")

    async def aclose(self) -> None:
        """Close the connections."""
        await self.poster.aclose()

    def _read(self, answer: Answer) -> dict[str, Any]:
        try:
            read = orjson.loads(answer.body)
        except orjson.JSONDecodeError:
            read = None
        if not isinstance(read, dict):
            raise EmbedderUnavailableError(
                f"{self._reference} answered no JSON object; is its base URL that of an "
                "OpenAI-compatible server, with /v1?",
                reference=self._reference,
            )
        return read  # pyright: ignore[reportUnknownVariableType]

    def _problem(self, answer: Answer) -> str:
        """What the server said, where it may say otherwise later.

        Raises:
            EmbedderRefusedError: it will not.
        """
        said = _said(answer.body)
        if answer.status in {408, 409, 425, 429} or answer.status >= 500:
            return f"the server answered {answer.status}{said}; it was asked again, try later"
        way_out = {
            401: "check EMBEDDING_API_KEY, or the key of the language model that it defaults to",
            403: "the key may not embed; choose another key or model",
            404: "check the model's name and the base URL, which ends in /v1",
        }.get(answer.status, "leave out the texts that it cannot take")
        raise EmbedderRefusedError(
            f"{self._reference}: the server answered {answer.status}{said}; {way_out}",
            reference=self._reference,
            status=answer.status,
            texts=answer.status in ABOUT_TEXTS,
        )


def server_of(reference: str, settings: Settings) -> tuple[str, str | None]:
    """Base URL of an ``openai:`` or ``openai_compatible:`` model's server, and the key for it.

    Raises:
        InvalidError: one is not set.
    """
    return _openai(settings) if reference.startswith("openai:") else _compatible(settings)


def _openai(settings: Settings) -> tuple[str, str]:
    keys = [settings.openai_api_key]
    keys += [settings.llm_api_key] if settings.llm_provider == "openai" else []
    keys += [settings.embedding_api_key] if settings.embedding_base_url is None else []
    key = next((key for key in keys if key is not None), None)
    if key is None:
        raise InvalidError("openai: embedders need a key; set OPENAI_API_KEY")
    return OPENAI_URL, key.get_secret_value()


def _compatible(settings: Settings) -> tuple[str, str | None]:
    """URL and key: a key is sent nowhere but to the server that it was set for."""
    key = settings.embedding_api_key
    url = settings.embedding_base_url
    if url is None:
        url, key = settings.llm_base_url, key or settings.llm_api_key
    if url is None:
        raise InvalidError(
            "openai_compatible: embedders need a server; set EMBEDDING_BASE_URL, for example "
            "http://127.0.0.1:11434/v1"
        )
    return url, key.get_secret_value() if key is not None else None


def _said(body: bytes) -> str:
    """What an error says, in brackets, without the texts that some servers repeat in it."""
    try:
        error: Any = orjson.loads(body)["error"]
        text = error["message"] if isinstance(error, dict) else error
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return ""
    return f" ({str(text)[:200]})"
