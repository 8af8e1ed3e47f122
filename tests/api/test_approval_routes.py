"""Approvals over HTTP: who may decide, in which conversation, and by whose rules."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.api.platform import Platform

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


async def test_an_approval_is_not_decided_by_way_of_another_conversation(
    platform: Platform,
) -> None:
    _, asked = await waiting(platform, "elsewhere")
    owner, other = await platform.as_("owner"), await platform.conversation()
    path = f"/chat/conversations/{other}/approvals/{asked['approval_id']}"
    assert (await owner.post(path, json={"approved": True})).status_code == 404
    denied = await owner.post(f"/approvals/{asked['approval_id']}", json={"approved": False})
    assert denied.status_code == 200
