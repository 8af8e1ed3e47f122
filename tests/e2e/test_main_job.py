"""The main job through the command line, as the README has it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.conftest import Machine


@pytest.mark.requirement("RUN-01", "RUN-03", "LLM-07")
def test_the_demo_syncs_asks_acts_and_shows_the_audit(machine: Machine, repository: Path) -> None:
    facts = machine.agentcy(
        "demo", str(repository), "--yes", "--question", "How long do the retries of part 3 wait?"
    )
    assert (
        facts["sync"]["counts"]["nodes"]["added"] == 12 + 12 + 3
    )  # and author, branch, repository
    assert facts["stats"]["labels"]["GitCommit"] >= 12
    assert facts["sync"]["chunks_embedded"] >= 24
    assert ["Ada", 12, 12] in [row[:3] for row in facts["traversal"]["rows"]]
    assert facts["search"]["hits"]
    assert facts["answer"]["text"].startswith("Offline answer (retrieval only).")
    assert "4 seconds" in facts["answer"]["text"]
    assert facts["answer"]["citations"]
    assert facts["action"]["status"] == "completed"
    note = (machine.state_dir / "demo-notes" / "answer.md").read_text()
    assert note.startswith("# How long do the retries of part 3 wait?")
    assert {"chat.approve", "chat.tool.execute"} <= {row["action"] for row in facts["audit"]}


@pytest.mark.requirement("ING-04", "EMB-05")
def test_a_second_sync_of_the_unchanged_source_writes_nothing(
    machine: Machine, repository: Path
) -> None:
    _ensure_synced(machine, repository)
    counts = machine.agentcy("sources", "sync", "demo")["counts"]
    for kind in ("nodes", "edges"):
        assert {verb: n for verb, n in counts[kind].items() if n and verb != "unchanged"} == {}
    assert counts["embedded"] == 0


def test_search_query_graph_and_tools_answer_over_the_command_line(
    machine: Machine, repository: Path
) -> None:
    _ensure_synced(machine, repository)
    hits = machine.agentcy("search", "retries of part 7")["hits"]
    assert any("part7" in hit["name"] or "part 7" in hit["snippet"] for hit in hits)
    answer = machine.agentcy(
        "query", "MATCH (c:GitCommit)-[:TOUCHES]->(f:GitFile) WHERE f.path = $path "
        "RETURN c.title AS title", "--param", "path=docs/part5.md",
    )  # fmt: skip
    assert answer["rows"] == [["Describe the retries of part 5"]]
    assert machine.agentcy("graph", "stats")["labels"]["GitFile"] >= 12
    log = machine.agentcy("tools", "call", "git.log", '{"limit": 2}', "--source", "demo")
    assert log["status"] == "completed"
    assert machine.agentcy("audit", "verify")["ok"] is True


def test_a_chat_streams_its_events_in_order(machine: Machine, repository: Path) -> None:
    _ensure_synced(machine, repository)
    events = machine.agentcy("chat", "How long do the retries of part 9 wait?")["events"]
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert events[0]["type"] == "message_start"
    assert events[-1]["type"] == "message_end"


def _ensure_synced(machine: Machine, repository: Path) -> None:
    names = {row["name"] for row in machine.agentcy("sources", "list")}
    if "demo" not in names:
        machine.agentcy("demo", str(repository), "--yes", "--question", "What waits?")
