"""A model whose turns are counted: how long they take, how soon they begin, what they cost."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from time import perf_counter

from agentcy_ray.core.events import Usage
from agentcy_ray.core.metrics import Metrics
from agentcy_ray.llm.model import (
    Done,
    Model,
    ModelEvent,
    ModelRequest,
    TextDelta,
    ThinkingDelta,
)

MODELS = 100
"""Models with figures of their own; a caller may name any, so the later ones are ``other``."""
_UNBOUND = frozenset({"scripted"})
"""Providers whose models are endless: they share the provider's name."""


class MeteredModel:
    """Another model, counted; a turn that fails has its time too."""

    def __init__(self, model: Model, metrics: Metrics) -> None:
        self._model = model
        self._metrics = metrics
        self._labels = labels_of(model.reference, metrics)

    @property
    def reference(self) -> str:
        """``provider:model``."""
        return self._model.reference

    @property
    def window(self) -> int:
        """Context window in tokens."""
        return self._model.window

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent]:
        """One turn, as ``Model.stream``."""
        began, first = perf_counter(), True
        try:
            async with aclosing(self._model.stream(request)) as events:
                async for event in events:
                    if first and isinstance(event, TextDelta | ThinkingDelta):
                        first = False
                        late = perf_counter() - began
                        self._metrics.first_token_seconds.of(*self._labels).observe(late)
                    elif isinstance(event, Done):
                        self._spent(event.usage)
                    yield event
        finally:
            self._metrics.turn_seconds.of(*self._labels).observe(perf_counter() - began)

    def _spent(self, usage: Usage) -> None:
        tokens, labels = self._metrics.llm_tokens, self._labels
        tokens.of(*labels, "in").inc(usage.in_tokens)
        tokens.of(*labels, "out").inc(usage.out_tokens)
        if usage.cost_usd:
            self._metrics.llm_cost.of(*labels).inc(usage.cost_usd)


def labels_of(reference: str, metrics: Metrics) -> tuple[str, str]:
    """Provider and model, from a set that stays small."""
    provider, _, name = reference.partition(":")
    labels = (provider, provider if provider in _UNBOUND else name)
    known = metrics.turn_seconds.known()
    return labels if labels in known or len(known) < MODELS else (provider, "other")
