"""Builds pydantic-ai models for our provider names. Every import of an SDK is inside a builder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from agentcy_ray.core.errors import ModelError
from agentcy_ray.stores.egress import Egress, proxy_of
from agentcy_ray.stores.http_client import open_http

if TYPE_CHECKING:
    import httpx2
    from pydantic import SecretStr
    from pydantic_ai.models import Model as LibraryModel

    from agentcy_ray.core.settings import Settings


def _reveal(*secrets: SecretStr | None) -> str | None:
    return next((secret.get_secret_value() for secret in secrets if secret is not None), None)


def key_of(settings: Settings, provider: str) -> str | None:
    """The API key of a provider: ``LLM_API_KEY`` for the configured one, else its own variable."""
    own: Mapping[str, SecretStr | None] = {
        "anthropic": settings.anthropic_api_key,
        "openai": settings.openai_api_key,
    }
    general = settings.llm_api_key if provider == configured_provider(settings) else None
    return _reveal(general, own.get(provider))


def base_url_of(settings: Settings, provider: str) -> str | None:
    """``LLM_BASE_URL`` belongs to the configured provider alone; others use their own address."""
    return settings.llm_base_url if provider == configured_provider(settings) else None


def configured_provider(settings: Settings) -> str:
    """``LLM_PROVIDER``; a base URL given without it implies an OpenAI-compatible server."""
    named = "llm_provider" in settings.model_fields_set
    if settings.llm_base_url is not None and not named:
        return "openai_compatible"
    return settings.llm_provider


def available(settings: Settings, provider: str) -> bool:
    """Whether the provider's settings are there; naming it is enough where a role is ambient."""
    if provider in ("anthropic", "openai"):
        return key_of(settings, provider) is not None
    if provider == "openai_compatible":
        return base_url_of(settings, provider) is not None
    named = "llm_provider" in settings.model_fields_set
    if provider == "bedrock":
        return settings.aws_region is not None or (named and settings.llm_provider == "bedrock")
    return settings.vertex_project is not None or (named and settings.llm_provider == "vertex")


_IDLE_SECS = 600.0
"""Without a byte; ``LLM_TIMEOUT_SECS`` bounds the wait for the first token."""
_CONNECTIONS = 1_000


def _client(settings: Settings) -> httpx2.AsyncClient:
    """What the SDKs talk through: the guarded way out, to the host that the settings name."""
    return open_http(
        Egress(settings).guard("operator"),
        idle_secs=_IDLE_SECS,
        connect_secs=5.0,
        connections=_CONNECTIONS,
    )


def _anthropic(settings: Settings, model: str) -> LibraryModel[Any]:
    from pydantic_ai.models.anthropic import AnthropicModel
    from pydantic_ai.providers.anthropic import AnthropicProvider

    return AnthropicModel(
        model,
        provider=AnthropicProvider(
            api_key=key_of(settings, "anthropic"),
            base_url=base_url_of(settings, "anthropic"),
            http_client=_client(settings),
        ),
    )


def _openai(settings: Settings, model: str) -> LibraryModel[Any]:
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    return OpenAIChatModel(
        model,
        provider=OpenAIProvider(
            api_key=key_of(settings, "openai"),
            base_url=base_url_of(settings, "openai"),
            http_client=_client(settings),
        ),
    )


def _openai_compatible(settings: Settings, model: str) -> LibraryModel[Any]:
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai_compatible import OpenAICompatibleProvider

    url = base_url_of(settings, "openai_compatible")
    if url is None:
        raise ModelError("no OpenAI-compatible server is known; set LLM_BASE_URL")
    return OpenAIChatModel(
        model,
        provider=OpenAICompatibleProvider(
            "openai_compatible",
            base_url=url,
            # Ollama and vLLM take any key, and the SDK insists on one.
            api_key=key_of(settings, "openai_compatible") or "unused",
            http_client=_client(settings),
        ),
    )


def _bedrock(settings: Settings, model: str) -> LibraryModel[Any]:
    import boto3
    from botocore.config import Config
    from pydantic_ai.models.bedrock import BedrockConverseModel
    from pydantic_ai.providers.bedrock import BedrockProvider

    # Its own connections, to hosts of AWS or to LLM_BASE_URL; AWS_REGION is the operator's.
    host = base_url_of(settings, "bedrock") or "https://bedrock-runtime.amazonaws.com"
    proxy = proxy_of(settings, host)
    client: Any = boto3.client(  # pyright: ignore[reportUnknownMemberType]
        "bedrock-runtime",
        region_name=settings.aws_region,
        endpoint_url=base_url_of(settings, "bedrock"),
        # Our own retries know what was streamed; two layers of them would multiply.
        config=Config(
            read_timeout=settings.llm_timeout_secs,
            retries={"total_max_attempts": 1},
            proxies={"http": proxy, "https": proxy} if proxy else {},
        ),
    )
    return BedrockConverseModel(model, provider=BedrockProvider(bedrock_client=client))


def _vertex(settings: Settings, model: str) -> LibraryModel[Any]:
    from pydantic_ai.models.google import GoogleModel
    from pydantic_ai.providers.google_cloud import GoogleCloudProvider

    return GoogleModel(
        model,
        provider=GoogleCloudProvider(
            project=settings.vertex_project,
            location=settings.vertex_location,
            base_url=base_url_of(settings, "vertex"),
            http_client=_client(settings),
        ),
    )


TAKES_MAX_RETRIES = frozenset({"anthropic", "openai", "openai_compatible", "local", "vllm"})
"""Providers whose SDK retries by itself unless each request says no."""

BUILDERS: Mapping[str, Callable[[Settings, str], LibraryModel[Any]]] = {
    "anthropic": _anthropic,
    "openai": _openai,
    "openai_compatible": _openai_compatible,
    "bedrock": _bedrock,
    "vertex": _vertex,
}


def build(settings: Settings, provider: str, model: str) -> LibraryModel[Any]:
    """The library's model object. Slow the first time: it loads the provider's SDK.

    Raises:
        ModelError: the provider's key, region, project or URL is missing.
    """
    try:
        return BUILDERS[provider](settings, model)
    except ModelError:
        raise
    except Exception as error:  # the SDKs raise classes of their own for missing settings
        raise ModelError(
            f"model provider {provider!r} cannot be set up: {error}; "
            "check LLM_PROVIDER, LLM_API_KEY and the provider's own settings",
            provider=provider,
        ) from error
