"""Logging in over HTTP."""

from __future__ import annotations

import base64
import json
from typing import Any

import httpx2 as httpx
import pytest

from agentcy_ray.api.app import create_app
from agentcy_ray.core.ids import encode
from agentcy_ray.core.settings import Settings
from tests.api.platform import PASSWORD, Platform, credentials
from tests.identity.conftest import StoppedClock


@pytest.mark.requirement("AUTH-02")
async def test_the_token_of_a_login_authenticates_each_later_request(platform: Platform) -> None:
    client = platform.client()
    login = await client.post("/auth/login", json=credentials("member"))
    assert login.status_code == 200
    body = login.json()
    assert (body["token_type"], body["expires_in"]) == ("bearer", 3600)
    assert body["user"]["role"] == "member"
    assert (await client.get("/auth/me")).status_code == 401
    client.headers["authorization"] = f"Bearer {body['token']}"
    me = (await client.get("/auth/me")).json()
    assert me["user"]["email"] == "member@acme.test"
    assert me["org"]["name"] == "default"
    assert "source.sync" in me["permissions"]
    assert "source.create" not in me["permissions"]
    assert me["realms"] is None
    assert (await client.get("/auth/ping")).json() == {"ok": True}
    rows = await platform.sql(
        "SELECT 1 FROM login_sessions WHERE user_id = $1", platform.users["member"]
    )
    assert rows


async def test_a_logout_is_seen_at_once_where_it_was_made(platform: Platform) -> None:
    client = platform.client()
    body = (await client.post("/auth/login", json=credentials("viewer"))).json()
    client.headers["authorization"] = f"Bearer {body['token']}"
    assert (await client.get("/auth/ping")).status_code == 200
    assert (await client.post("/auth/logout")).status_code == 204
    refused = await client.get("/auth/ping")
    assert (refused.status_code, refused.json()["error"]["code"]) == (401, "token_invalid")
    del client.headers["authorization"]
    again = await client.post("/auth/refresh", json={"refresh_token": body["refresh_token"]})
    assert again.status_code == 401


@pytest.mark.requirement("AUTH-04")
async def test_a_used_refresh_token_ends_the_login_over_http(platform: Platform) -> None:
    client = platform.client()
    first = (await client.post("/auth/login", json=credentials("viewer"))).json()
    second = await client.post("/auth/refresh", json={"refresh_token": first["refresh_token"]})
    assert second.status_code == 200
    reused = await client.post("/auth/refresh", json={"refresh_token": first["refresh_token"]})
    assert (reused.status_code, reused.json()["error"]["code"]) == (401, "token_reused")
    header = {"authorization": f"Bearer {second.json()['token']}"}
    assert (await client.get("/auth/me", headers=header)).status_code == 401


@pytest.mark.requirement("AUTH-05")
async def test_a_forged_token_answers_401_on_every_kind_of_route(platform: Platform) -> None:
    owner = await platform.as_("owner")
    head, body, signature = owner.headers["authorization"].removeprefix("Bearer ").split(".")
    none = base64.urlsafe_b64encode(json.dumps({"alg": "none"}).encode()).decode().rstrip("=")
    bad = (
        f"{none}.{body}.", f"{none}.{body}.{signature}", f"{head}.{body}.{signature[:-3]}",
        "x" * 9000, "agk_notyet",
    )  # fmt: skip
    for token in bad:
        for path in ("/auth/ping", "/auth/me", "/sources", "/auth/config"):
            answer = await platform.client().get(path, headers={"authorization": f"Bearer {token}"})
            assert answer.status_code == 401, (token[:20], path)
            assert answer.json()["error"]["code"] == "token_invalid"


