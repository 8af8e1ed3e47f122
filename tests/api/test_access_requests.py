"""Asking for a connector that is missing."""

from __future__ import annotations

import pytest

from tests.api.platform import Platform

WANTED = {"connector": "jira", "reason": "the tickets are there"}


async def test_a_member_asks_once_and_an_admin_decides_once(platform: Platform) -> None:
    member, admin = await platform.as_("member"), await platform.as_("admin")
    first = await member.post("/access-requests", json=WANTED)
    assert first.status_code == 201
    asked = first.json()
    assert asked["id"].startswith("acc_")
    assert asked["status"] == "pending"
    assert (await member.post("/access-requests", json=WANTED)).json() == asked

    pending = {"status": "pending"}
    assert asked in (await admin.get("/access-requests", params=pending)).json()["items"]
    path = f"/access-requests/{asked['id']}"
    decided = (await admin.post(path, json={"status": "granted", "note": "by noon"})).json()
    assert (decided["status"], decided["note"]) == ("granted", "by noon")
    assert decided["decided_by"] != asked["user_id"]
    again = await admin.post(path, json={"status": "refused"})
    assert (again.status_code, again.json()["error"]["code"]) == (409, "already_decided")
    assert (await member.post("/access-requests", json=WANTED)).json()["id"] != asked["id"]


@pytest.mark.parametrize(("who", "status"), [("member", 403), ("viewer", 403), ("other", 404)])
async def test_only_an_admin_of_the_organisation_decides(
    platform: Platform, who: str, status: int
) -> None:
    member, client = await platform.as_("member"), await platform.as_(who)
    wanted = {"connector": f"for-{who}", "reason": "x"}
    asked = (await member.post("/access-requests", json=wanted)).json()
    answer = await client.post(f"/access-requests/{asked['id']}", json={"status": "granted"})
    assert answer.status_code == status
    if who == "viewer":
        assert (await client.post("/access-requests", json=wanted)).status_code == 403
