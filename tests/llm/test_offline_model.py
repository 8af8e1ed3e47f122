"""``offline:extractive``: quotes and nothing else."""

from __future__ import annotations

import re
import socket
from typing import Any

import pytest

from agentcy_ray.core.settings import Settings
from agentcy_ray.llm.model import (
    Done,
    Evidence,
    Message,
    ModelEvent,
    ModelRequest,
    TextDelta,
    ToolCallReady,
    ToolOffer,
    ToolReply,
)
from agentcy_ray.llm.offline import LABEL, OfflineModel
from agentcy_ray.llm.registry import Models

TOOLS = tuple(
    ToolOffer(name=name, description="d", input_schema={"type": "object"})
    for name in ("execute_connector_tool", "search_connector_tools")
)


def piece(key: int, text: str, title: str = "README.md") -> Evidence:
    return Evidence(
        key=key,
        kind="passage",
        node_id=f"n_{key}",
        title=title,
        text=text,
        realm="development",
        connector="git",
        external_id=f"file:{title}",
    )


CORPUS = (
    piece(1, "Bananas are yellow. They grow in clusters.", "fruit.md"),
    piece(2, "The lease lasts fifteen seconds. It is renewed every five seconds.", "lease.md"),
    piece(3, "Deployments are described in Helm charts.", "deploy.md"),
)


async def run(question: str, *evidence: Evidence, **changes: Any) -> list[ModelEvent]:
    request = ModelRequest(
        system="", messages=(Message.say("user", question),), tools=TOOLS, evidence=evidence
    )
    model = OfflineModel()
    return [event async for event in model.stream(request.model_copy(update=changes))]


def answer_of(events: list[ModelEvent]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


@pytest.mark.requirement("LLM-06")
def test_without_a_provider_it_is_the_default_and_says_so() -> None:
    found = Models(Settings.load({}))
    assert found.default_reference() == "offline:extractive"
    row = next(row for row in found.describe() if row.default)
    assert row.provider == "offline"
    assert not any(row.available for row in found.describe() if row.provider != "offline")


@pytest.mark.requirement("LLM-07")
async def test_an_answer_holds_only_quotations_with_keys_under_the_label() -> None:
    answer = answer_of(await run("How long does a lease last?", *CORPUS))
    assert answer.startswith(f"{LABEL}\n")
    quoted = [line[2:] for line in answer.splitlines() if line.startswith("> ")]
    assert quoted
    sources = " ".join(item.text for item in CORPUS)
    for line in quoted:
        text, key = re.fullmatch(r"(.*?)(?: \[(\d+)\])?", line).groups()  # type: ignore[union-attr]
        assert text in sources
        assert key is None or int(key) in {item.key for item in CORPUS}


async def test_the_best_passage_comes_first_with_its_origin() -> None:
    answer = answer_of(await run("How long does a lease last?", *CORPUS))
    first = answer.split("> ", 1)[1]
    assert first.startswith("The lease lasts fifteen seconds.")
    assert "[2]" in first
    assert "— file:lease.md (git, realm development)" in first
    assert "Bananas" not in answer


@pytest.mark.requirement("LLM-07")
async def test_it_needs_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert "[2]" in answer_of(await run("lease seconds", *CORPUS))


async def test_with_nothing_at_hand_it_searches_once_and_calls_nothing_else() -> None:
    events = await run("lease?")
    calls = [event.call for event in events if isinstance(event, ToolCallReady)]
    assert [(call.args["connector"], call.args["tool"]) for call in calls] == [("rag", "search")]
    done = events[-1]
    assert isinstance(done, Done)
    searched = (
        Message.say("user", "lease?"),
        done.message,
        Message(role="user", parts=(ToolReply(id=calls[0].id, name=calls[0].name, text="[]"),)),
    )
    after = await run("", messages=searched)
    assert not any(isinstance(event, ToolCallReady) for event in after)
    assert "Nothing in the synchronised sources matches" in answer_of(after)
    assert answer_of(after).startswith(LABEL)


async def test_a_key_like_text_inside_a_quotation_is_not_mistaken_for_a_citation() -> None:
    answer = answer_of(
        await run("array access", piece(7, "The array access list[0] and [3] fail."))
    )
    assert set(re.findall(r"\[(\d+)\]", answer)) == {"7"}


async def test_of_a_long_passage_the_lines_that_fit_the_question_are_quoted() -> None:
    lines = [f"filler number {n} says nothing of use" for n in range(40)]
    lines[30] = "the lease of a run lasts fifteen seconds"
    answer = answer_of(await run("How long does a run's lease last?", piece(1, "\n".join(lines))))
    assert "> the lease of a run lasts fifteen seconds" in answer
    assert len(answer) < 900


async def test_passages_that_hardly_fit_are_left_out() -> None:
    weak = [piece(n, f"Only seconds are common to text {n}.", f"{n}.md") for n in range(10, 14)]
    answer = answer_of(
        await run("How many seconds does a lease last until renewed?", CORPUS[1], *weak)
    )
    assert answer.count("\n— ") == 2


async def test_passages_with_no_word_in_common_are_not_quoted() -> None:
    events = await run("What is quantum entanglement?", *CORPUS)
    assert any(isinstance(event, ToolCallReady) for event in events)
    without_tools = await run("What is quantum entanglement?", *CORPUS, tools=())
    assert "Nothing in the synchronised sources" in answer_of(without_tools)
