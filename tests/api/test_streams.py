"""Streams of runs over HTTP: numbered, resumable, independent of who listens."""

from __future__ import annotations

import asyncio

import pytest

from tests.api.platform import Event, Platform, ask, events, read_events, uid

TALK = "scripted:tokens=40,itl=1"
SLOW = "scripted:tokens=4000,itl=25"


def assert_whole(log: list[Event]) -> None:
    assert [event.id for event in log] == list(range(1, len(log) + 1))
    assert log[0].type == "message_start"
    ends = [event for event in log if event.type in ("message_end", "error")]
    assert ends == [log[-1]]
    if log[-1].type == "message_end":
        usage = log[-1].data["usage"]
        assert usage["in_tokens"] > 0
        assert usage["out_tokens"] > 0
        assert "cost_usd" in usage


@pytest.mark.requirement("SSE-01")
@pytest.mark.parametrize(
    ("model", "end"),
    [(TALK, "message_end"), ("offline:extractive", "message_end"), ("scripted:fail=3", "error")],
)
async def test_a_stream_is_numbered_from_its_start_to_its_one_end(
    platform: Platform, model: str, end: str
) -> None:
    log = await ask(platform, await platform.conversation(), "What is there?", model=model)
    assert_whole(log)
    assert log[-1].type == end


async def test_a_stream_tells_how_to_come_back(platform: Platform) -> None:
    owner = await platform.as_("owner")
    path = f"/chat/conversations/{await platform.conversation()}/messages"
    async with owner.stream("POST", path, json={"content": "Hi", "model": TALK}) as answer:
        raw = (await answer.aread()).decode()
    assert raw.startswith("retry: 2000\n\n")
    assert answer.headers["cache-control"] == "no-store"
    for block in raw.strip().split("\n\n")[1:]:
        names = [line.partition(":")[0] for line in block.split("\n")]
        assert names == ["id", "event", "data"]


@pytest.mark.requirement("SSE-07")
async def test_a_finished_run_is_replayed_from_anywhere_and_closed(platform: Platform) -> None:
    owner = await platform.as_("owner")
    log = await ask(platform, await platform.conversation(), "Hi", model=TALK)
    path = f"/runs/{log[0].data['run_id']}/events"
    assert [e async for e in events(owner, "GET", path)] == log
    last = {"last-event-id": "2"}
    assert [e async for e in events(owner, "GET", path, headers=last)] == log[2:]
    assert [e async for e in events(owner, "GET", path, params={"after": 3})] == log[3:]
    page = await owner.get(path, headers={"accept": "application/json"}, params={"limit": 2})
    assert [item["seq"] for item in page.json()["items"]] == [1, 2]
    for bad in ("x", "-1", "1" * 40):
        refused = await owner.get(path, headers={"last-event-id": bad})
        assert refused.json()["error"]["code"] == "bad_request", bad


