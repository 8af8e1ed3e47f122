"""Policies over HTTP: saving, the dry run and replays."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from agentcy_ray.audit.entry import AuditEntry
from agentcy_ray.core.ids import encode
from tests.api.platform import Platform

PACKAGE = "package agentcy.tests\nimport rego.v1\n"
STOP = PACKAGE + 'deny contains "no lab today" if input.resource.tool == "lab.look"'
CALL: dict[str, Any] = {
    "action": "chat.tool.execute",
    "resource": {"type": "tool", "tool": "lab.look", "tool_effect": "read", "builtin": False},
}


@pytest.fixture
async def clean(platform: Platform) -> AsyncIterator[Any]:
    """The owner's client; policies that a test adds are gone after it."""
    owner = await platform.as_("owner")
    yield owner
    for policy in (await owner.get("/policies")).json()["items"]:
        if not policy["starter"]:
            await owner.delete(f"/policies/{policy['id']}")
    await owner.post("/policies/restore")


async def test_a_policy_is_added_changed_switched_off_and_removed(clean: Any) -> None:
    made = await clean.post("/policies", json={"name": "mine.rego", "rego": STOP})
    assert (made.status_code, made.json()["version"]) == (201, 1)
    path = f"/policies/{made.json()['id']}"
    assert (
        await clean.post("/policies", json={"name": "mine.rego", "rego": STOP})
    ).status_code == 409
    changed = (await clean.put(path, json={"rego": STOP + "\n", "enabled": True})).json()
    assert (changed["version"], changed["rego"]) == (2, STOP + "\n")
    assert (await clean.post(f"{path}/disable")).json()["enabled"] is False
    assert (await clean.post(f"{path}/enable")).json()["enabled"] is True
    assert (await clean.put(path, json={"name": "other.rego"})).status_code == 422
    assert (await clean.delete(path)).status_code == 204
    assert (await clean.get(path)).status_code == 404


@pytest.mark.requirement("POL-09")
async def test_what_does_not_compile_is_refused_with_its_place(clean: Any) -> None:
    answer = await clean.post(
        "/policies", json={"name": "bad.rego", "rego": PACKAGE + "deny contains if"}
    )
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (422, "policy_invalid")
    assert (error["details"]["line"], error["details"]["policy"]) == (3, "bad.rego")


async def test_a_policy_that_another_one_calls_is_not_removed(clean: Any) -> None:
    library = "package agentcy.lib\nimport rego.v1\nbad(x) if x == 7"
    user = PACKAGE + "deny contains 1 if data.agentcy.lib.bad(input.resource.n)"
    made = (await clean.post("/policies", json={"name": "lib.rego", "rego": library})).json()
    using = (await clean.post("/policies", json={"name": "user.rego", "rego": user})).json()
    refused = await clean.delete(f"/policies/{made['id']}")
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "policy_invalid")
    await clean.delete(f"/policies/{using['id']}")
    assert (await clean.delete(f"/policies/{made['id']}")).status_code == 204


async def test_starters_come_back_as_they_were_shipped(clean: Any) -> None:
    items = (await clean.get("/policies")).json()["items"]
    tools = next(item for item in items if item["name"] == "tools.rego")
    api = next(item for item in items if item["name"] == "api.rego")
    await clean.put(f"/policies/{tools['id']}", json={"rego": "package agentcy.tools"})
    await clean.delete(f"/policies/{api['id']}")
    restored = (await clean.post("/policies/restore")).json()["items"]
    assert [item["name"] for item in restored] == sorted([
        "agentcy.rego",
        "api.rego",
        "connectors.rego",
        "tools.rego",
    ])
    assert next(item["rego"] for item in restored if item["name"] == "tools.rego") == tools["rego"]


async def test_members_neither_read_nor_write_policies(platform: Platform) -> None:
    member = await platform.as_("member")
    assert (await member.get("/policies")).status_code == 403
    assert (await member.post("/policies", json={"name": "x", "rego": STOP})).status_code == 403
    assert (await member.post("/policies/evaluate", json={"input": CALL})).status_code == 403


@pytest.mark.requirement("POL-12")
async def test_a_dry_run_says_what_decides_and_what_is_read(clean: Any) -> None:
    body = {"input": CALL, "policies": [{"name": "mine.rego", "rego": STOP}]}
    (tried,) = (await clean.post("/policies/evaluate", json=body)).json()["results"]
    assert tried["decision"]["decision"] == "deny"
    assert tried["rules"] == [
        {"rule": "data.agentcy.tests.deny", "policy_id": "candidate", "policy": "mine.rego",
         "messages": ["no lab today"]}
    ]  # fmt: skip
    assert "input.resource.tool" in tried["reads"]
    assert (tried["cacheable"], tried["volatile"]) == (True, [])
    assert [p["name"] for p in (await clean.get("/policies")).json()["items"]].count(
        "mine.rego"
    ) == 0
    await clean.post("/policies/evaluate", json={"input": CALL})
    (now,) = (await clean.post("/policies/evaluate", json={"input": CALL})).json()["results"]
    assert (now["decision"]["decision"], now["rules"]) == ("allow", [])
    assert now["decision"]["cached"] is True


