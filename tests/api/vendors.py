"""The vendors' own clients, pointed at the platform."""

from __future__ import annotations

from typing import Any

import anthropic
import openai

from agentcy_ray.llm.scripted import scripted_reference
from tests.api.platform import Platform

ANSWER = "The gateway retries three times and then gives up."
PLAIN = scripted_reference(text=ANSWER)
WEATHER = scripted_reference(
    tools="get_weather", args={"get_weather": {"city": "Bern"}}, text="It is sunny in Bern."
)
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


async def token_of(platform: Platform, who: str) -> str:
    return (await platform.as_(who)).headers["authorization"].removeprefix("Bearer ")


async def openai_as(platform: Platform, who: str, **how: Any) -> openai.AsyncOpenAI:
    token = await token_of(platform, who)
    how = {"api_key": token, "max_retries": 0, **how}
    return openai.AsyncOpenAI(base_url=f"{platform.url}/v1", **how)


async def anthropic_as(platform: Platform, who: str, **how: Any) -> anthropic.AsyncAnthropic:
    token = await token_of(platform, who)
    how = {"api_key": token, "max_retries": 0, **how}
    return anthropic.AsyncAnthropic(base_url=platform.url, **how)


async def agent(platform: Platform, name: str, model: str, **more: Any) -> str:
    """Make an agent that speaks by ``model``; its name among the models."""
    owner = await platform.as_("owner")
    made = await owner.post("/agents", json={"name": name, "model": model, **more})
    assert made.status_code == 201, made.text
    return f"agent:{name}"