async def test_wrong_logins_are_throttled_by_address_and_email(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = platform.services.access.login_limit
    monkeypatch.setattr(limit._buckets, "_clock", StoppedClock())  # no token comes back meanwhile
    client = platform.client()
    wrong = {"email": "target@acme.test", "password": "wrong"}
    codes: list[int] = []
    while 429 not in codes:
        assert len(codes) < 12
        answer = await client.post("/auth/login", json=wrong)
        codes.append(answer.status_code)
    assert codes.count(401) == 10
    assert answer.json()["error"]["code"] == "rate_limited"
    assert int(answer.headers["retry-after"]) >= 1
    same = await client.post("/auth/login", json={**wrong, "email": "TARGET@acme.test"})
    assert same.status_code == 429
    other = await client.post("/auth/login", json={**wrong, "email": "somebody@acme.test"})
    assert other.status_code == 401


async def test_a_password_is_changed_by_its_holder_only(platform: Platform) -> None:
    client = platform.client()
    body = (await client.post("/auth/login", json=credentials("leaver"))).json()
    client.headers["authorization"] = f"Bearer {body['token']}"
    wrong = {"current": "wrong", "new": "a brand new password"}
    assert (await client.post("/auth/password", json=wrong)).status_code == 401
    short = {"current": PASSWORD, "new": "short"}
    assert (await client.post("/auth/password", json=short)).status_code == 422
    for current, new in ((PASSWORD, "a brand new password"), ("a brand new password", PASSWORD)):
        answer = await client.post("/auth/password", json={"current": current, "new": new})
        assert answer.status_code == 204


async def test_how_to_log_in_is_told_without_a_login(platform: Platform) -> None:
    assert (await platform.client().get("/auth/config")).json() == {
        "providers": ["local"],
        "registration": "invite",
    }


async def test_where_nobody_logs_in_by_a_password_nobody_registers() -> None:
    async def never() -> Any:
        raise AssertionError("the lifespan does not run here")

    settings = Settings.load(
        {},
        auth_provider=("oidc",),
        auth_registration="open",
        oidc_discovery_url="https://login.test/.well-known/openid-configuration",
        oidc_client_id="agentcy",
    )
    transport = httpx.ASGITransport(create_app(settings, never))
    async with httpx.AsyncClient(transport=transport, base_url="http://api") as client:
        told = (await client.get("/api/v1/auth/config")).json()
    assert told == {"providers": ["oidc"], "registration": "off"}


async def test_refused_logins_are_in_the_log_of_whom_they_were_about(platform: Platform) -> None:
    client, owner = platform.client(), await platform.as_("owner")
    member = platform.users["member"]
    body = (await client.post("/auth/login", json=credentials("member"))).json()
    bearer = {"authorization": f"Bearer {body['token']}"}
    wrong = {**credentials("member"), "password": "wrong"}
    assert (await client.post("/auth/login", json=wrong)).status_code == 401
    nobody = {"email": "nobody@acme.test", "password": "wrong", "org": "default"}
    assert (await client.post("/auth/login", json=nobody)).status_code == 401
    change = {"current": "wrong", "new": "a brand new password"}
    assert (await client.post("/auth/password", json=change, headers=bearer)).status_code == 401
    token = {"refresh_token": body["refresh_token"]}
    assert (await client.post("/auth/refresh", json=token)).status_code == 200
    assert (await client.post("/auth/refresh", json=token)).status_code == 401
    await platform.services.gates.audit.settle()
    page = await owner.get(
        "/policies/audit", params={"category": "auth", "decision": "deny", "limit": 4}
    )
    found = [
        (entry["action"], entry["user_id"], entry["resource"].get("email"), entry["reasons"][0])
        for entry in reversed(page.json()["items"])
    ]
    who = encode("usr", member)
    assert found == [
        ("auth.login", who, "member@acme.test", "invalid_credentials"),
        ("auth.login", None, "nobody@acme.test", "invalid_credentials"),
        ("auth.password", who, None, "invalid_credentials"),
        ("auth.refresh", who, None, "token_reused"),
    ]
    assert all("wrong" not in str(entry["resource"]) for entry in page.json()["items"])
