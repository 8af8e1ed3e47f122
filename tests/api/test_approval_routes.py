"""Approvals over HTTP: who may decide, in which conversation, and by whose rules."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from agentcy_ray.cli.client import Client
from agentcy_ray.core.settings import Settings
from tests.api.platform import Platform, credentials

SHIPPED = {
    "approval_defaults": {"read": "allow", "write": "approve", "destructive": "approve"},
    "approval_timeout_secs": 300,
    "approval_second_person": False,
}


@asynccontextmanager
async def security(platform: Platform, **change: Any) -> AsyncIterator[dict[str, Any]]:
    """Settings for the length of a test."""
    owner = await platform.as_("owner")
    try:
        answer = await owner.post("/settings/security", json=change)
        assert answer.status_code == 200, answer.text
        yield answer.json()
    finally:
        await owner.post("/settings/security", json=SHIPPED)


async def waiting(platform: Platform, name: str) -> tuple[str, dict[str, Any]]:
    """A conversation of the owner's, and a write in it that waits for a person."""
    folder = platform.roots / name
    folder.mkdir()
    config = {"root": str(folder), "writable": True}
    await platform.source(name=name, connector="files", config=config)
    owner, conversation = await platform.as_("owner"), await platform.conversation()
    call = {
        "connector": "files", "source": name, "tool": "write_file",
        "args": {"path": "a.md", "content": "x"},
    }  # fmt: skip
    answer = await owner.post(f"/chat/conversations/{conversation}/tool-calls", json=call)
    assert answer.status_code == 202, answer.text
    return conversation, answer.json()


async def test_security_settings_are_changed_in_part_and_checked(platform: Platform) -> None:
    owner, member = await platform.as_("owner"), await platform.as_("member")
    assert (await owner.get("/settings/security")).json() == SHIPPED
    async with security(
        platform, approval_defaults={"write": "deny"}, approval_timeout_secs=60
    ) as changed:
        defaults = {"read": "allow", "write": "deny", "destructive": "approve"}
        expected = {**SHIPPED, "approval_defaults": defaults, "approval_timeout_secs": 60}
        assert changed == expected == (await owner.get("/settings/security")).json()
    for wrong in (
        {"approval_timeout_secs": 9}, {"approval_defaults": {"write": "maybe"}}, {"aproval": 1},
    ):  # fmt: skip
        answer = await owner.post("/settings/security", json=wrong)
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, "validation_failed")
    assert (await member.post("/settings/security", json={})).status_code == 403


@pytest.mark.requirement("APR-13")
async def test_with_a_second_person_wanted_the_requester_is_refused_and_another_decides(
    platform: Platform,
) -> None:
    async with security(platform, approval_second_person=True):
        conversation, asked = await waiting(platform, "second-person")
        path = f"/chat/conversations/{conversation}/approvals/{asked['approval_id']}"
        owner, admin = await platform.as_("owner"), await platform.as_("admin")
        refused = await owner.post(path, json={"approved": True})
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "permission_denied")
        decided = await admin.post(path, json={"approved": False, "note": "no", "via": "console"})
        assert decided.status_code == 200, decided.text
        (vote,) = decided.json()["votes"]
        assert (vote["approved"], vote["via"], vote["note"]) == (False, "console", "no")
        shown = (await owner.get(f"/approvals/{asked['approval_id']}")).json()
        assert (shown["status"], shown["quorum"], shown["votes"]) == ("denied", 1, [vote])


async def command(platform: Platform, state_dir: Path, *words: str) -> Any:
    """What ``agentcy … --json`` prints, run by a logged-in person."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "agentcy_ray.cli", *words, "--json",
        env={**os.environ, "AGENTCY_URL": platform.url, "AGENTCY_STATE_DIR": str(state_dir)},
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(60):
        printed, _ = await process.communicate()
    assert process.returncode == 0, printed
    return orjson.loads(printed)


async def test_two_people_decide_by_the_command_line_and_the_api(
    platform: Platform, tmp_path: Path
) -> None:
    owner, admin = await platform.as_("owner"), await platform.as_("admin")
    rego = (
        "package agentcy.eyes\nimport rego.v1\n"
        'require_approval contains {"msg": "four eyes", "quorum": 2} if '
        'input.resource.args.path == "a.md"\n'
    )
    made = await owner.post("/policies", json={"name": "eyes.rego", "rego": rego, "enabled": True})
    assert made.status_code == 201, made.text
    try:
        _, asked = await waiting(platform, "four-eyes")
        approval = asked["approval_id"]
        login = credentials("admin")
        settings = Settings.load({}, agentcy_state_dir=tmp_path)
        async with Client(settings, platform.url) as client:
            await client.login(login["email"], login["password"])
        listed = await command(platform, tmp_path, "approvals", "list")
        assert [(one["id"], one["quorum"]) for one in listed] == [(approval, 2)]
        first = await command(platform, tmp_path, "approvals", "approve", approval, "--note", "ok")
        assert (first["status"], len(first["votes"])) == ("pending", 1)
        decided = (await owner.post(f"/approvals/{approval}", json={"approved": True})).json()
        assert decided["status"] == "approved"
        shown = await command(platform, tmp_path, "approvals", "show", approval)
        assert [(vote["via"], vote["note"]) for vote in shown["votes"]] == [
            ("cli", "ok"), ("api", None),
        ]  # fmt: skip
        late = await admin.post(f"/approvals/{approval}", json={"approved": False})
        assert (late.status_code, late.json()["error"]["code"]) == (409, "already_decided")
    finally:
        await owner.delete(f"/policies/{made.json()['id']}")


async def test_an_approval_is_not_decided_by_way_of_another_conversation(
    platform: Platform,
) -> None:
    _, asked = await waiting(platform, "elsewhere")
    owner, other = await platform.as_("owner"), await platform.conversation()
    path = f"/chat/conversations/{other}/approvals/{asked['approval_id']}"
    assert (await owner.post(path, json={"approved": True})).status_code == 404
    denied = await owner.post(f"/approvals/{asked['approval_id']}", json={"approved": False})
    assert denied.status_code == 200
