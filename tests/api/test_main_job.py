"""The main job through the API: connect, sync, search, ask, act with approval, audit."""

from __future__ import annotations

import asyncio
from itertools import pairwise

from agentcy_ray.llm.scripted import scripted_reference
from tests.api.platform import Event, Platform, ask, events
from tests.connectors.git.repos import Repo

GUIDE = b"""# Gateway

The gateway balances requests over three replicas with the least-connections rule.

## Restart

To restart the gateway, drain it first, then run `make restart-gateway` on the bastion host.
"""


async def test_a_person_connects_a_repository_asks_it_and_acts_with_an_approval(
    platform: Platform,
) -> None:
    owner = await platform.as_("owner")
    repo = Repo(platform.roots / "gateway.git")
    repo.commit({"docs/gateway.md": GUIDE, "app.py": b"def main() -> None: ...\n"}, author="Ada")
    repo.commit({"app.py": b"def main() -> int: return 0\n"}, author="Grace", message="Return 0\n")

    # connect and sync
    source = await platform.source(name="gateway", connector="git", config={"url": str(repo.path)})
    assert source["realm"] == "development"
    tested = await owner.post(f"/sources/{source['id']}/test")
    assert tested.json() == {"ok": True, "faults": []}
    run = await platform.sync(source["id"])
    assert (run["status"], run["error"]) == ("synced", None)
    again = await platform.sync(source["id"])
    assert again["status"] == "synced"

    # the graph
    stats = (await owner.get("/context/stats", params={"realm": "development"})).json()
    assert stats["labels"]["GitCommit"] == 2
    assert stats["labels"]["GitAuthor"] == 2
    schema = (await owner.get("/context/schema")).json()
    assert "TOUCHES" in {kind["name"] for kind in schema["types"]}
    asked = {"query": "MATCH (c:GitCommit) RETURN count(c) AS n", "realm": "development"}
    answer = (await owner.post("/context/query", json=asked)).json()
    assert (answer["rows"], answer["truncated"]) == ([[2]], False)

    # retrieval
    found = await owner.post("/rag/hybrid", json={"query": "how to restart the gateway"})
    assert found.status_code == 200, found.text
    hit = found.json()["hits"][0]
    assert "restart-gateway" in hit["snippet"]
    assert hit["source"]["connector"] == "git"

    # a question over the stream, answered offline with citations
    conversation = await platform.conversation(realm="development")
    events = await ask(platform, conversation, "How do I restart the gateway?")
    assert [event.id for event in events] == list(range(1, len(events) + 1))
    text = "".join(e.data["delta"] for e in events if e.type == "content_delta")
    assert text.startswith("Offline answer (retrieval only).")
    assert "make restart-gateway" in text
    assert events[-1].type == "message_end"
    cited = [event.data for event in events if event.type == "citation"]
    assert any(one["node_id"] == hit["node_id"] for one in cited)
    messages = (await owner.get(f"/chat/conversations/{conversation}/messages")).json()["items"]
    assert [message["role"] for message in messages] == ["user", "assistant"]
    assert messages[1]["citations"]

    # a governed action: it waits, a person approves, it happens once
    folder = platform.roots / "runbooks"
    folder.mkdir()
    await platform.source(
        name="runbooks", connector="files", realm="knowledge",
        config={"root": str(folder), "writable": True},
    )  # fmt: skip
    desk = await platform.conversation()
    call = {
        "connector": "files",
        "source": "runbooks",
        "tool": "write_file",
        "args": {"path": "restart.md", "content": "Drain it first.\n"},
    }
    path = f"/chat/conversations/{desk}/tool-calls"
    waiting = await owner.post(path, json=call)
    assert waiting.status_code == 202, waiting.text
    assert waiting.json()["status"] == "pending_approval"
    assert not list(folder.iterdir())
    listed = await owner.get("/approvals", params={"status": "pending", "limit": 200})
    approval = waiting.json()["approval_id"]
    tool_call, pending = waiting.json()["tool_call_id"], listed.json()["items"]
    assert [one["id"] for one in pending if one["tool_call_id"] == tool_call] == [approval]
    decided = await owner.post(f"/approvals/{approval}", json={"approved": True})
    assert decided.status_code == 200, decided.text
    twice = await owner.post(f"/approvals/{approval}", json={"approved": False})
    assert (twice.status_code, twice.json()["error"]["code"]) == (409, "already_decided")
    done = await _settled(platform, f"{path}/{tool_call}")
    assert done["status"] == "completed", done
    assert (folder / "restart.md").read_text() == "Drain it first.\n"

    # the audit log knows all of it, and its chain holds
    rows = (await owner.get("/policies/audit", params={"limit": 200})).json()["items"]
    actions = [row["action"] for row in rows]
    assert {"source.create", "chat.tool.execute", "chat.approve"} <= set(actions)
    verified = (await owner.get("/policies/audit/verify")).json()
    assert verified["ok"]
    newest = (await owner.get("/policies/audit", params={"limit": 1})).json()["items"][0]["seq"]
    assert rows[0]["seq"] <= verified["checked"] <= newest


async def test_an_agents_write_waits_for_a_person_and_happens_once(platform: Platform) -> None:
    owner = await platform.as_("owner")
    folder = platform.roots / "agent-notes"
    folder.mkdir()
    config = {"root": str(folder), "writable": True}
    await platform.source(name="notes", connector="files", config=config)
    args = {"path": "note.md", "content": "Agreed.\n"}
    model = scripted_reference(
        tools="files@notes.write_file", args={"files@notes.write_file": args}
    )
    conversation = await platform.conversation(model=model)
    path = f"/chat/conversations/{conversation}/messages"
    log: list[Event] = []
    async for event in events(owner, "POST", path, json={"content": "Note that"}):
        log.append(event)
        if event.type == "approval_required":
            assert not list(folder.iterdir())
            approval = event.data["approval_id"]
            listed = (await owner.get(f"/chat/conversations/{conversation}/approvals")).json()
            assert [one["id"] for one in listed["items"]] == [approval]
            nested = f"/chat/conversations/{conversation}/approvals/{approval}"
            decided = await owner.post(nested, json={"approved": True, "note": "fine"})
            assert decided.status_code == 200, decided.text
    kinds = [event.type for event in log]
    for earlier, later in pairwise((
        "approval_required",
        "approval_resolved",
        "tool_result",
        "message_end",
    )):
        assert kinds.index(earlier) < kinds.index(later)
    assert (folder / "note.md").read_text() == "Agreed.\n"
    (result,) = [event.data for event in log if event.type == "tool_result"]
    assert result["status"] == "completed"
    run_id = log[0].data["run_id"]
    params = {"run_id": run_id, "resource.tool": "files.write_file"}
    rows = (await owner.get("/policies/audit", params=params)).json()["items"]
    assert {row["category"] for row in rows} >= {"chat"}
    assert result["policy"]["audit_id"] in {row["id"] for row in rows}
    assert (await owner.get("/policies/audit/verify")).json()["ok"]


async def _settled(platform: Platform, path: str) -> dict[str, str]:
    """The tool call once it has ended; an approved one is carried out in the background."""
    owner = await platform.as_("owner")
    carried_out = set(platform.services.gates.direct._waiting)
    if carried_out:
        await asyncio.wait(carried_out, timeout=60)
    return (await owner.get(path)).json()
