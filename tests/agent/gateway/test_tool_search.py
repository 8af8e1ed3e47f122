import asyncio
from collections.abc import Sequence

import numpy as np
import pytest

from agentcy_ray.agent.tool_search import ToolGroup, ToolSearch
from agentcy_ray.agent.tool_vectors import ToolVectors
from agentcy_ray.core.errors import EmbedderUnavailableError
from agentcy_ray.core.tools import CatalogEntry, Effect, ToolSpec
from agentcy_ray.retrieval.embedder import EmbedderInfo, Vectors, vectors_of

MEANINGS = {"cat": 0, "feline": 0, "dog": 1, "hound": 1, "ship": 2, "vessel": 2}


class Embedder:
    """Knows a few words and their meanings; keeps what it was asked, and waits when told to."""

    info = EmbedderInfo("test:words", "test/1", 4, 64)

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.go = asyncio.Event()
        self.go.set()
        self.away = False

    async def embed(self, texts: Sequence[str]) -> Vectors:
        await self.go.wait()
        if self.away:
            raise EmbedderUnavailableError("the model is away")
        self.asked += texts
        vectors = np.zeros((len(texts), 4), np.float32)
        for row, text in enumerate(texts):
            meant = [MEANINGS[word] for word in text.split() if word in MEANINGS]
            vectors[row, meant[0] if meant else 3] = 1.0
        return vectors_of(vectors)


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine is no late model."""
    monkeypatch.setattr("agentcy_ray.agent.tool_vectors.WAIT_SECS", 60.0)


def tools(*words: str, connector: str = "zoo") -> ToolGroup:
    return ToolGroup([
        CatalogEntry(
            connector=connector, source="s", source_id=None, realm="default", version="1",
            spec=ToolSpec(name=word, title=word, description=f"a {word}", input_schema={},
                          effect=Effect.READ),
        )
        for word in words
    ])  # fmt: skip


async def first(search: ToolSearch, question: str, *groups: ToolGroup) -> str:
    (entry, _), *_ = await search.rank(question, groups, 1)
    return entry.spec.name


async def test_a_tool_is_found_by_what_it_means(db):
    embedder = Embedder()
    search, group = ToolSearch(ToolVectors(embedder, db)), tools("cat", "dog", "ship")
    assert await first(search, "vessel", group) == "ship"
    assert await first(search, "hound", group, tools("boat", connector="sea")) == "dog"
    await search.close()


async def test_no_text_is_embedded_twice_by_any_process(db):
    embedder, group = Embedder(), tools("cat", "dog", connector="once")
    for _ in range(2):
        search = ToolSearch(ToolVectors(embedder, db))
        assert await first(search, "hound", group) == "dog"
        assert await first(search, "hound", tools("cat", "dog", connector="once")) == "dog"
        await search.close()
    texts = [text for text in embedder.asked if text.startswith("once.")]
    assert sorted(texts) == ["once.cat cat a cat", "once.dog dog a dog"]
    assert embedder.asked.count("hound") == 2  # a question is remembered by its process alone


async def test_a_new_version_costs_only_the_texts_that_changed(db):
    embedder = Embedder()
    search = ToolSearch(ToolVectors(embedder, db))
    await first(search, "hound", tools("cat", "dog", connector="grown"))
    embedder.asked.clear()
    await first(search, "hound", tools("cat", "dog", "ship", connector="grown"))
    assert embedder.asked == ["grown.ship ship a ship"]
    await search.close()


async def test_a_late_model_is_not_waited_for_and_helps_once_it_answers(db, monkeypatch):
    monkeypatch.setattr("agentcy_ray.agent.tool_vectors.WAIT_SECS", 0.1)
    embedder, group = Embedder(), tools("dog", "ship", "vessels", connector="late")
    search = ToolSearch(ToolVectors(embedder, db))
    embedder.go.clear()
    async with asyncio.timeout(60):
        assert await first(search, "vessel", group) == "vessels"  # by letters
        embedder.go.set()
        await search.settled()
        monkeypatch.setattr("agentcy_ray.agent.tool_vectors.WAIT_SECS", 60.0)
        assert await first(search, "vessel", group) == "ship"
    await search.close()


async def test_without_the_model_tools_are_found_by_letters(db):
    embedder = Embedder()
    embedder.away = True
    search = ToolSearch(ToolVectors(embedder, db))
    assert await first(search, "ship", tools("dog", "ship", connector="dark")) == "ship"
    assert embedder.asked == []
    await search.close()


async def test_many_new_tools_are_embedded_behind_the_search(db):
    embedder = Embedder()
    many = tools(*(f"cat{n}" for n in range(300)), "dog", connector="many")
    search = ToolSearch(ToolVectors(embedder, db))
    assert await first(search, "dog", many) == "dog"
    assert "dog" not in embedder.asked
    await search.settled()
    assert len(embedder.asked) == 301
    assert await first(search, "hound", many) == "dog"
    await search.close()


@pytest.mark.parametrize("top_k", [1, 3, 50])
async def test_the_best_come_first_and_names_break_ties(top_k):
    found = await ToolSearch().rank("ship", [tools("ship", "dog", "cat"), tools("bat")], top_k)
    names = [entry.spec.name for entry, _ in found]
    assert names == ["ship", "bat", "cat", "dog"][:top_k]
    assert await ToolSearch().rank("ship", [], top_k) == []
