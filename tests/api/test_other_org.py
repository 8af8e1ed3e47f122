"""An id of another organisation is answered like one that does not exist, on every route."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import Any

import pytest

from agentcy_ray.api.openapi import PREFIX, permissions
from agentcy_ray.core.ids import decode, encode, new_id
from tests.api.platform import Event, Platform, ask, events

BODIES: dict[str, Any] = {
    "POST /access-requests/{request_id}": {"status": "granted"},
    "PATCH /agents/{agent_id}": {"description": "x"},
    "PATCH /users/{user_id}": {"active": False},
    "POST /approvals/{approval_id}": {"approved": True},
    "POST /chat/conversations/{conversation_id}/approvals/{approval_id}": {"approved": True},
    "POST /chat/conversations/{conversation_id}/messages": {"content": "x"},
    "POST /chat/conversations/{conversation_id}/read": {"seq": 1},
    "POST /chat/conversations/{conversation_id}/tool-calls": {
        "connector": "rag", "tool": "search", "args": {"query": "x"},
    },
    "PATCH /chat/conversations/{conversation_id}": {"title": "x"},
    "PUT /policies/{policy_id}": {"rego": "package agentcy.x"},
    "PATCH /context/pipelines/{pipeline_id}": {"enabled": False},
    "POST /context/pipelines/{pipeline_id}/tokens": {},
    "PATCH /realms/{name}": {"description": "x"},
    "PATCH /sources/{source_id}": {"schedule": "manual"},
    "POST /sources/{source_id}/sync": {},
    "POST /sources/{source_id}/revert": {},
}  # fmt: skip


@dataclass
class Things:
    """Ids of one object of each kind in the first organisation, by the name in paths."""

    ids: dict[str, str]
    package: str

    def fill(self, path: str) -> str:
        return re.sub(r"\{(\w+)\}", lambda match: self.ids[match[1]], path)


@pytest.fixture(scope="module")
async def things(platform: Platform) -> Things:
    owner = await platform.as_("owner")
    folder = platform.roots / "private"
    folder.mkdir()
    (folder / "secret.md").write_text("# Secret\n\nThe vault opens at noon.\n")
    config = {"root": str(folder), "writable": True}
    source = await platform.source(name="private", connector="files", config=config)
    run = await platform.sync(source["id"])
    assert run["status"] == "synced", run
    (package,) = (await owner.get(f"/sources/{source['id']}/packages")).json()["items"]
    conversation = await platform.conversation()
    log = await ask(platform, conversation, "hello", model="scripted:tokens=2")
    call = {
        "connector": "files", "source": "private", "tool": "write_file",
        "args": {"path": "x.md", "content": "x"},
    }  # fmt: skip
    waiting = await owner.post(f"/chat/conversations/{conversation}/tool-calls", json=call)
    (hit, *_) = (await owner.get("/context/search", params={"q": "secret"})).json()["hits"]
    await owner.post("/realms", json={"name": "hidden"})
    agent = await owner.post("/agents", json={"name": "private-agent"})
    audit = (await owner.get("/policies/audit", params={"limit": 1})).json()["items"][0]
    wish = {"connector": "jira", "reason": "tickets"}
    access = (await owner.post("/access-requests", json=wish)).json()
    artifact = await platform.services.gates.artifacts.store(
        platform.org_id, "x.txt", b"x", media_type="text/plain", kind="published"
    )
    policy = (await owner.get("/policies")).json()["items"][0]
    trial = {"policies": [{"name": "trial.rego", "rego": "package agentcy.trial"}]}
    replay = (await owner.post("/policies/replays", json=trial)).json()["replay"]
    new = {"name": "private", "kind": "webhook", "realm": "data"}
    pipeline = (await owner.post("/context/pipelines", json=new)).json()
    token = await owner.post(f"/context/pipelines/{pipeline['id']}/tokens", json={})
    new_key = {"name": "private", "permissions": ["graph.read"]}
    key = await owner.post("/api-keys", json=new_key)
    invite = await owner.post("/org/invites", json={"email": "new@acme.test"})
    (space, *_) = (await owner.get("/rag/spaces")).json()["items"]
    swap = new_id()
    await platform.sql(
        "INSERT INTO embedding_swaps (id, org_id, model, status) VALUES ($1, $2, 'm', 'cancelled')",
        swap, platform.org_id,
    )  # fmt: skip
    await platform.sql(
        "INSERT INTO embed_backfills (id, org_id, space_id, engine, status)"
        " VALUES ($1, $2, $3, 'coordinator', 'done')",
        new_id(), platform.org_id, decode("spc", space["space"]["id"]),
    )  # fmt: skip
    move = new_id()
    await platform.sql(
        "INSERT INTO engine_migrations (id, org_id, status) VALUES ($1, $2, 'cancelled')",
        move, platform.org_id,
    )  # fmt: skip
    return Things(
        {
            "source_id": source["id"], "sync_run_id": run["id"], "conversation_id": conversation,
            "run_id": log[0].data["run_id"], "approval_id": waiting.json()["approval_id"],
            "tool_call_id": waiting.json()["tool_call_id"], "node_id": hit["id"],
            "name": "hidden", "agent_id": agent.json()["id"], "job_id": run["job_id"],
            "audit_id": audit["id"], "policy_id": policy["id"], "replay_id": replay["id"],
            "request_id": access["id"], "artifact_id": encode("art", artifact.id),
            "pipeline_id": pipeline["id"], "token_id": token.json()["id"],
            "migration_id": encode("mig", move), "space_id": space["space"]["id"],
            "swap_id": encode("swp", swap), "key_id": key.json()["id"],
            "invite_id": invite.json()["id"],
            "user_id": encode("usr", platform.users["colleague"]),
        },
        package["id"],
    )  # fmt: skip


def routes(platform: Platform) -> list[tuple[str, str]]:
    """Those with an id in their path; connectors belong to the install."""
    named = permissions(platform.app)
    found = [(m, p.removeprefix(PREFIX)) for m, p in named if "{" in p and "{connector}" not in p]
    assert len(found) > 30
    return found


@pytest.mark.requirement("TEN-04")
async def test_every_route_answers_404_for_an_id_of_another_org(
    platform: Platform, things: Things
) -> None:
    other = await platform.as_("other")
    for method, path in routes(platform):
        body = BODIES.get(f"{method} {path}")
        if path.endswith("/revert"):
            body = {"package_id": things.package}
        answer = await other.request(method, things.fill(path), json=body)
        assert answer.status_code == 404, (method, path, answer.text)
        assert answer.json()["error"]["code"] == "not_found"


@pytest.mark.requirement("TEN-04")
async def test_the_same_ids_are_found_by_their_own_org(platform: Platform, things: Things) -> None:
    owner = await platform.as_("owner")
    for method, path in routes(platform):
        if method == "GET":
            answer = await owner.get(things.fill(path))
            assert answer.status_code == 200, (path, answer.text)


@pytest.mark.requirement("TEN-04")
async def test_a_conversation_of_ones_own_opens_nothing_of_another_org(
    platform: Platform, things: Things
) -> None:
    other = await platform.as_("other")
    mine = await platform.conversation("other")
    for kind, method, body in (
        (f"approvals/{things.ids['approval_id']}", "POST", {"approved": True}),
        (f"tool-calls/{things.ids['tool_call_id']}", "GET", None),
    ):
        answer = await other.request(method, f"/chat/conversations/{mine}/{kind}", json=body)
        assert answer.status_code == 404, kind
    changed = await other.patch(f"/chat/conversations/{mine}", json={"agent": "private-agent"})
    assert changed.status_code == 404
    hidden = await other.patch(f"/chat/conversations/{mine}", json={"realm": "hidden"})
    assert hidden.status_code == 422


async def test_lists_and_searches_show_nothing_of_another_org(
    platform: Platform, things: Things
) -> None:
    other = await platform.as_("other")
    for path in ("/sources", "/runs", "/approvals", "/jobs", "/realms", "/agents"):
        text = (await other.get(path, params={"limit": 200})).text
        assert not [one for one in things.ids.values() if f'"{one}"' in text], path
    runs = await other.get("/runs", params={"conversation_id": things.ids["conversation_id"]})
    assert runs.json()["items"] == []
    assert (await other.get("/context/search", params={"q": "secret"})).json()["total"] == 0
    found = await other.post("/rag/hybrid", json={"query": "when does the vault open"})
    assert found.json()["hits"] == []
    query = {"query": "MATCH (n) RETURN n.name AS name"}
    assert "secret" not in (await other.post("/context/query", json=query)).text
    tools = (await other.get("/catalog/tools")).json()["items"]
    assert "private" not in {tool["source"] for tool in tools}


@pytest.fixture(scope="module")
async def mine(platform: Platform) -> dict[str, str]:
    """What the other organisation has of its own."""
    folder = platform.roots / "mine"
    folder.mkdir()
    (folder / "mine.md").write_text("# Mine\n")
    config = {"root": str(folder)}
    source = await platform.source("other", name="mine", connector="files", config=config)
    other = await platform.as_("other")
    new = {"name": "mine", "kind": "webhook", "realm": "data"}
    pipeline = (await other.post("/context/pipelines", json=new)).json()
    conversation = await platform.conversation("other")
    return {"source": source["id"], "pipeline": pipeline["id"], "conversation": conversation}


@pytest.mark.attack
@pytest.mark.requirement("TEN-04")
async def test_ids_and_names_in_bodies_and_queries_open_nothing_of_another_org(
    platform: Platform, things: Things, mine: dict[str, str]
) -> None:
    other, ids = await platform.as_("other"), things.ids
    chat = f"/chat/conversations/{mine['conversation']}"
    call = {"connector": "files", "source": "private", "tool": "read_file"}
    question = "when does the vault open"
    tried: list[tuple[str, str, Any]] = [
        ("POST", f"/sources/{mine['source']}/revert", {"package_id": things.package}),
        ("POST", "/org/transfer", {"user_id": ids["user_id"]}),
        ("POST", "/chat/conversations", {"agent": "private-agent"}),
        ("POST", "/chat/conversations", {"realm": "hidden"}),
        ("PATCH", chat, {"agent": "private-agent"}),
        ("POST", f"{chat}/tool-calls", {**call, "args": {"path": "secret.md"}}),
        ("POST", f"{chat}/approvals/{ids['approval_id']}", {"approved": True}),
        ("GET", f"{chat}/tool-calls/{ids['tool_call_id']}", None),
        ("DELETE", f"/context/pipelines/{mine['pipeline']}/tokens/{ids['token_id']}", None),
        ("POST", "/context/pipelines", {"name": "x", "kind": "webhook", "realm": "hidden"}),
        ("POST", "/context/query", {"query": "MATCH (n) RETURN n", "realms": ["hidden"]}),
        ("POST", "/rag/hybrid", {"query": question, "realms": ["hidden"]}),
        ("POST", "/rag/search", {"query": question, "realms": ["hidden"]}),
        ("GET", "/context/search?q=secret&realms=hidden", None),
        ("GET", "/context/overview?realms=hidden", None),
        ("POST", "/api-keys", {"name": "x", "permissions": ["graph.read"], "realms": ["hidden"]}),
        ("PATCH", f"/users/{ids['user_id']}", {"role": "viewer"}),
    ]
    for method, path, body in tried:
        answer = await other.request(method, path, json=body)
        assert answer.status_code in (404, 422), (method, path, answer.text)
        assert "vault" not in answer.text.replace(question, ""), path
    for path in (
        f"/runs?conversation_id={ids['conversation_id']}",
        f"/context/search?q=secret&source={ids['source_id']}",
        f"/policies/audit?user_id={ids['user_id']}",
    ):
        answer = await other.get(path)
        shown = answer.json().get("items") or answer.json().get("hits")
        assert answer.status_code in (404, 422) or not shown, (path, answer.text)
    tools = (await other.get("/catalog/tools?realm=hidden")).json()["items"]
    assert "private" not in {tool["source"] for tool in tools}
    for after in ("0", "1", "999999"):
        resumed = await other.get(
            f"/runs/{ids['run_id']}/events",
            headers={"last-event-id": after, "accept": "text/event-stream"},
        )
        assert resumed.status_code == 404, after


@pytest.mark.attack
@pytest.mark.requirement("TEN-04")
async def test_a_cursor_of_another_org_leads_into_ones_own_lists_only(
    platform: Platform, things: Things
) -> None:
    owner, other = await platform.as_("owner"), await platform.as_("other")
    spec = platform.app.openapi()["paths"]
    lists = [
        path.removeprefix(PREFIX) for path, item in spec.items()
        if "{" not in path and any(p["name"] == "cursor" for p in item.get("get", {})
                                   .get("parameters", ()))
    ]  # fmt: skip
    assert len(lists) > 12
    used = 0
    for path in lists:
        first = await owner.get(path, params={"limit": 1})
        cursor = first.json()["next_cursor"]
        if cursor is None:
            continue
        everything = await owner.get(path, params={"limit": 200})
        theirs = {item["id"] for item in everything.json()["items"] if "id" in item}
        page = await other.get(path, params={"cursor": cursor, "limit": 200})
        assert page.status_code in (200, 400), (path, page.text)
        shown = {item["id"] for item in page.json().get("items", ()) if "id" in item}
        assert not shown & theirs, path
        used += 1
    assert used > 4


@pytest.mark.attack
@pytest.mark.requirement("TEN-04")
async def test_an_idempotency_key_of_another_org_replays_nothing(platform: Platform) -> None:
    owner, other = await platform.as_("owner"), await platform.as_("other")
    head, body = {"idempotency-key": "the-same-word"}, {"name": "one-key"}
    first = await owner.post("/agents", json=body, headers=head)
    second = await other.post("/agents", json=body, headers=head)
    assert (first.status_code, second.status_code) == (201, 201)
    assert "idempotent-replay" not in second.headers
    assert first.json()["id"] != second.json()["id"]


@pytest.mark.attack
@pytest.mark.requirement("TEN-04")
async def test_a_stream_of_the_audit_log_resumes_in_ones_own_log(
    platform: Platform, things: Things
) -> None:
    other, theirs = await platform.as_("other"), encode("usr", platform.users["owner"])
    await other.post("/agents", json={"name": "for-the-log"})
    seen: list[Event] = []
    async with asyncio.timeout(60):
        async for event in events(
            other, "GET", "/policies/audit/stream", headers={"last-event-id": "0"}
        ):
            seen.append(event)
            if event.data.get("action") == "agent.write" or len(seen) > 50:
                break
    assert seen
    assert not [event for event in seen if theirs in repr(event.data)]


@pytest.mark.attack
def test_no_body_of_a_request_names_a_tenant(platform: Platform) -> None:
    spec = platform.app.openapi()
    named: set[str] = set()

    def walk(node: Any, where: str, seen: frozenset[str]) -> None:
        if isinstance(node, list):
            for one in node:
                walk(one, where, seen)
        elif isinstance(node, dict):
            if (ref := node.get("$ref")) and ref not in seen:
                walk(spec["components"]["schemas"][ref.rpartition("/")[2]], where, seen | {ref})
            for name in node.get("properties", {}):
                if name in ("org", "org_id", "tenant", "tenant_id", "principal"):
                    named.add(f"{where} {name}")
            for value in node.values():
                walk(value, where, seen)

    for path, item in spec["paths"].items():
        for method, route in item.items():
            where = f"{method.upper()} {path.removeprefix(PREFIX)}"
            walk(route.get("requestBody", {}), where, frozenset())
            named |= {
                f"{where} {one['name']}" for one in route.get("parameters", ())
                if one["name"] in ("org", "org_id", "tenant", "tenant_id", "organization")
            }  # fmt: skip
    # Which of several accounts of one e-mail wants to log in; its password decides.
    assert named == {"POST /auth/login org"}
