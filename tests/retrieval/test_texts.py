"""Canonical text, its hash, the rows made of it, and the words of a query."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import orjson
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentcy_ray.core.batches import CHUNKS, DOCUMENTS, NODES
from agentcy_ray.retrieval.bm25 import bm25
from agentcy_ray.retrieval.canonical import canonical_text, text_hash
from agentcy_ray.retrieval.chunking import Chunker
from agentcy_ray.retrieval.local_embedder import bundled_tokenizer
from agentcy_ray.retrieval.passages import chunk_batch
from agentcy_ray.retrieval.words import MAX_TERMS, like_pattern, terms

NOW = datetime(2026, 1, 1, tzinfo=UTC)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


def test_canonical_text_is_labels_name_description_and_key_properties() -> None:
    text = canonical_text(
        ["Issue", "Bug"],
        "AGT-7",
        {
            "title": "Pool leaks",
            "description": "Connections are never returned.",
            "state": "open",
            "votes": 3,
            "tags": ["db", "pool"],
            "url": "https://example.org/7",
            "raw": {"nested": True},
            "none": None,
            "long": "x" * 500,
        },
    )
    assert text == (
        "Issue, Bug | AGT-7 | Connections are never returned. | state=open tags=db,pool votes=3"
    )


def test_a_title_stands_in_for_a_missing_description() -> None:
    assert (
        canonical_text(["Issue"], "AGT-7", {"title": "Pool leaks"}) == "Issue | AGT-7 | Pool leaks"
    )


@given(properties=st.dictionaries(st.text(max_size=8), JSON, max_size=8))
def test_the_order_of_properties_changes_neither_text_nor_hash(properties: dict[str, Any]) -> None:
    turned = dict(reversed(properties.items()))
    assert canonical_text(["A"], "n", properties) == canonical_text(["A"], "n", turned)
    assert text_hash(["A"], "n", properties) == text_hash(["A"], "n", turned)


@pytest.mark.requirement("EMB-05")
def test_only_labels_name_title_and_description_change_the_hash() -> None:
    base = text_hash(["A"], "n", {"title": "t", "description": "d", "votes": 1})
    assert text_hash(["A"], "n", {"title": "t", "description": "d", "votes": 2, "x": []}) == base
    others = [
        text_hash(["A", "B"], "n", {"title": "t", "description": "d"}),
        text_hash(["A"], "m", {"title": "t", "description": "d"}),
        text_hash(["A"], "n", {"title": "u", "description": "d"}),
        text_hash(["A"], "n", {"title": "t", "description": "e"}),
    ]
    assert len({base, *others}) == 5


def _nodes(*rows: dict[str, Any]) -> pa.RecordBatch:
    base = {
        "labels": ["File"], "realm": "development", "name": "a.md", "properties": "{}",
        "connector": "git", "source_id": UUID(int=3).hex, "external_id": "a.md",
        "content_hash": "0",
    }  # fmt: skip
    return pa.RecordBatch.from_pylist([base | row for row in rows], schema=NODES)


def _documents(*rows: dict[str, Any]) -> pa.RecordBatch:
    base = {"media_type": "text/markdown", "url": None, "modified_at": None, "content_hash": "0"}
    return pa.RecordBatch.from_pylist([base | row for row in rows], schema=DOCUMENTS)


def test_a_node_gives_its_canonical_chunk_first_and_then_its_documents() -> None:
    changed = datetime(2025, 5, 5, tzinfo=UTC)
    body = "".join(f"# Part {i}\n\n{'Some prose here. ' * 12}\n\n" for i in range(3))
    properties = orjson.dumps({"url": "https://a", "blob": "y" * 999, "big": list(range(999))})
    rows = chunk_batch(
        _nodes({"id": "n_a", "properties": properties.decode()}, {"id": "n_b", "name": "b.md"}),
        _documents(
            {"node_id": "n_a", "text": body, "url": "https://doc", "modified_at": changed},
            {"node_id": "n_gone", "text": "nobody's"},
        ),
        Chunker(bundled_tokenizer(), 64, 0),
        seen_at=NOW,
    )
    assert rows.schema == CHUNKS
    made = rows.to_pylist()
    assert [row["node_id"] for row in made] == ["n_a"] * 4 + ["n_b"]
    assert made[0]["text"] == "File | a.md"
    assert (made[0]["url"], made[0]["seen_at"]) == ("https://a", NOW)
    assert made[1]["text"].startswith("# Part 0")
    assert (made[1]["url"], made[1]["seen_at"]) == ("https://doc", changed)
    assert orjson.loads(made[1]["properties"]) == {"url": "https://a", "blob": "y" * 400}
    assert len({row["chunk_key"] for row in made}) == 5


@pytest.mark.requirement("EMB-05")
def test_the_same_texts_give_the_same_keys_and_a_changed_one_only_its_own() -> None:
    chunker = Chunker(bundled_tokenizer(), 64, 0)

    def keys(name: str, text: str) -> list[str]:
        nodes = _nodes({"id": "n_a", "name": name})
        documents = _documents({"node_id": "n_a", "text": text})
        rows = chunk_batch(nodes, documents, chunker, seen_at=NOW)
        return rows.column("chunk_key").to_pylist()

    assert keys("a.md", "one body") == keys("a.md", "one body")
    renamed = keys("b.md", "one body")
    assert renamed[0] != keys("a.md", "one body")[0]
    assert renamed[1] == keys("a.md", "one body")[1]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("Which services depend on the bucket?", ["services", "depend", "bucket"]),
        ("HNSW_EF_SEARCH in src/app.py:", ["hnsw_ef_search", "src/app.py"]),
        ("AGT-123 agt-123", ["agt-123"]),
        ("a b c ab a_b %", []),
        ("¿naïve café?", ["¿naïve", "café"]),
    ],
)  # fmt: skip
def test_terms_are_the_words_worth_looking_up(query: str, expected: list[str]) -> None:
    assert terms(query) == expected


@given(query=st.text(max_size=300))
def test_terms_are_few_and_distinct_for_any_query(query: str) -> None:
    found = terms(query)
    assert len(found) == len(set(found)) <= MAX_TERMS


def test_a_pattern_takes_wildcards_literally() -> None:
    assert like_pattern(r"100%_\x") == r"%100\%\_\\x%"


def test_bm25_prefers_rare_words_and_short_texts() -> None:
    texts = [
        "payment service",
        "payment gateway of the shop with much more text",
        "the service",
        "",
    ]
    first, second, third, empty = bm25("payment gateway", texts)
    assert (second, third, empty) == (1.0, 0.0, 0.0)
    assert 0 < first < 1


def test_bm25_of_no_match_and_of_no_texts_is_zero() -> None:
    assert bm25("payment", ["a", "b"]) == [0.0, 0.0]
    assert bm25("payment", []) == []