@pytest.mark.requirement("SSE-07")
async def test_a_log_past_its_retention_is_gone(platform: Platform) -> None:
    owner = await platform.as_("owner")
    log = await ask(platform, await platform.conversation(), "Hi", model=TALK)
    run_id = log[0].data["run_id"]
    await platform.sql(
        "UPDATE runs SET ended_at = ended_at - interval '31 days' WHERE id = $1", uid(run_id)
    )
    for headers in ({}, {"accept": "application/json"}):
        answer = await owner.get(f"/runs/{run_id}/events", headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (410, "event_log_gone")


@pytest.mark.requirement("SSE-03")
async def test_the_same_key_attaches_to_the_first_run(platform: Platform) -> None:
    owner = await platform.as_("owner")
    conversation = await platform.conversation()
    path = f"/chat/conversations/{conversation}/messages"
    how = {
        "json": {"content": "Once only", "model": TALK},
        "headers": {"idempotency-key": "ask-once"},
    }
    first = [e async for e in events(owner, "POST", path, **how)]
    again = [e async for e in events(owner, "POST", path, **how)]
    assert again == first
    assert_whole(again)
    assert len((await owner.get(path)).json()["items"]) == 2
    how["json"] = {"content": "Something else", "model": TALK}
    mismatch = await owner.post(path, **how)
    assert mismatch.json()["error"]["code"] == "idempotency_mismatch"


@pytest.mark.requirement("SSE-06")
async def test_a_client_that_leaves_and_comes_back_misses_nothing(platform: Platform) -> None:
    owner = await platform.as_("owner")
    path = f"/chat/conversations/{await platform.conversation()}/messages"
    body = {"content": "Talk", "model": "scripted:tokens=60,itl=10"}
    seen: list[Event] = []
    async with owner.stream("POST", path, json=body) as answer:
        async for event in read_events(answer):
            seen.append(event)
            if len(seen) == 3:
                break
    run_id = seen[0].data["run_id"]
    last = {"last-event-id": str(seen[-1].id)}
    rest = [e async for e in events(owner, "GET", f"/runs/{run_id}/events", headers=last)]
    assert_whole(seen + rest)
    assert rest[-1].data["finish_reason"] == "end_turn"


@pytest.mark.requirement("SSE-06")
async def test_a_client_that_leaves_ends_its_run_when_it_said_so(platform: Platform) -> None:
    owner = await platform.as_("owner")
    path = f"/chat/conversations/{await platform.conversation()}/messages"
    body = {"content": "Talk", "model": SLOW, "on_disconnect": "cancel"}
    async with owner.stream("POST", path, json=body) as answer:
        async for event in read_events(answer):
            if event.type == "content_delta":
                break
    run = await platform.run_ended(event.data["run_id"])
    assert (run["status"], run["finish_reason"]) == ("cancelled", "cancelled")


@pytest.mark.requirement("AGT-05")
async def test_a_second_message_meets_a_busy_conversation(platform: Platform) -> None:
    owner = await platform.as_("owner")
    conversation = await platform.conversation()
    path = f"/chat/conversations/{conversation}/messages"
    json = {"accept": "application/json"}
    started = await owner.post(path, json={"content": "Talk", "model": SLOW}, headers=json)
    assert started.status_code == 202
    run_id = started.json()["run_id"]
    busy = await owner.post(path, json={"content": "And?", "model": SLOW}, headers=json)
    assert busy.status_code == 409
    error = busy.json()["error"]
    assert (error["code"], error["details"]) == ("conversation_busy", {"run_id": run_id})
    shown = (await owner.get(f"/chat/conversations/{conversation}")).json()
    assert shown["active_run_id"] == run_id
    cancelled = await owner.post(f"/chat/conversations/{conversation}/cancel")
    assert (cancelled.status_code, cancelled.json()["run_id"]) == (202, run_id)
    assert (await platform.run_ended(run_id))["status"] == "cancelled"
    nothing = await owner.post(f"/chat/conversations/{conversation}/cancel")
    assert (nothing.status_code, nothing.json()["error"]["code"]) == (409, "state_conflict")
    ended = await owner.post(f"/runs/{run_id}/cancel")
    assert ended.json()["error"]["code"] == "state_conflict"


async def test_an_unknown_model_is_the_askers_mistake(platform: Platform) -> None:
    owner = await platform.as_("owner")
    conversation = await platform.conversation()
    path = f"/chat/conversations/{conversation}/messages"
    for model in ("gpt", "nobody:x", "scripted:what=1"):
        answer = await owner.post(path, json={"content": "Hi", "model": model})
        assert answer.status_code == 422, answer.text
    assert (await owner.get(path)).json()["items"] == []


async def test_the_audit_log_is_followed_live(platform: Platform) -> None:
    owner = await platform.as_("owner")
    newest = (await owner.get("/policies/audit", params={"limit": 1})).json()["items"][0]["seq"]
    follow = events(owner, "GET", "/policies/audit/stream", headers={"last-event-id": str(newest)})

    async def until_the_realm() -> list[Event]:
        seen: list[Event] = []
        async for event in follow:
            if event.type == "audit":
                seen.append(event)
                if event.data["action"] == "realm.write":
                    return seen
        raise AssertionError("the stream ended")

    waiting = asyncio.create_task(until_the_realm())
    await owner.post("/realms", json={"name": "followed"})
    seen = await asyncio.wait_for(waiting, 60)
    await follow.aclose()
    assert [event.id for event in seen] == [event.data["seq"] for event in seen]
    assert [event.id for event in seen] == list(range(newest + 1, newest + 1 + len(seen)))
