"""Lists: cursors, filters, read marks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import httpx2 as httpx
import pytest

from tests.api.platform import Platform, ask

Add = Callable[[int], Awaitable[Any]]


async def walk(
    client: httpx.AsyncClient, path: str, between: Add, *, limit: int = 2, last: str | None = None
) -> list[str]:
    """A list by small pages, to its end or to ``last``; something is inserted meanwhile."""
    seen: list[str] = []
    cursor, number = None, 0
    while True:
        params = {"limit": limit, **({"cursor": cursor} if cursor else {})}
        answer = await client.get(path, params=params)
        assert answer.status_code == 200, answer.text
        page = answer.json()
        assert len(page["items"]) <= limit
        seen += [str(item.get("id") or item["name"]) for item in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None or last in seen:
            return seen
        number += 1
        assert number < 100
        if number < 4:
            await between(number)


@pytest.mark.requirement("API-04")
@pytest.mark.parametrize("path", ["/chat/conversations", "/agents", "/realms", "/policies/audit"])
async def test_a_walk_while_rows_are_inserted_meets_each_earlier_row_once(
    platform: Platform, path: str
) -> None:
    owner = await platform.as_("owner")
    name = path.rpartition("/")[2]

    async def add(number: int) -> None:
        body = {"title": f"walk {number}"} if name == "conversations" else {"name": f"w{number}"}
        target = "/realms" if name == "audit" else path
        if target == "/realms":
            body = {"name": f"{name[:2]}{number}"}
        answer = await owner.post(target, json=body)
        assert answer.status_code == 201, answer.text

    for number in range(10, 15):
        await add(number)
    whole = (await owner.get(path, params={"limit": 200})).json()
    earlier = [str(item.get("id") or item["name"]) for item in whole["items"]]
    # Other tests of the platform have left more than this one will look at.
    last = earlier[-1] if whole["next_cursor"] else None
    seen = await walk(owner, path, add, limit=max(2, len(earlier) // 5), last=last)
    assert len(seen) == len(set(seen))
    assert [one for one in seen if one in set(earlier)] == earlier
    assert len(earlier) >= 5


@pytest.mark.requirement("API-04")
async def test_messages_and_runs_are_walked_each_once(platform: Platform) -> None:
    owner = await platform.as_("owner")
    conversation = await platform.conversation(model="scripted:tokens=2")
    for number in range(3):
        await ask(platform, conversation, f"question {number}")

    async def add(number: int) -> None:
        await ask(platform, conversation, f"later {number}")

    messages = await walk(owner, f"/chat/conversations/{conversation}/messages", add)
    assert len(messages) == len(set(messages))
    whole = await owner.get(f"/chat/conversations/{conversation}/messages")
    assert [item["seq"] for item in whole.json()["items"]] == list(range(1, len(messages) + 1))
    assert messages == [item["id"] for item in whole.json()["items"]]  # oldest first: all of them

    runs = (await owner.get("/runs", params={"conversation_id": conversation})).json()["items"]
    earlier = [run["id"] for run in runs]
    walked = await walk(owner, "/runs", add, last=earlier[-1])
    assert [run for run in walked if run in earlier] == earlier


@pytest.mark.requirement("API-12")
async def test_unread_lists_just_those_with_messages_after_the_read_mark(
    platform: Platform,
) -> None:
    owner = await platform.as_("owner")
    title = "about unread marks"
    spoken = [await platform.conversation(title=title, model="scripted:tokens=2") for _ in "ab"]
    silent = await platform.conversation(title=title)
    for conversation in spoken:
        await ask(platform, conversation, "hello")

    async def unread() -> dict[str, int]:
        params = {"unread": "true", "q": "ABOUT unread", "limit": 200}
        items = (await owner.get("/chat/conversations", params=params)).json()["items"]
        return {item["id"]: item["unread_count"] for item in items}

    assert await unread() == dict.fromkeys(spoken, 1)  # the answers; one's own words are read
    mark = f"/chat/conversations/{spoken[0]}/read"
    assert (await owner.post(mark, json={"seq": 1})).status_code == 204
    assert await unread() == dict.fromkeys(spoken, 1)
    assert (await owner.post(mark, json={"seq": 99})).status_code == 204
    assert await unread() == {spoken[1]: 1}
    assert (await owner.post(mark, json={"seq": 1})).status_code == 204  # never goes back
    assert await unread() == {spoken[1]: 1}
    await ask(platform, spoken[0], "again")
    assert await unread() == dict.fromkeys(spoken, 1)

    every = await owner.get("/chat/conversations", params={"q": title, "limit": 200})
    assert {item["id"] for item in every.json()["items"]} == {*spoken, silent}


async def test_archived_conversations_are_a_list_of_their_own(platform: Platform) -> None:
    owner = await platform.as_("owner")
    conversation = await platform.conversation(title="put away")
    changed = await owner.patch(f"/chat/conversations/{conversation}", json={"archived": True})
    assert changed.json()["archived"]
    for archived, there in (("true", True), ("false", False)):
        params = {"archived": archived, "q": "put away"}
        items = (await owner.get("/chat/conversations", params=params)).json()["items"]
        assert bool(items) is there


async def test_the_audit_log_is_filtered_and_exported(platform: Platform) -> None:
    owner, viewer = await platform.as_("owner"), await platform.as_("viewer")
    assert (await viewer.post("/realms", json={"name": "nope"})).status_code == 403
    refused = {"decision": "deny", "action": "realm.write"}
    denied = (await owner.get("/policies/audit", params=refused)).json()["items"]
    assert denied
    assert all(row["decision"] == "deny" for row in denied)
    mine = await owner.get(
        "/policies/audit",
        params={"user_id": denied[0]["user_id"], "action": "realm.write", "decision": "deny"},
    )
    (entry,) = [row for row in mine.json()["items"] if row["seq"] == denied[0]["seq"]]
    one = (await owner.get(f"/policies/audit/{entry['id']}")).json()
    assert one["input"]["action"] == "realm.write"
    naive = await owner.get("/policies/audit", params={"since": "2026-01-01T00:00:00"})
    assert naive.status_code == 422
    export = await owner.get("/policies/audit.csv", params={"decision": "deny"})
    assert export.headers["content-type"].startswith("text/csv")
    assert len(export.text.strip().splitlines()) >= 2
