"""Sources over HTTP: made, changed, synced, reverted, deleted."""

from __future__ import annotations

from typing import Any

import httpx2 as httpx
import pytest

from tests.api.platform import Platform


@pytest.fixture
async def owner(platform: Platform) -> httpx.AsyncClient:
    return await platform.as_("owner")


def error_of(answer: httpx.Response) -> tuple[int, str]:
    assert answer.status_code >= 400, answer.text
    return answer.status_code, answer.json()["error"]["code"]


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"url": "/etc"},
        {"url": "{roots}/absent.git"},
        {"url": "ftp://example.org/x.git"},
        {"url": "{roots}", "nonsense": 1},
    ],
)
async def test_a_source_that_cannot_work_is_not_made(
    platform: Platform, owner: httpx.AsyncClient, config: dict[str, Any]
) -> None:
    given = {k: str(v).replace("{roots}", str(platform.roots)) for k, v in config.items()}
    body = {"name": "never", "connector": "git", "config": given}
    answer = await owner.post("/sources", json=body)
    assert error_of(answer) == (422, "source_config_invalid")
    assert answer.json()["error"]["details"]["kind"] in ("config", "unreachable")
    listed = (await owner.get("/sources", params={"limit": 200})).json()["items"]
    assert "never" not in {source["name"] for source in listed}


async def test_a_name_is_taken_once_and_connectors_are_known(
    platform: Platform, owner: httpx.AsyncClient
) -> None:
    body = {"name": "one of a kind", "source_type": "demo", "realm": "data"}
    made = await owner.post("/sources", json=body)
    assert made.status_code == 201, made.text
    assert error_of(await owner.post("/sources", json=body)) == (409, "conflict")
    unknown = await owner.post("/sources", json={"name": "x", "connector": "dmeo"})
    assert error_of(unknown) == (422, "source_config_invalid")
    assert "demo" in unknown.json()["error"]["message"]
    path = f"/sources/{made.json()['id']}"
    changed = await owner.patch(path, json={"schedule": "@daily", "enabled": False})
    assert (changed.json()["schedule"], changed.json()["enabled"]) == ("@daily", False)
    assert error_of(await owner.patch(path, json={"schedule": "sometimes"}))[0] == 422
    assert error_of(await owner.post(f"{path}/sync", json={}))[0] == 409


async def test_secrets_go_in_and_never_come_out(
    platform: Platform, owner: httpx.AsyncClient
) -> None:
    auth = {"kind": "https_token", "token": "glpat-s3cr3t-t0k3n"}
    config = {"url": "https://127.0.0.1:9/x.git", "auth": auth}
    body = {"name": "sealed", "connector": "git", "config": config}
    answer = await owner.post("/sources", json=body)
    assert error_of(answer) == (403, "egress_denied")
    assert "s3cr3t" not in answer.text
    audit = await owner.get("/policies/audit", params={"action": "source.create", "limit": 200})
    assert "s3cr3t" not in audit.text


@pytest.mark.requirement("CON-05")
async def test_what_a_source_may_reach_is_set_shown_and_kept(
    platform: Platform, owner: httpx.AsyncClient
) -> None:
    pins = {"hosts": ["*.example.com"], "ports": [443]}
    body = {"name": "pinned", "connector": "demo", "egress": pins}
    made = await owner.post("/sources", json=body)
    assert made.status_code == 201, made.text
    shown = {"hosts": ["*.example.com"], "ports": [443], "cidrs": [], "tls_sha256": None}
    assert made.json()["egress"] == shown
    config = {"url": "https://example.org/t.csv", "node_label": "Row"}
    other = {"name": "other", "connector": "csv", "config": config, "egress": pins}
    assert error_of(await owner.post("/sources", json=other)) == (403, "egress_denied")
    path = f"/sources/{made.json()['id']}"
    assert error_of(await owner.patch(path, json={"egress": {"hosts": ["a/b"]}}))[0] == 422
    changed = await owner.patch(path, json={"egress": {"cidrs": ["10.0.0.0/8"]}})
    assert changed.json()["egress"]["cidrs"] == ["10.0.0.0/8"]
    assert (await owner.get(path)).json()["egress"] == changed.json()["egress"]


async def test_an_older_state_is_published_again_and_a_purge_hides_everything(
    platform: Platform, owner: httpx.AsyncClient
) -> None:
    path = platform.roots / "cities.csv"
    path.write_text("id,name\n1,Altdorf\n2,Brig\n")
    await owner.post("/realms", json={"name": "atlas"})
    source = await platform.source(
        name="cities", connector="csv", realm="atlas", sync_mode="full",
        config={"file_path": str(path), "node_label": "City", "id_column": "id"},
    )  # fmt: skip
    url = f"/sources/{source['id']}"
    assert (await platform.sync(source["id"]))["status"] == "synced"
    path.write_text("id,name\n1,Altdorf\n3,Chur\n")
    second = await platform.sync(source["id"])
    assert second["counts"]["nodes"]["added"] == 1

    async def cities() -> set[str]:
        query = {"query": "MATCH (c:City) RETURN c.name AS name", "realm": "atlas"}
        rows = (await owner.post("/context/query", json=query)).json()["rows"]
        return {row[0] for row in rows}

    assert await cities() == {"Altdorf", "Chur"}
    packages = (await owner.get(f"{url}/packages")).json()["items"]
    assert [package["current"] for package in packages] == [True, False]
    body = {"package_id": packages[1]["id"]}
    started = await owner.post(f"{url}/revert", json=body)
    assert started.status_code == 202, started.text
    run_id = started.json()["sync_run_id"]
    reverted = await platform.sync_ended(run_id)
    assert (reverted["kind"], reverted["status"]) == ("revert", "synced")
    assert await cities() == {"Altdorf", "Brig"}
    gone = await owner.post(f"{url}/revert", json={"package_id": "pkg_00000000000000000000000000"})
    assert error_of(gone) in ((404, "not_found"), (409, "package_gone"))
    runs = (await owner.get(f"{url}/runs")).json()["items"]
    assert runs[0]["id"] == run_id
    jobs = (await owner.get("/jobs", params={"kind": "source_sync", "limit": 200})).json()["items"]
    assert {run["job_id"] for run in runs} <= {job["id"] for job in jobs}
    assert error_of(await owner.post(f"/sync-runs/{run_id}/cancel"))[0] == 409

    in_use = await owner.delete("/realms/atlas")
    assert error_of(in_use) == (409, "realm_in_use")
    purge = await owner.delete(url, params={"purge": "true"})
    assert purge.status_code == 202, purge.text
    assert (await owner.get(url)).status_code == 404
    assert (await platform.job_ended(purge.json()["job_id"]))["status"] == "succeeded"
    assert await cities() == set()
    found = await owner.post("/rag/hybrid", json={"query": "Altdorf", "realms": ["atlas"]})
    assert found.json()["hits"] == []


async def test_a_realm_is_deleted_when_nothing_uses_it(
    platform: Platform, owner: httpx.AsyncClient
) -> None:
    await owner.post("/realms", json={"name": "brief"})
    conversation = await platform.conversation(realm="brief")
    assert error_of(await owner.delete("/realms/brief")) == (409, "realm_in_use")
    await owner.delete(f"/chat/conversations/{conversation}")
    assert (await owner.delete("/realms/brief")).status_code == 204
    assert (await owner.delete("/realms/brief")).status_code == 404
    assert error_of(await owner.delete("/realms/default")) == (409, "conflict")
