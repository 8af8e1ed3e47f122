"""Turns of models, counted."""

from __future__ import annotations

import pytest

from agentcy_ray.core.errors import ModelError
from agentcy_ray.core.metrics import Metrics
from agentcy_ray.core.settings import Settings
from agentcy_ray.llm.metered import MODELS, labels_of
from agentcy_ray.llm.model import Message, ModelRequest
from agentcy_ray.llm.registry import Models

ASK = ModelRequest(system="", messages=(Message.say("user", "Go."),))


async def turn(metrics: Metrics, reference: str) -> None:
    model = Models(Settings.load({}), metrics).resolve(reference)
    assert model.reference == reference
    assert model.window > 0
    async for _ in model.stream(ASK):
        pass


def shown(metrics: Metrics, name: str) -> dict[str, float]:
    lines = metrics.text(metrics.read()).splitlines()
    found = dict(line.rsplit(" ", 1) for line in lines if line.startswith(f"{name}{{"))
    return {labels.removeprefix(name): float(value) for labels, value in found.items()}


async def test_a_turn_shows_its_time_its_first_token_and_its_tokens() -> None:
    metrics = Metrics()
    for _ in range(2):
        await turn(metrics, "scripted:tokens=20")
    labels = '{provider="scripted",model="scripted"}'
    assert shown(metrics, "agentcy_turn_seconds_count") == {labels: 2}
    assert shown(metrics, "agentcy_first_token_seconds_count") == {labels: 2}
    tokens = shown(metrics, "agentcy_llm_tokens_total")
    assert all(count > 0 for count in tokens.values())
    assert {labels.rpartition("=")[2] for labels in tokens} == {'"in"}', '"out"}'}


async def test_a_turn_that_fails_has_its_time_and_no_tokens() -> None:
    metrics = Metrics()
    with pytest.raises(ModelError):
        await turn(metrics, "scripted:tokens=20,fail=0")
    assert len(shown(metrics, "agentcy_turn_seconds_count")) == 1
    assert shown(metrics, "agentcy_llm_tokens_total") == {}


def test_names_that_callers_make_up_do_not_grow_without_end() -> None:
    metrics = Metrics()
    for number in range(MODELS + 50):
        metrics.turn_seconds.of(*labels_of(f"openai:made-up-{number}", metrics))
    assert len(metrics.turn_seconds.known()) == MODELS + 1
    assert labels_of("openai:made-up-3", metrics) == ("openai", "made-up-3")
    assert labels_of("openai:another", metrics) == ("openai", "other")
