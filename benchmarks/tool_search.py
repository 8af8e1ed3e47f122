"""``tool_search_ms``: finding tools among 2,000 by meaning and letters, in this process.

The catalog is that of an organisation with 100 sources of 20 tools each, over real stores, with the
embedder that ships. ``tool_search_ms`` is a question that was asked before, as agents' mostly are;
``tool_search_new_ms`` one that nobody has asked, and so waits for the model;
``tool_search_letters_ms`` is the lexical half alone.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from agentcy_ray.agent.catalog import Catalog
from agentcy_ray.agent.tool_vectors import ToolVectors
from agentcy_ray.connectors.base import ConnectorSpec, SessionContext
from agentcy_ray.connectors.config import ConnectorConfig, read_config
from agentcy_ray.connectors.registry import Registry
from agentcy_ray.connectors.source_records import NewSource
from agentcy_ray.connectors.sources import SourceStore
from agentcy_ray.core.tools import Effect, ToolSpec
from agentcy_ray.retrieval.local_embedder import LocalEmbedder
from agentcy_ray.stores.bell import Bell
from agentcy_ray.stores.keys.opening import open_vault
from agentcy_ray.stores.redis import open_redis
from benchmarks.figures import Figure, absolute
from benchmarks.fixtures import paragraphs
from benchmarks.stores import Bench, fresh_stores

SOURCES, TOOLS, QUESTIONS, ROUNDS = 100, 20, 200, 5


class _Config(ConnectorConfig):
    number: int = 0


class _Wide:
    """A connector that only offers tools."""

    spec = ConnectorSpec(
        name="wide", title="Wide", description="Many tools.", version="1", config_model=_Config,
        default_realm="development",
    )  # fmt: skip

    def validate(self, config: Mapping[str, Any], context: SessionContext) -> _Config:
        return read_config(_Config, config)

    def tools(self, config: BaseModel) -> list[ToolSpec]:
        assert isinstance(config, _Config)
        texts = paragraphs(TOOLS, words=18, seed=config.number)
        return [
            ToolSpec(
                name="_".join(text.split()[:3]) + f"_{i}", title=text[:30], description=text,
                input_schema={"type": "object"}, effect=Effect.READ,
            )
            for i, text in enumerate(texts)
        ]  # fmt: skip

    async def open(self, config: BaseModel, context: SessionContext) -> Any:
        raise AssertionError("nothing is called here")


async def run() -> list[Figure]:
    """Medians of each round, in milliseconds."""
    async with fresh_stores() as bench:
        redis = await open_redis(bench.endpoints.redis_url, "bench")
        bell = Bell(redis)
        embedder = await asyncio.to_thread(LocalEmbedder.load, bench.settings)
        catalog = await _catalog(bench, bell, ToolVectors(embedder, bench.db))
        letters = await _catalog(bench, bell, None)
        try:
            return await _measure(bench, catalog, letters)
        finally:
            await catalog.close()
            await letters.close()
            embedder.close()
            await bell.aclose()
            await redis.aclose()


async def _catalog(bench: Bench, bell: Bell, vectors: ToolVectors | None) -> Catalog:
    vault = open_vault(bench.settings)
    sources = SourceStore(bench.db, vault, Registry([_Wide()], bench.settings), bell)
    if not await sources.list(bench.owner.org_id, limit=1):
        for number in range(SOURCES):
            new = NewSource(
                name=f"wide{number}", connector="wide", config={"number": number}, retention_days=30
            )
            await sources.create(bench.owner, new)
    return Catalog(sources, bell, (), vectors)


async def _measure(bench: Bench, catalog: Catalog, letters: Catalog) -> list[Figure]:
    rng = random.Random(3)
    words = sorted({word for text in paragraphs(50) for word in text.split()})
    asked = [" ".join(rng.sample(words, rng.randint(3, 9))) for _ in range(QUESTIONS)]

    async def ask(where: Catalog, question: str) -> float:
        began = time.perf_counter()
        found = await where.search(bench.owner, question)
        took = (time.perf_counter() - began) * 1000
        assert len(found) == 8
        return took

    began = time.perf_counter()
    assert len(await catalog.entries(bench.owner)) == SOURCES * TOOLS
    await ask(catalog, "warm")
    await catalog.settled()
    embedding = time.perf_counter() - began
    new = [await ask(catalog, question) for question in asked]
    known: list[float] = []
    lexical: list[float] = []
    for _ in range(ROUNDS):
        known.append(_median([await ask(catalog, question) for question in asked]))
        lexical.append(_median([await ask(letters, question) for question in asked]))
    return [
        absolute("tool_search_ms", "ms", known, at_most=5),
        absolute("tool_search_letters_ms", "ms", lexical, at_most=5),
        absolute("tool_search_new_ms", "ms", new),
        absolute("tool_embedding_once_s", "s", [embedding]),
    ]


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]
