"""The model table: default model, context window and price of each ``provider:model``."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from agentcy_ray.core.errors import ConfigError
from agentcy_ray.core.events import Usage

PRICE_PROVIDERS: Mapping[str, str] = {
    "anthropic": "anthropic",
    "openai": "openai",
    "bedrock": "aws",
    "vertex": "google",
}
"""Our provider names → those of the genai-prices library."""


class ProviderRow(BaseModel):
    """What holds for a provider's models unless a model row says otherwise."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    default: str
    window: int


class ModelRow(BaseModel):
    """What is known of one model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    window: int | None = None
    input_usd_per_million: float | None = None
    output_usd_per_million: float | None = None


class ModelTable(BaseModel):
    """Rows by provider and by ``provider:model``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    providers: dict[str, ProviderRow]
    models: dict[str, ModelRow] = {}

    @classmethod
    def load(cls, extra_file: str | None = None) -> ModelTable:
        """The shipped table, with the rows of ``extra_file`` merged over it.

        Raises:
            ConfigError: the file cannot be read or is not of the table's form.
        """
        data = tomllib.loads(files("agentcy_ray.llm").joinpath("models.toml").read_text())
        if extra_file is not None:
            try:
                data = _merge(data, tomllib.loads(Path(extra_file).read_text()))
            except (OSError, tomllib.TOMLDecodeError) as error:
                raise ConfigError(f"LLM_MODELS_FILE: {extra_file}: {error}") from error
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise ConfigError(f"LLM_MODELS_FILE: {extra_file}: {error}") from error

    def window(self, provider: str, model: str) -> int:
        """Context window in tokens: own row, else the price library, else the provider's row."""
        row = self.models.get(f"{provider}:{model}")
        if row is not None and row.window is not None:
            return row.window
        known = self.providers.get(provider)
        fallback = known.window if known is not None else 32_768
        return _library_window(provider, model) or fallback

    def cost(self, provider: str, model: str, usage: PricedTokens) -> float | None:
        """Price of a call in US dollars; None when the model has no known price."""
        row = self.models.get(f"{provider}:{model}")
        if row is not None and row.input_usd_per_million is not None:
            return (
                usage.input_tokens * row.input_usd_per_million
                + usage.output_tokens * (row.output_usd_per_million or 0.0)
            ) / 1_000_000
        return _library_price(provider, model, usage)


class PricedTokens(BaseModel):
    """Token counts of one call, cache reads and writes included in ``input_tokens``."""

    model_config = ConfigDict(frozen=True)

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0

    def usage(self, cost_usd: float | None, *, estimated: bool = False) -> Usage:
        """The record of the run log."""
        return Usage(
            in_tokens=self.input_tokens,
            out_tokens=self.output_tokens,
            cost_usd=cost_usd,
            estimated=estimated,
        )


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = (
            _merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
        )
    return merged


def _library_price(provider: str, model: str, tokens: PricedTokens) -> float | None:
    from genai_prices import Usage as LibraryUsage
    from genai_prices import calc_price

    library_provider = PRICE_PROVIDERS.get(provider)
    if library_provider is None:
        return None
    usage = LibraryUsage(
        input_tokens=tokens.input_tokens,
        output_tokens=tokens.output_tokens,
        cache_read_tokens=tokens.cache_read_tokens or None,
        cache_write_tokens=tokens.cache_write_tokens or None,
    )
    try:
        return float(calc_price(usage, model, provider_id=library_provider).total_price)
    except LookupError:
        return None


def _library_window(provider: str, model: str) -> int | None:
    from genai_prices.data_snapshot import get_snapshot

    library_provider = PRICE_PROVIDERS.get(provider)
    if library_provider is None:
        return None
    try:
        _, info = get_snapshot().find_provider_model(
            model, provider=None, provider_id=library_provider, provider_api_url=None
        )
    except LookupError:
        return None
    return info.context_window
