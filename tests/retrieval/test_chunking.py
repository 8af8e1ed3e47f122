"""Chunks: never too long, cut where the text itself has a seam, the same every time."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentcy_ray.core.errors import ConfigError
from agentcy_ray.retrieval.chunking import GRAMMARS, Chunker, load_tokenizer
from agentcy_ray.retrieval.local_embedder import bundled_tokenizer

TOKENIZER = bundled_tokenizer()
MEDIA_TYPES = [
    "text/plain",
    "text/markdown",
    "application/json",
    *(f"text/x-{g}" for g in GRAMMARS),
]


def tokens(text: str) -> int:
    return len(TOKENIZER.encode(text, add_special_tokens=False).ids)


@settings(max_examples=40, deadline=None)
@given(text=st.text(max_size=2_000), media_type=st.sampled_from(MEDIA_TYPES))
def test_no_chunk_is_empty_or_longer_than_asked(text: str, media_type: str) -> None:
    chunks = Chunker(TOKENIZER, 48, 8).chunk(text, media_type)
    assert all(chunk.strip() and tokens(chunk) <= 48 for chunk in chunks)
    assert bool(chunks) == bool(text.replace("\x00", "").strip())


def test_the_words_of_a_text_are_all_in_its_chunks() -> None:
    words = [f"word{i}" for i in range(500)]
    chunks = Chunker(TOKENIZER, 64, 8).chunk(" ".join(words))
    assert set(words) <= set(" ".join(chunks).split())


def test_markdown_is_cut_at_headings() -> None:
    text = "".join(f"# Part {i}\n\n{'Some prose here. ' * 12}\n\n" for i in range(6))
    chunks = Chunker(TOKENIZER, 64, 0).chunk(text, "text/markdown; charset=utf-8")
    assert len(chunks) == 6
    assert all(chunk.startswith("# Part") for chunk in chunks)


@pytest.mark.parametrize(
    ("media_type", "function"),
    [
        ("text/x-python", "def f{i}(x):\n    y = x + {i}\n    return y * y * y\n\n\n"),
        ("text/javascript", "function f{i}(x) {{\n  const y = x + {i};\n  return y * y;\n}}\n\n"),
        ("text/x-typescript", "function f{i}(x: number) {{\n  const y = x;\n  return y;\n}}\n\n"),
        ("text/x-go", "func f{i}(x int) int {{\n\ty := x + {i}\n\treturn y * y\n}}\n\n"),
        ("text/x-rust", "fn f{i}(x: i64) -> i64 {{\n    let y = x + {i};\n    y * y\n}}\n\n"),
        ("text/x-java", "class C{i} {{\n  int f(int x) {{ return x * {i} + x; }}\n}}\n\n"),
    ],
)
def test_code_is_cut_between_definitions(media_type: str, function: str) -> None:
    text = "".join(function.format(i=i) for i in range(12))
    chunks = Chunker(TOKENIZER, 80, 0).chunk(text, media_type)
    starts = function.format(i=0).split("f0", maxsplit=1)[0].split("C0", maxsplit=1)[0].strip()
    assert len(chunks) > 1
    assert all(chunk.startswith(starts) for chunk in chunks)


def test_neighbours_share_an_overlap() -> None:
    text = "\n".join(f"sentence number {i} ends here." for i in range(60))
    first, second, *_ = Chunker(TOKENIZER, 64, 16).chunk(text)
    assert set(first.splitlines()) & set(second.splitlines())


def test_an_unbroken_run_that_counts_as_one_token_is_cut_all_the_same() -> None:
    chunks = Chunker(TOKENIZER, 64, 8).chunk("a" * 100_000, "text/javascript")
    assert max(map(len, chunks)) <= 64 * 16
    assert sum(map(len, chunks)) == 100_000


def test_a_tokenizer_file_that_is_none_says_which_file_to_name(tmp_path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text("{}")
    with pytest.raises(ConfigError, match=r"name the tokenizer\.json"):
        load_tokenizer(path)
