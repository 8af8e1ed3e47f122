"""Every route names its permission, and the role matrix decides."""

from __future__ import annotations

import re

import pytest
from fastapi.routing import APIRoute

from agentcy_ray.api import ingest_paths
from agentcy_ray.api.openapi import OPEN, PREFIX, _named, permissions
from agentcy_ray.core.tenancy import PERMISSIONS, ROLE_MATRIX, ROLE_ORDER
from tests.api import route_table
from tests.api.platform import ROLES, Platform

MATRIX = """
x x own own | chat.read chat.write
x x x read_only | chat.tool.execute
x x own - | chat.approve
x x x x | llm.invoke rag.search graph.read graph.query source.read activity.write
x x - - | source.create source.update source.delete
x x x - | source.sync access.request
x x - - | access.decide graph.native graph.write realm.write embedding.manage engine.migrate
x x x x | pipeline.read
x x x - | pipeline.run
x x - - | pipeline.write
x x x x | memory.read
x x x - | memory.write
x x own - | memory.delete
x x x x | agent.read task.read workflow.read channel.read artifact.read coding.read
x x x - | task.write task.run task.cancel workflow.run artifact.write coding.write
x x - - | agent.write workflow.write channel.write binding.write
x x - - | policy.read policy.write audit.read activity.read job.read job.manage
x x - - | worker.read worker.manage
x x - - | org.read org.write org.invite user.read user.write apikey.read apikey.write
x - - - | org.delete org.billing org.transfer
"""
"""The table of the product specification, §5.2: owner, admin, member, viewer; and ``graph.native``,
which the issue of the Advanced engine asks for."""


def specified() -> dict[str, list[str]]:
    rows: dict[str, list[str]] = {}
    for line in MATRIX.strip().splitlines():
        grants, _, names = line.partition(" | ")
        rows.update(dict.fromkeys(names.split(), grants.split()))
    return rows


@pytest.mark.requirement("RBAC-01")
def test_the_catalog_is_the_specified_one() -> None:
    rows = specified()
    assert rows.keys() == PERMISSIONS
    for name, grants in rows.items():
        for role, grant in zip(ROLE_ORDER, grants, strict=True):
            expected = {"x": "full", "-": None}.get(grant, grant)
            assert ROLE_MATRIX[name].get(role) == expected, (name, role)


@pytest.mark.requirement("RBAC-01")
def test_every_bearer_route_names_a_permission_of_the_catalog(platform: Platform) -> None:
    named = permissions(platform.app)
    assert len(named) > 50
    for (method, path), permission in named.items():
        if path.removeprefix(PREFIX) in OPEN:
            assert permission is None, path
        else:
            assert permission == "any" or permission in PERMISSIONS, (method, path, permission)


@pytest.mark.requirement("RBAC-01")
def test_every_route_names_the_one_permission_that_the_specification_gives_it(
    platform: Platform,
) -> None:
    named = {
        (method, path.removeprefix(PREFIX)): permission or "open"
        for (method, path), permission in permissions(platform.app).items()
    }
    table = route_table.specified()
    assert named == {route: table.get(route) for route in named}
    for route in platform.app.routes:
        if isinstance(route, APIRoute):
            asked = list(_named(route.dependant))
            assert len(asked) <= 1, (route.path, asked)
        else:  # nothing looks for a permission there
            path = getattr(route, "path", "")
            own = ingest_paths.own_door(path.removeprefix(PREFIX))
            assert own or path in route_table.OWN_DOOR, path


@pytest.mark.requirement("RBAC-02")
@pytest.mark.parametrize("role", ROLES)
async def test_each_route_grants_or_refuses_as_the_matrix_says(
    platform: Platform, role: str
) -> None:
    client, rows = await platform.as_(role), specified()
    place = ROLES.index(role)
    for (method, path), permission in permissions(platform.app).items():
        if permission in (None, "any"):
            continue
        url = re.sub(r"\{\w+\}", "absent", path.removeprefix(PREFIX))
        body = {} if method in ("POST", "PATCH") else None
        async with client.stream(method, url, json=body) as answer:
            granted = rows[permission][place] != "-"
            assert (answer.status_code != 403) is granted, (method, path)
            if not granted:
                await answer.aread()
                error = answer.json()["error"]
                assert error["code"] == "permission_denied"
                assert error["details"] == {"permission": permission}


