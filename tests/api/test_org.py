"""The organisation: what it says about itself, founded by a stranger, deleted without a rest."""

from __future__ import annotations

import asyncio
import secrets
from uuid import UUID

import httpx2 as httpx
import pytest

from agentcy_ray.api.registration import Registrar, Registration
from agentcy_ray.core.errors import RefusedError
from agentcy_ray.core.ids import decode
from agentcy_ray.ingest.erasure import KEPT, PREFIXES
from tests.api.people import join, make_key, with_key
from tests.api.platform import PASSWORD, Platform


def registrar(platform: Platform, mode: str) -> Registrar:
    services = platform.services
    settings = services.settings.model_copy(update={"auth_registration": mode})
    return Registrar(services.db, settings, services.access.invites)


async def found(platform: Platform) -> tuple[UUID, str, httpx.AsyncClient]:
    """An organisation that a stranger founds: its id, its name, the owner's client."""
    email, name = f"{secrets.token_hex(4)}@new.test", f"New & {secrets.token_hex(4)}"
    wanted = Registration(email=email, password=PASSWORD, org_name=name)
    joined = await registrar(platform, "open").join(wanted)
    client = platform.client()
    login = await client.post("/auth/login", json={"email": email, "password": PASSWORD})
    client.headers["authorization"] = f"Bearer {login.json()['token']}"
    platform.clients[email] = client
    return joined.org_id, joined.org_name, client


async def test_who_may_register_is_the_installs_to_say(platform: Platform) -> None:
    _, name, owner = await found(platform)
    me = (await owner.get("/auth/me")).json()
    assert (me["role"], me["org"]["name"]) == ("owner", name)
    assert name.startswith("new-")
    assert len((await owner.get("/realms")).json()["items"]) == 7
    assert len((await owner.get("/users")).json()["items"]) == 1
    wanted = Registration(email="eve@new.test", password=PASSWORD, org_name="Eve")
    for mode in ("invite", "off"):
        with pytest.raises(RefusedError) as refused:
            await registrar(platform, mode).join(wanted)
        assert refused.value.code == "registration_closed"
    services = platform.services
    elsewhere = {"auth_registration": "open", "auth_provider": ("oidc",)}
    by_oidc = services.settings.model_copy(update=elsewhere)
    with pytest.raises(RefusedError):
        await Registrar(services.db, by_oidc, services.access.invites).join(wanted)


async def test_an_organisation_says_about_itself_what_others_read(platform: Platform) -> None:
    org_id, _, owner = await found(platform)
    weekdays = {"business_hours": {"tz": "UTC", "days": [1]}}
    change = {
        "display_name": "Acme AG",
        "settings": {"policy_settings": weekdays, "retention": {"audit_days": 30}},
        "budget": {"limits": [{"scope": "org", "hard": 5}]},
    }
    changed = (await owner.patch("/org", json=change)).json()
    assert changed == (await owner.get("/org")).json()
    assert changed["display_name"] == "Acme AG"
    assert changed["settings"] == change["settings"]
    assert changed["budget"]["limits"][0]["hard"] == 5
    (row,) = await platform.sql("SELECT settings FROM organizations WHERE id = $1", org_id)
    assert row["settings"]["audit_retention_days"] == 30  # what the job of retention reads
    back = await owner.patch("/org", json={"settings": {"retention": {"audit_days": None}}})
    assert back.json()["settings"] == {
        "policy_settings": weekdays, "retention": {"audit_days": None},
    }  # fmt: skip
    for wrong in ({"plan": "gold"}, {"settings": {"retention": {"audit_days": 0}}}):
        assert (await owner.patch("/org", json=wrong)).status_code == 422
    usage = await owner.get("/org/usage", params={"group_by": "user"})
    assert usage.json()["rows"] == []

    admin = await join(platform, "admin")
    budget = {"budget": {"limits": [{"scope": "org", "hard": 9}]}}
    refused = await admin.client.patch("/org", json=budget)
    assert refused.json()["error"]["details"] == {"permission": "org.billing"}
    entries = await platform.sql(
        "SELECT action FROM audit_log WHERE org_id = $1 AND category = 'admin' ORDER BY seq", org_id
    )
    assert [row["action"] for row in entries] == ["org.billing", "org.update", "org.update"]


