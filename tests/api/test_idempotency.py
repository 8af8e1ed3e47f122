"""``Idempotency-Key``: one effect, the first answer again."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import pytest
from fastapi.routing import APIRoute

from tests.api.platform import Platform

NATURALLY = {
    # A second request finds it done, or is refused by the state.
    "/chat/conversations/{conversation_id}/cancel", "/runs/{run_id}/cancel",
    "/sync-runs/{sync_run_id}/cancel", "/rag/spaces/{space_id}/backfill",
    "/rag/swaps/{swap_id}/check",
    # Nobody is known yet whom a key could belong to; an e-mail and an invite work once.
    "/auth/register",
}  # fmt: skip
"""Routes that create or start something, and take no key for a reason."""
TAKES = ("once", "replied", "key_of")


@pytest.mark.requirement("API-05")
@pytest.mark.parametrize(
    ("path", "body", "other"),
    [
        ("/chat/conversations", {"title": "once"}, {"title": "twice"}),
        ("/agents", {"name": "once-agent"}, {"name": "twice-agent"}),
        ("/realms", {"name": "once-realm"}, {"name": "twice-realm"}),
    ],
)
async def test_a_repeated_post_gets_the_first_answer_without_a_second_effect(
    platform: Platform, path: str, body: Any, other: Any
) -> None:
    owner = await platform.as_("owner")
    key = {"idempotency-key": f"key-{path[1:6]}"}
    first = await owner.post(path, json=body, headers=key)
    assert first.status_code == 201, first.text
    assert "idempotent-replay" not in first.headers
    again = await owner.post(path, json=body, headers=key)
    assert (again.status_code, again.json()) == (201, first.json())
    assert again.headers["idempotent-replay"] == "true"
    listed = (await owner.get(path, params={"limit": 200})).json()["items"]
    field, value = next(iter(body.items()))
    assert sum(item[field] == value for item in listed) == 1
    mismatch = await owner.post(path, json=other, headers=key)
    assert mismatch.status_code == 409
    assert mismatch.json()["error"]["code"] == "idempotency_mismatch"


@pytest.mark.requirement("API-05")
async def test_a_repeated_tool_call_is_not_made_again(platform: Platform) -> None:
    owner = await platform.as_("owner")
    folder = platform.roots / "once"
    folder.mkdir()
    await platform.source(name="once", connector="files", config={"root": str(folder)})
    path = f"/chat/conversations/{await platform.conversation()}/tool-calls"
    call = {"connector": "files", "tool": "list_files", "source": "once", "args": {}}
    key = {"idempotency-key": "one-call"}
    first = await owner.post(path, json=call, headers=key)
    assert first.status_code == 200, first.text
    again = await owner.post(path, json=call, headers=key)
    assert again.json() == first.json()
    failing = {**call, "tool": "read_file", "args": {"path": "absent.md"}}
    key = {"idempotency-key": "one-failure"}
    failed = await owner.post(path, json=failing, headers=key)
    assert failed.status_code >= 400
    repeated = await owner.post(path, json=failing, headers=key)
    assert (repeated.status_code, repeated.json()) == (failed.status_code, failed.json())


async def test_of_two_that_race_with_one_key_one_has_an_effect(platform: Platform) -> None:
    owner = await platform.as_("owner")
    key = {"idempotency-key": "race"}
    answers = await asyncio.gather(
        *(owner.post("/agents", json={"name": "racer"}, headers=key) for _ in range(6))
    )
    assert {answer.status_code for answer in answers} <= {201, 409}
    made = {answer.json()["id"] for answer in answers if answer.status_code == 201}
    assert len(made) == 1


async def test_a_refused_request_leaves_its_key_free(platform: Platform) -> None:
    owner = await platform.as_("owner")
    key = {"idempotency-key": "second-try"}
    body = {"name": "default"}
    assert (await owner.post("/agents", json=body, headers=key)).status_code == 409
    assert (await owner.post("/agents", json={"name": "free"}, headers=key)).status_code == 201


@pytest.mark.parametrize("key", ["", "x" * 129, "two words", "é"])
async def test_a_malformed_key_is_refused(platform: Platform, key: str) -> None:
    owner = await platform.as_("owner")
    headers = {"idempotency-key": key.encode()}
    answer = await owner.post("/agents", json={"name": "never"}, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "bad_request")


async def test_keys_of_two_organisations_do_not_meet(platform: Platform) -> None:
    key = {"idempotency-key": "shared"}
    ids = set()
    for who in ("owner", "other"):
        client = await platform.as_(who)
        answer = await client.post("/agents", json={"name": "shared"}, headers=key)
        assert answer.status_code == 201
        ids.add(answer.json()["id"])
    assert len(ids) == 2


def test_every_post_that_creates_or_starts_something_takes_a_key(platform: Platform) -> None:
    without = {
        route.path_format.removeprefix("/api/v1")
        for route in platform.app.routes
        if isinstance(route, APIRoute) and "POST" in route.methods
        if route.status_code in (201, 202) or route.path_format.endswith("/activity")
        if not any(f"{name}(" in inspect.getsource(route.endpoint) for name in TAKES)
    }
    assert without <= NATURALLY


@pytest.mark.attack
async def test_an_answer_is_given_again_to_its_own_caller_alone(platform: Platform) -> None:
    owner, admin = await platform.as_("owner"), await platform.as_("admin")
    key, body = {"idempotency-key": "somebody-elses"}, {"title": "mine"}
    first = await owner.post("/chat/conversations", json=body, headers=key)
    assert first.status_code == 201
    for path in ("/chat/conversations", "/chat/conversations?x=1"):
        client = admin if path.endswith("s") else owner
        answer = await client.post(path, json=body, headers=key)
        assert (answer.status_code, answer.json()["error"]["code"]) == (
            409,
            "idempotency_mismatch",
        )
        assert first.json()["id"] not in answer.text


@pytest.mark.requirement("API-05")
async def test_what_is_asked_or_told_twice_is_marked_and_counts_once(platform: Platform) -> None:
    owner = await platform.as_("owner")
    asked = f"/chat/conversations/{await platform.conversation(model='scripted:tokens=1')}/messages"
    happened = {"name": "told.twice", "target": "/x", "at": "2026-01-01T00:00:00Z"}
    for path, body, accept in (
        ("/activity", {"events": [happened]}, "*/*"),
        (asked, {"content": "hello"}, "application/json"),
    ):
        headers = {"idempotency-key": "twice", "accept": accept}
        first = await owner.post(path, json=body, headers=headers)
        again = await owner.post(path, json=body, headers=headers)
        assert (first.status_code, first.content) == (again.status_code, again.content)
        assert "idempotent-replay" not in first.headers
        assert again.headers["idempotent-replay"] == "true"
    rows = await platform.sql("SELECT 1 FROM ui_events WHERE name = 'told.twice'")
    assert len(rows) == 1