@pytest.mark.requirement("RBAC-02")
async def test_without_a_login_only_the_open_routes_answer(platform: Platform) -> None:
    async with platform.client() as client:
        for (method, path), permission in permissions(platform.app).items():
            url = re.sub(r"\{\w+\}", "absent", path.removeprefix(PREFIX))
            body = {} if method in ("POST", "PATCH") else None
            answer = await client.request(method, url, json=body)
            if "/oidc/start" in path:
                assert answer.status_code == 400, "no identity provider is set up here"
            elif permission is None:
                assert answer.status_code in (200, 422), path
            else:
                assert answer.status_code == 401, (method, path)
                assert answer.json()["error"]["code"] == "unauthenticated"
                assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.requirement("RBAC-02")
async def test_own_means_own(platform: Platform) -> None:
    mine = await platform.conversation("member")
    path = f"/chat/conversations/{mine}"
    for who, status in (("member", 200), ("admin", 200), ("colleague", 404), ("viewer", 404)):
        client = await platform.as_(who)
        assert (await client.get(path)).status_code == status, who
        listed = (await client.get("/chat/conversations", params={"limit": 200})).json()["items"]
        assert (mine in {item["id"] for item in listed}) is (status == 200), who
    for who in ("colleague", "viewer"):
        client = await platform.as_(who)
        for method, rest, body in (
            ("PATCH", "", {"title": "taken"}), ("DELETE", "", None), ("GET", "/messages", None),
            ("POST", "/messages", {"content": "hi"}), ("POST", "/read", {"seq": 1}),
            ("POST", "/cancel", None), ("GET", "/approvals", None),
        ):  # fmt: skip
            answer = await client.request(method, path + rest, json=body)
            assert answer.status_code == 404, (who, method, rest)


@pytest.mark.requirement("RBAC-02")
async def test_a_viewer_reads_by_tools_and_writes_nothing(platform: Platform) -> None:
    folder = platform.roots / "viewed"
    folder.mkdir()
    (folder / "a.md").write_text("seen")
    config = {"root": str(folder), "writable": True}
    await platform.source(name="viewed", connector="files", config=config)
    viewer = await platform.as_("viewer")
    path = f"/chat/conversations/{await platform.conversation('viewer')}/tool-calls"
    call = {"connector": "files", "source": "viewed", "tool": "read_file", "args": {"path": "a.md"}}
    read = await viewer.post(path, json=call)
    assert (read.status_code, read.json()["result"]["text"]) == (200, "seen")
    call |= {"tool": "write_file", "args": {"path": "a.md", "content": "changed"}}
    refused = await viewer.post(path, json=call)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "permission_denied")
    assert (folder / "a.md").read_text() == "seen"


async def test_a_policy_denies_an_action_that_the_role_allows(platform: Platform) -> None:
    other = await platform.as_("other")
    rules = {"policy_settings": {"business_hours": {
        "tz": "UTC", "days": [], "from": "00:00", "to": "23:59"}}}  # fmt: skip
    source = await platform.source("other", name="kept", connector="demo", realm="data", config={})
    await platform.sql(
        "UPDATE organizations SET settings = $2 WHERE id = $1", platform.other_org, rules
    )
    platform.services.gates.policy._active.expire(platform.other_org)
    denied = await other.delete(f"/sources/{source['id']}")
    assert (denied.status_code, denied.json()["error"]["code"]) == (403, "policy_denied")
    rows = (await other.get("/policies/audit", params={"decision": "deny"})).json()["items"]
    assert rows[0]["action"] == "source.delete"
    assert rows[0]["reasons"]
    await platform.sql("UPDATE organizations SET settings = '{}' WHERE id = $1", platform.other_org)
    platform.services.gates.policy._active.expire(platform.other_org)
    assert (await other.delete(f"/sources/{source['id']}")).status_code == 204