async def test_a_dry_run_names_why_a_decision_is_not_kept(clean: Any) -> None:
    late = PACKAGE + 'deny contains "late" if input.env.now > "2020"'
    body = {"input": CALL, "policies": [{"name": "late.rego", "rego": late}]}
    (tried,) = (await clean.post("/policies/evaluate", json=body)).json()["results"]
    assert (tried["cacheable"], tried["volatile"]) == (False, ["input.env.now"])
    nothing = await clean.post("/policies/evaluate", json={})
    assert nothing.status_code == 422


async def record(platform: Platform, count: int) -> None:
    """Write ``count`` tool calls of the member into the audit log."""
    member = encode("usr", platform.users["member"])
    for n in range(count):
        question = {
            **CALL,
            "subject": {"user_id": member, "role": "member"},
            "context": {"request_id": f"req_{n}", "approval_granted": False, "agent": "helper"},
            "env": {"now": "2026-04-24T12:00:00.000Z", "instance_mode": "self-hosted"},
        }
        await platform.services.gates.audit.append(
            AuditEntry(
                org_id=platform.org_id, category="chat", action="chat.tool.execute",
                decision="allow", resource=CALL["resource"], input=question,
            )
        )  # fmt: skip


@pytest.mark.requirement("POL-12")
async def test_a_replay_counts_what_a_candidate_would_change(
    platform: Platform, clean: Any
) -> None:
    await record(platform, 5)
    candidate = [{"name": "mine.rego", "rego": STOP}]
    inline = await clean.post("/policies/evaluate", json={"replay": {}, "policies": candidate})
    assert inline.json()["replay"]["by_tool"]["lab.look"]["allow_to_deny"] == 5
    started = await clean.post("/policies/replays", json={"policies": candidate, "days": 1})
    assert started.status_code == 202
    state = started.json()
    path = f"/policies/replays/{state['replay']['id']}"
    for _ in range(50):
        if not state["running"]:
            break
        state = (await clean.get(path, params={"wait_secs": 10})).json()
    assert state["status"] == "succeeded", state
    found = state["replay"]["result"]
    member = encode("usr", platform.users["member"])
    assert found["allow_to_deny"] == 5
    assert found["by_tool"] == {"lab.look": found["by_agent"]["helper"]}
    assert found["by_person"][member]["allow_to_deny"] == 5
    assert found["examples"][0]["reasons"] == ["no lab today"]
    assert (found["deny_to_allow"], found["newly_requires_approval"]) == (0, 0)
    assert found["evaluated"] >= 5


async def test_a_candidate_that_does_not_compile_is_not_replayed(clean: Any) -> None:
    body = {"policies": [{"name": "bad.rego", "rego": "package agentcy\ndeny := 1"}]}
    assert (await clean.post("/policies/replays", json=body)).status_code == 422


BOMB = (
    PACKAGE
    + """deny contains "x" if {
  input.resource.tool == "lab.look"
  l := numbers.range(1, 3000)
  count([1 | some a in l; some b in l; some c in l; a + b + c > 0]) > 1
}"""
)


@pytest.mark.parametrize("way", ["inputs", "replay"])
async def test_whoever_tries_a_policy_that_never_ends_keeps_nobody_else_waiting(
    platform: Platform, clean: Any, way: str
) -> None:
    await record(platform, 3)
    asked: Any = {"replay": {"limit": 3}} if way == "replay" else {"inputs": [CALL] * 3}
    body = asked | {"policies": [{"name": "bomb.rego", "rego": BOMB}]}
    bomb, turns = asyncio.create_task(clean.post("/policies/evaluate", json=body)), 0
    async with platform.client() as anybody:
        while not bomb.done():
            if turns % 20 == 0:
                found = await anybody.get(f"{platform.url}/health/live")
                assert found.status_code == 200
            await asyncio.wait({bomb}, timeout=0.002)
            turns += 1
    found = (await bomb).json()
    if way == "replay":
        assert found["replay"]["allow_to_deny"] == 3, found
    else:
        assert {each["decision"]["rule"] for each in found["results"]} == {"policy_error"}
    # Hundreds; a request that held the event loop would leave it some twenty before it begins.
    assert turns > 60
