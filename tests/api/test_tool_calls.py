"""``POST …/tool-calls``: one call, or many, through the same gates."""

from __future__ import annotations

from typing import Any

import httpx2 as httpx
import pytest

from tests.api.platform import Platform


def call(tool: str = "search", connector: str = "rag", **args: Any) -> dict[str, Any]:
    return {"connector": connector, "tool": tool, "args": args or {"query": "anything"}}


async def post(platform: Platform, body: Any, who: str = "owner", **how: Any) -> httpx.Response:
    conversation = how.pop("conversation", None) or await platform.conversation(who)
    client = await platform.as_(who)
    return await client.post(f"/chat/conversations/{conversation}/tool-calls", json=body, **how)


@pytest.mark.requirement("TOOL-05")
async def test_one_call_and_a_call_of_a_batch_answer_alike(platform: Platform) -> None:
    single = (await post(platform, call())).json()
    (batched,) = (await post(platform, {"calls": [call()]})).json()["results"]
    assert single.keys() == batched.keys()
    for answer in (single, batched):
        assert answer["tool_call_id"].startswith("tc_")
        assert answer["status"] == "completed"
        assert answer["usage_ms"] > 0
        assert answer["policy"]["decision"] == "allow"
        assert answer["policy"]["audit_id"].startswith("aud_")


async def test_a_batch_has_one_result_for_each_call_in_order(platform: Platform) -> None:
    conversation = await platform.conversation()
    calls = [call(), call("serch"), call(query=3), call(connector="demo", tool="x")] * 32
    answer = await post(platform, {"calls": calls}, conversation=conversation)
    assert answer.status_code == 200
    results = answer.json()["results"]
    assert [result["error"] and result["error"]["code"] for result in results] == [
        None, "tool_not_found", "invalid_args", "tool_not_found"
    ] * 32  # fmt: skip
    assert len({result["tool_call_id"] for result in results}) == 128
    owner = await platform.as_("owner")
    path = f"/chat/conversations/{conversation}/tool-calls/{results[0]['tool_call_id']}"
    assert (await owner.get(path)).json()["status"] == "completed"


async def test_a_call_that_waits_for_a_person_does_not_hold_its_batch_up(
    platform: Platform,
) -> None:
    restart = call("restart_service", "demo", service="service-1") | {"source": "waiting-room"}
    source = await platform.source(name="waiting-room", connector="demo", config={})
    answer = await post(platform, {"calls": [restart, call()]})
    waiting, done = answer.json()["results"]
    assert (waiting["status"], done["status"]) == ("pending_approval", "completed")
    assert waiting["approval_id"].startswith("apr_")
    owner = await platform.as_("owner")
    await owner.post(f"/approvals/{waiting['approval_id']}", json={"approved": False})
    await owner.delete(f"/sources/{source['id']}")


@pytest.mark.parametrize("calls", [[], [call()] * 129])
async def test_an_empty_or_too_long_batch_is_refused(
    platform: Platform, calls: list[dict[str, Any]]
) -> None:
    answer = await post(platform, {"calls": calls})
    assert answer.status_code == 422
    assert answer.json()["error"]["code"] == "validation_failed"


async def test_a_repeated_batch_has_its_first_answer_and_no_second_effect(
    platform: Platform,
) -> None:
    conversation = await platform.conversation()
    how = {"conversation": conversation, "headers": {"idempotency-key": "batch-1"}}
    first = await post(platform, {"calls": [call(), call("serch")]}, **dict(how))
    again = await post(platform, {"calls": [call(), call("serch")]}, **dict(how))
    assert again.json() == first.json()
    assert again.headers["idempotent-replay"] == "true"
    other = await post(platform, {"calls": [call()]}, **dict(how))
    assert other.json()["error"]["code"] == "idempotency_mismatch"


@pytest.mark.requirement("TOOL-02")
async def test_each_tool_is_first_for_its_own_description(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentcy_ray.agent.tool_vectors.WAIT_SECS", 60.0)  # however busy it is
    owner = await platform.as_("owner")
    source = await platform.source(name="shelf", connector="demo", config={})
    tools = (await owner.get("/catalog/tools")).json()["items"]
    await platform.services.gates.catalog.settled()
    for tool in tools:
        query = {"q": tool["description"][:500], "top_k": 1}
        (best,) = (await owner.get("/catalog/search", params=query)).json()["tools"]
        assert best["name"] == tool["name"]
    await owner.delete(f"/sources/{source['id']}")
