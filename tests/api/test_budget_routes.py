"""Limits over the API and the command line, and what a chat does when one is used up."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import orjson
import pytest
from typer.testing import CliRunner

from agentcy_ray.cli.main import build
from tests.api.platform import PASSWORD, Platform, ask


@pytest.fixture
def agentcy(platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Run a command as the owner; gives what it printed as JSON."""
    (tmp_path / "secrets.json").write_bytes(orjson.dumps({"admin_password": PASSWORD}))
    monkeypatch.setenv("AGENTCY_URL", platform.url)
    monkeypatch.setenv("AGENTCY_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("ADMIN_EMAIL", "owner@acme.test")

    async def run(*words: str) -> Any:
        done = await asyncio.to_thread(CliRunner().invoke, build(), [*words, "--json"])
        assert done.exit_code == 0, (done.output, done.exception)
        return orjson.loads(done.stdout)

    return run


@pytest.mark.requirement("AGT-10")
async def test_a_limit_set_on_the_command_line_ends_the_next_run_and_is_audited(
    agentcy: Any, platform: Platform
) -> None:
    owner = await platform.as_("owner")
    made = await owner.post("/agents", json={"name": "thrifty"})
    assert made.status_code == 201
    told = await agentcy("budgets", "set", "agent", "3", "--for", "thrifty", "--unit", "tokens")
    (limit,) = [row for row in told["limits"] if row["subject"] == "thrifty"]
    assert (limit["hard"], limit["soft_share"], limit["spent"]) == (3, 0.8, 0)
    try:
        conversation = await platform.conversation(agent="thrifty")
        log = await ask(platform, conversation, "hello", model="scripted:tokens=2")
        assert log[-1].data["finish_reason"] == "budget_exceeded"
        # Another agent is not concerned.
        other = await platform.conversation()
        assert (await ask(platform, other, "hello", model="scripted:tokens=2"))[-1].data[
            "finish_reason"
        ] == "end_turn"
    finally:
        await agentcy("budgets", "set", "agent", "--for", "thrifty", "--unit", "tokens", "--remove")
    assert "thrifty" not in str(await agentcy("budgets", "list"))
    assert (await agentcy("budgets", "set", "org", "--timezone", "UTC"))["timezone"] == "UTC"
    again = await platform.conversation(agent="thrifty")
    log = await ask(platform, again, "hello", model="scripted:tokens=2")
    assert log[-1].data["finish_reason"] == "end_turn"

    entries = (await owner.get("/policies/audit", params={"category": "admin"})).json()["items"]
    actions = [entry["action"] for entry in entries]
    assert actions[:4] == ["org.billing", "org.billing", "budget.exceeded", "org.billing"]
    assert entries[2]["resource"]["subject"] == "thrifty"
    assert entries[3]["resource"]["limits"][0]["hard"] == 3

    used = await agentcy("org", "usage", "--by", "agent", "--by", "model")
    (row,) = [row for row in used["rows"] if row["agent"] == "thrifty" and row["out_tokens"]]
    assert row["model"] == "scripted:tokens=2"
    assert row["in_tokens"] > 0


@pytest.mark.parametrize(
    "limit",
    [
        {"scope": "org", "subject": "x", "hard": 1},
        {"scope": "user", "subject": "someone", "hard": 1},
        {"scope": "team", "hard": 1},
        {"scope": "org", "hard": -1},
        {"scope": "org"},
    ],
)
async def test_a_limit_that_makes_no_sense_is_refused(
    platform: Platform, limit: dict[str, Any]
) -> None:
    owner = await platform.as_("owner")
    answer = await owner.patch("/org", json={"budget": {"limits": [limit]}})
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "validation_failed")


async def test_limits_are_an_organisations_own_and_of_its_people_only(platform: Platform) -> None:
    owner, other = await platform.as_("owner"), await platform.as_("other")
    body = {"limits": [{"scope": "org", "hard": 12.5}], "timezone": "Europe/Zurich"}
    told = (await other.patch("/org", json={"budget": body})).json()["budget"]
    assert (told["timezone"], told["limits"][0]["hard"]) == ("Europe/Zurich", 12.5)
    ours = (await owner.get("/org")).json()["budget"]["limits"]
    assert all(row["hard"] != 12.5 for row in ours)
    me = (await owner.get("/auth/me")).json()["user"]["id"]
    stranger = {"budget": {"limits": [{"scope": "user", "subject": me, "hard": 1}]}}
    assert (await other.patch("/org", json=stranger)).status_code == 404
    nowhere = await other.patch("/org", json={"budget": {"timezone": "Mars/Olympus"}})
    assert nowhere.status_code == 422
    gone = {"limits": [{"scope": "org", "hard": None}], "timezone": "UTC"}
    left = (await other.patch("/org", json={"budget": gone})).json()
    assert left["budget"]["limits"] == []
    days = await owner.get("/org/usage", params={"since": "2020-01-01"})
    assert days.status_code == 422
