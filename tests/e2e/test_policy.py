"""Policies from the command line: tried, replayed on the cluster, saved, and decisive at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from tests.e2e.conftest import Machine

REGO = """package agentcy.quiet
import rego.v1

deny contains "no search today" if input.resource.tool == "rag.search"
"""
CALL = ("tools", "call", "rag.search", orjson.dumps({"query": "Who owns the ledger?"}).decode())


@pytest.fixture
def policy(machine: Machine) -> Iterator[Path]:
    """A policy in a file; it decides nothing any more after the test."""
    file = machine.workdir / "quiet.rego"
    file.write_text(REGO)
    yield file
    names = {row["name"] for row in machine.agentcy("policy", "list")}
    if file.name in names:
        machine.agentcy("policy", "disable", file.name)


@pytest.mark.requirement("POL-12")
def test_a_policy_is_tried_replayed_and_saved_from_the_command_line(
    machine: Machine, policy: Path
) -> None:
    assert machine.agentcy(*CALL)["status"] == "completed"
    question = machine.workdir / "question.json"
    question.write_bytes(
        orjson.dumps({"action": "chat.tool.execute", "resource": {"tool": "rag.search"}})
    )
    (tried,) = machine.agentcy("policy", "evaluate", str(question), "--with", str(policy))
    assert tried["rules"][0]["rule"] == "data.agentcy.quiet.deny"

    state = machine.agentcy("policy", "replay", str(policy), "--days", "1")
    found = state["replay"]["result"]
    assert state["status"] == "succeeded"
    assert found["by_tool"].keys() == {"rag.search"}
    assert found["allow_to_deny"] == found["by_tool"]["rag.search"]["allow_to_deny"] >= 1

    assert machine.agentcy("policy", "put", str(policy))["version"] == 1
    refused = machine.agentcy(*CALL, code=3)
    assert "no search today" in orjson.dumps(refused).decode()
    machine.agentcy("policy", "disable", policy.name)
    assert machine.agentcy(*CALL)["status"] == "completed"
