"""Citation keys in a streamed answer."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentcy_ray.agent.citations import Citations, CitationStream, Piece
from agentcy_ray.core.events import EventType


def piece(node: str) -> Piece:
    return Piece(
        kind="passage",
        node_id=node,
        title=node,
        text="t",
        realm="default",
        connector="git",
        external_id=node,
        url=None,
    )


def three() -> Citations:
    citations = Citations()
    for node in ("a", "b", "c"):
        citations.add(piece(node))
    return citations


def through(text: str, *, cuts: list[int] | None = None) -> tuple[str, list[int]]:
    """What readers get of ``text`` when it streams in the given cuts, and the keys announced."""
    stream = CitationStream(three())
    parts: list[str] = []
    keys: list[int] = []
    edges = sorted({0, len(text), *(cut for cut in cuts or [] if cut < len(text))})
    for start, end in itertools.pairwise(edges):
        out, events = stream.feed(text[start:end])
        parts.append(out)
        keys += [data["key"] for type_, data in events if type_ is EventType.CITATION]
    out, events = stream.finish()
    keys += [data["key"] for _, data in events]
    assert keys == stream.used
    return "".join([*parts, out]), keys


def test_a_node_keeps_its_key_and_new_nodes_get_the_next() -> None:
    citations = three()
    assert citations.add(piece("b")).key == 2
    assert citations.add(piece("d")).key == 4


def test_a_restored_set_goes_on_where_it_stopped() -> None:
    citations = Citations(three().evidence)
    assert citations.add(piece("a")).key == 1
    assert citations.add(piece("new")).key == 4


@pytest.mark.parametrize(
    ("said", "shown", "keys"),
    [
        ("Fine [1].", "Fine [1].", [1]),
        ("Fine[2], and [1].", "Fine[2], and [1].", [2, 1]),
        ("Both [1, 3].", "Both [1][3].", [1, 3]),
        ("Half [1, 9].", "Half [1].", [1]),
        ("Invented [9].", "Invented.", []),
        ("[9] leads.", " leads.", []),
        ("An index queue[9] stays.", "An index queue[9] stays.", []),
        ("Code `row [9]` stays.", "Code `row [9]` stays.", []),
        ("```\nrow [9]\n```\nFine [9]. [1]", "```\nrow [9]\n```\nFine. [1]", [1]),
        ("A lone ` mark.\n\nInvented [9] [2]", "A lone ` mark.\n\nInvented [2]", [2]),
        ("Twice [1] and [1].", "Twice [1] and [1].", [1]),
        ("Open [", "Open [", []),
        ("A list [1200] of [a].", "A list [1200] of [a].", []),
    ],
)
def test_known_keys_are_announced_and_unknown_ones_taken_out(
    said: str, shown: str, keys: list[int]
) -> None:
    assert through(said) == (shown, keys)
    assert through(said, cuts=list(range(len(said)))) == (shown, keys)


@given(
    st.text(alphabet="ab`[]123, \n.", max_size=60),
    st.lists(st.integers(min_value=0, max_value=60), max_size=12),
)
def test_how_the_stream_is_cut_changes_nothing(text: str, cuts: list[int]) -> None:
    assert through(text, cuts=cuts) == through(text)
