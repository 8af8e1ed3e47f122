"""An id of another organisation is answered like one that does not exist, on every route."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import pytest

from agentcy_ray.api.openapi import PREFIX, permissions
from agentcy_ray.core.ids import decode, encode, new_id
from tests.api.platform import Platform, ask

BODIES: dict[str, Any] = {
    "POST /access-requests/{request_id}": {"status": "granted"},
    "PATCH /agents/{agent_id}": {"description": "x"},
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
            "swap_id": encode("swp", swap),
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
