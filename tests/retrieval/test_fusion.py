"""Hits of two spaces as one list, and the cut that a space keeps."""

from __future__ import annotations

import pytest

from agentcy_ray.core.errors import InvalidError
from agentcy_ray.core.ids import new_id
from agentcy_ray.core.settings import Settings
from agentcy_ray.retrieval.chunkers import Chunkers
from agentcy_ray.retrieval.fusion import fused
from agentcy_ray.retrieval.local_embedder import bundled_tokenizer
from agentcy_ray.retrieval.queries import Hit, HitSource


def hits(*nodes: str, snippet: str = "") -> list[Hit]:
    source = HitSource(connector="git", source_id=new_id(), external_id="x")
    return [
        Hit(
            node_id=node, labels=("File",), score=1 / (place + 1), scores={}, name=node,
            snippet=snippet or node, url=None, properties={}, source=source, realm="development",
        )
        for place, node in enumerate(nodes)
    ]  # fmt: skip


def test_what_both_find_comes_before_what_one_finds() -> None:
    found = fused([hits("a", "b", "c"), hits("d", "b", "a")], 3)
    assert [hit.node_id for hit in found] == ["a", "b", "d"]
    assert 1 > found[0].score > found[1].score > found[2].score > 0


def test_what_is_first_everywhere_has_the_score_of_one() -> None:
    (best,) = fused([hits("a"), hits("a")], 10)
    assert best.score == pytest.approx(1.0)


def test_a_hit_is_shown_as_the_space_that_ranks_it_higher_shows_it() -> None:
    (first, *_) = fused([hits("b", "a", snippet="low"), hits("a", snippet="high")], 2)
    assert (first.node_id, first.snippet) == ("a", "high")


def test_a_space_stays_cut_as_it_was_begun() -> None:
    chunkers = Chunkers(bundled_tokenizer(), Settings.load({}, chunk_tokens=64, chunk_overlap=0))
    text = " ".join(f"word{n}" for n in range(120))
    assert chunkers.of("") is chunkers.of("tokens=64,overlap=0,v=1")
    wider = chunkers.of("tokens=512,overlap=0,v=1")
    assert len(wider.chunk(text)) < len(chunkers.of("").chunk(text))
    with pytest.raises(InvalidError, match="another version"):
        chunkers.of("tokens=64,overlap=0,v=99")