async def test_a_deleted_organisation_leaves_its_audit_log_and_nothing_else(
    platform: Platform,
) -> None:
    org_id, name, owner = await found(platform)
    email = (await owner.get("/auth/me")).json()["user"]["email"]
    services = platform.services
    await services.objects.put_new(f"artifacts/{org_id.hex}/one", b"x")
    await owner.post("/chat/conversations", json={"title": "ours"})
    await owner.post("/org/invites", json={"email": "friend@new.test"})
    source = {"name": "demo", "connector": "demo", "realm": "data", "config": {}}
    made = (await owner.post("/sources", json=source)).json()
    await _synced(platform, org_id, owner, made["id"])
    assert await services.engine.holds(org_id, decode("src", made["id"]))
    (space,) = await platform.sql(
        "SELECT table_name FROM embedding_spaces WHERE org_id = $1", org_id
    )
    pipeline = (
        await owner.post(
            "/context/pipelines", json={"name": "hooks", "kind": "webhook", "realm": "data"}
        )
    ).json()
    token = (await owner.post(f"/context/pipelines/{pipeline['id']}/tokens", json={})).json()
    key = await make_key(owner, "graph.read")

    assert (await owner.request("DELETE", "/org", json={"confirm": "no"})).status_code == 422
    assert (await owner.get("/auth/me")).status_code == 200
    gone = await owner.request("DELETE", "/org", json={"confirm": name})
    assert gone.status_code == 202, gone.text
    assert (await owner.get("/auth/me")).status_code == 401
    async with with_key(owner, key["key"]) as program:
        assert (await program.get("/auth/me")).status_code == 401
    login = {"email": email, "password": PASSWORD}
    assert (await platform.client().post("/auth/login", json=login)).status_code == 401
    posted = await platform.client().post(f"/ingest/{token['token']}", json={"a": 1})
    assert posted.status_code == 401

    await _erased(platform, org_id, decode("job", gone.json()["job_id"]))
    tables = await platform.sql(
        "SELECT c.relname AS name FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid"
        " WHERE a.attname = 'org_id' AND c.relkind IN ('r', 'p') AND NOT c.relispartition"
        " AND c.relnamespace = 'public'::regnamespace"
    )
    for table in {row["name"] for row in tables} - KEPT:
        left = await platform.sql(f'SELECT 1 FROM "{table}" WHERE org_id = $1', org_id)
        assert not left, table
    (vectors,) = await platform.sql("SELECT to_regclass($1) AS here", space["table_name"])
    assert vectors["here"] is None
    for prefix in PREFIXES:
        assert await services.objects.list(f"{prefix}/{org_id.hex}/") == []
    assert not await services.engine.holds(org_id, decode("src", made["id"]))
    (row,) = await platform.sql("SELECT name FROM organizations WHERE id = $1", org_id)
    assert row["name"] == f"deleted-{org_id.hex}"
    actions = await platform.sql("SELECT action FROM audit_log WHERE org_id = $1", org_id)
    assert {"org.delete", "org.erase"} <= {row["action"] for row in actions}


async def _synced(
    platform: Platform, org_id: UUID, owner: httpx.AsyncClient, source_id: str
) -> None:
    """Sync a source and wait for the end of it."""
    async with (
        asyncio.timeout(60),
        platform.services.bell.listen(f"ch:jobs:{org_id.hex}") as ear,
    ):
        asked = (await owner.post(f"/sources/{source_id}/sync", json={})).json()
        path = f"/sync-runs/{asked['sync_run_id']}"
        while not (run := (await owner.get(path)).json())["ended_at"]:
            await ear.next(5)
    assert run["status"] == "synced", run


async def _erased(platform: Platform, org_id: UUID, job_id: UUID) -> None:
    """Wait for the job, which nobody of the organisation may look at any more."""
    channel = f"ch:jobs:{org_id.hex}"
    async with asyncio.timeout(60), platform.services.bell.listen(channel) as ear:
        while True:
            (job,) = await platform.sql("SELECT status, error FROM jobs WHERE id = $1", job_id)
            if job["status"] == "succeeded":
                return
            assert job["status"] in ("queued", "running", "retry_wait"), job["error"]
            await ear.next(5)
