"""Users: nobody above whoever changes them, nobody without an owner."""

from __future__ import annotations

import asyncio
import secrets
from contextlib import suppress
from typing import Any

import pytest

from agentcy_ray.core.errors import RateLimitedError
from agentcy_ray.core.ids import decode
from agentcy_ray.core.tenancy import PERMISSIONS, ROLE_MATRIX, Role
from tests.api.people import Person, invite, join, with_key
from tests.api.platform import PASSWORD, ROLES, Platform
from tests.identity.conftest import StoppedClock


@pytest.mark.requirement("RBAC-03")
@pytest.mark.parametrize("kind", ["admin", "owner's key"])
async def test_no_route_lets_anybody_grant_what_they_lack(platform: Platform, kind: str) -> None:
    role, _, by_key = kind.partition("'")
    maker, target = await join(platform, role), await join(platform, "viewer")
    client = maker.client
    if by_key:
        client = await maker.key("user.write", "apikey.write", "org.invite", "rag.search")
    held = set((await client.get("/auth/me")).json()["permissions"])
    path = f"/users/{target.id}"
    for name in sorted(PERMISSIONS):
        may = name in held
        answer = await client.patch(path, json={"permissions": [name]})
        already = ROLE_MATRIX[name].get(Role.VIEWER) == "full"  # then nothing is granted
        assert answer.status_code == (200 if may or already else 403), (name, answer.text)
        key = await client.post("/api-keys", json={"name": "k", "permissions": [name]})
        assert key.status_code == (201 if may else 403), name
    await _reset(platform, target)
    denied: set[str] = set()
    for wanted in ROLES:
        able = not by_key and ROLES.index(wanted) >= ROLES.index(role)
        email = f"{secrets.token_hex(4)}@acme.test"
        sent = await client.post("/org/invites", json={"email": email, "role": wanted})
        assert sent.status_code == (201 if able else 403), wanted
        if not able:
            denied |= set(sent.json()["error"]["details"]["missing"])
        raised = await client.patch(path, json={"role": wanted})
        assert raised.status_code == (200 if able or wanted == "viewer" else 403), wanted
        await _reset(platform, target)
    assert denied
    assert not denied & held
    if by_key:
        await client.aclose()


async def _reset(platform: Platform, target: Person) -> None:
    owner = await platform.as_("owner")
    plain = {"role": "viewer", "permissions": [], "realms": None}
    assert (await owner.patch(f"/users/{target.id}", json=plain)).status_code == 200


@pytest.mark.requirement("RBAC-03")
async def test_a_key_passes_on_no_more_realms_time_or_rate_than_it_has(platform: Platform) -> None:
    maker = await join(platform, "admin")
    bounds: dict[str, Any] = {
        "realms": ["data"], "rpm": 100, "expires_at": "2100-01-01T00:00:00Z",
    }  # fmt: skip
    key = await maker.key("apikey.write", "graph.read", **bounds)
    body = {"name": "child", "permissions": ["graph.read"]}
    child = (await key.post("/api-keys", json=body)).json()
    assert (child["realms"], child["rpm"]) == (["data"], 100)
    assert child["expires_at"].startswith("2100-01-01")
    wider = await key.post("/api-keys", json=body | {"realms": ["data", "crm"]})
    assert wider.status_code == 403
    async with with_key(maker.client, child["key"]) as grandchild:
        assert (await grandchild.get("/auth/me")).json()["realms"] == ["data"]
    await key.aclose()


@pytest.mark.requirement("RBAC-03")
async def test_nobody_changes_or_ends_who_is_above_them(platform: Platform) -> None:
    admin, owner = await join(platform, "admin"), await join(platform, "owner")
    path = f"/users/{owner.id}"
    for body in ({"active": False}, {"role": "viewer"}, {"realms": []}):
        assert (await admin.client.patch(path, json=body)).status_code == 403, body
    assert (await admin.client.delete(path)).status_code == 403
    limited = await join(platform, "admin")
    first = await platform.as_("owner")
    narrowed = await first.patch(f"/users/{limited.id}", json={"realms": ["crm"]})
    assert narrowed.status_code == 200
    member = await join(platform)
    other = f"/users/{member.id}"
    assert (await first.patch(other, json={"realms": ["crm", "data"]})).status_code == 200
    assert (await limited.client.patch(other, json={"realms": ["data"]})).status_code == 200
    for realms in (None, ["data", "design"]):
        widened = await limited.client.patch(other, json={"realms": realms})
        assert widened.status_code in (403, 422), realms
    invited = await join(platform)  # by the owner
    assert (await invited.client.get("/auth/me")).json()["realms"] is None
    entries = await first.get("/policies/audit", params={"action": "user.write"})
    assert "deny" in {row["decision"] for row in entries.json()["items"]}


async def test_who_is_deactivated_loses_logins_and_keys_for_good(platform: Platform) -> None:
    person, owner = await join(platform, "admin"), await platform.as_("owner")
    key = await person.key("graph.read")
    path = f"/users/{person.id}"
    off = await owner.patch(path, json={"active": False})
    assert (off.status_code, off.json()["active"]) == (200, False)
    assert (await person.client.get("/auth/me")).status_code == 401
    assert (await key.get("/auth/me")).status_code == 401
    login = {"email": person.email, "password": PASSWORD}
    refused = await platform.client().post("/auth/login", json=login)
    assert refused.json()["error"]["code"] == "account_disabled"
    assert (await owner.patch(path, json={"active": True})).status_code == 200
    assert (await key.get("/auth/me")).status_code == 401
    assert (await person.client.get("/auth/me")).status_code == 401
    assert (await platform.client().post("/auth/login", json=login)).status_code == 200
    await key.aclose()
    assert (await owner.delete(path)).status_code == 204
    assert (await owner.get(path)).status_code == 404


async def test_runs_of_who_is_deactivated_end(platform: Platform) -> None:
    person, owner = await join(platform, "member"), await platform.as_("owner")
    slow = {"model": "scripted:tokens=100000,itl=5"}
    made = await person.client.post("/chat/conversations", json=slow)
    path = f"/chat/conversations/{made.json()['id']}/messages"
    accept = {"accept": "application/json"}
    asked = await person.client.post(path, json={"content": "go on and on"}, headers=accept)
    off = await owner.patch(f"/users/{person.id}", json={"active": False})
    assert off.status_code == 200
    run = await platform.run_ended(asked.json()["run_id"])
    assert (run["status"], run["finish_reason"]) == ("cancelled", "cancelled")


async def test_the_last_owner_stays_one_even_when_two_leave_at_once(platform: Platform) -> None:
    other = await platform.as_("other")
    own = (await other.get("/auth/me")).json()["user"]["id"]
    for attempt in (
        other.patch(f"/users/{own}", json={"role": "admin"}),
        other.patch(f"/users/{own}", json={"active": False}),
        other.delete(f"/users/{own}"),
    ):
        refused = await attempt
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "last_owner")
    second = await join(platform, "owner", "other")
    async with asyncio.timeout(60):
        left = await asyncio.gather(
            other.patch(f"/users/{own}", json={"role": "admin"}),
            second.client.patch(f"/users/{second.id}", json={"role": "admin"}),
        )
    assert sorted(answer.status_code for answer in left) == [200, 409]
    if left[0].status_code == 200:  # the first one is the owner again
        back = await second.client.post("/org/transfer", json={"user_id": own})
        assert back.status_code == 200
    assert (await other.get("/auth/me")).json()["role"] == "owner"


async def test_an_organisation_is_handed_over(platform: Platform) -> None:
    heir, owner = await join(platform, "member"), await join(platform, "owner")
    key = await owner.key("org.transfer", "org.read")
    body = {"user_id": heir.id}
    assert (await key.post("/org/transfer", json=body)).status_code == 403  # it lacks the rest
    await key.aclose()
    assert (await heir.client.post("/org/transfer", json=body)).status_code == 403
    assert (await owner.client.post("/org/transfer", json=body)).json()["role"] == "owner"
    assert (await owner.client.get("/auth/me")).json()["role"] == "admin"
    assert (await heir.client.get("/auth/me")).json()["role"] == "owner"
    same = await heir.client.post("/org/transfer", json=body)
    assert same.status_code == 422
    others = [await join(platform, "member") for _ in range(2)]
    async with asyncio.timeout(60):  # twice at once: there is one owner less, and one more
        answers = await asyncio.gather(
            *(heir.client.post("/org/transfer", json={"user_id": one.id}) for one in others)
        )
    assert sorted(answer.status_code for answer in answers) == [200, 403]
    roles = [(await one.client.get("/auth/me")).json()["role"] for one in others]
    assert sorted(roles) == ["member", "owner"]


async def test_a_password_cannot_be_guessed_by_who_holds_the_login(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = platform.services.access.login_limit
    monkeypatch.setattr(limit._buckets, "_clock", StoppedClock())  # no token comes back meanwhile
    person = await join(platform)
    guess = {"current": "a guess of mine", "new": "a brand new password"}
    assert (await person.client.post("/auth/password", json=guess)).status_code == 401
    with suppress(RateLimitedError):
        for _ in range(30):  # the other tries of this minute
            await limit.check(f"password:{decode('usr', person.id).hex}")
    assert (await person.client.post("/auth/password", json=guess)).status_code == 429


async def test_an_invite_lets_one_person_in_once(platform: Platform) -> None:
    email = f"{secrets.token_hex(4)}@acme.test"
    token, anyone = await invite(platform, email, "viewer"), platform.client()
    body = {"email": email, "password": PASSWORD, "invite_token": token}
    for wrong in (
        body | {"email": "x" + email}, body | {"invite_token": token[:-1]},
        {"email": email, "password": PASSWORD, "org_name": "Mine"},
    ):  # fmt: skip
        refused = await anyone.post("/auth/register", json=wrong)
        error = refused.json()["error"]
        assert (refused.status_code, error["code"]) == (403, "registration_closed")
    async with asyncio.timeout(60):
        answers = await asyncio.gather(*(anyone.post("/auth/register", json=body) for _ in "abc"))
    assert sorted(answer.status_code for answer in answers) == [201, 403, 403]
    owner = await platform.as_("owner")
    (used,) = [
        one
        for one in (await owner.get("/org/invites", params={"limit": 200})).json()["items"]
        if one["email"] == email
    ]
    assert used["accepted_at"] is not None
    again = await owner.post("/org/invites", json={"email": email})
    assert again.status_code == 409
    rows = await platform.sql(
        "SELECT 1 FROM invites t WHERE strpos(t::text, $1) > 0", token.removeprefix("inv_")
    )
    assert not rows


async def test_an_invite_is_worth_what_its_inviter_still_holds(platform: Platform) -> None:
    admin, owner = await join(platform, "admin"), await platform.as_("owner")
    platform.clients["inviter"] = admin.client
    emails = [f"{secrets.token_hex(4)}@acme.test" for _ in range(3)]
    tokens = [await invite(platform, email, "admin", "inviter") for email in emails]
    bodies = [
        {"email": email, "password": PASSWORD, "invite_token": token}
        for email, token in zip(emails, tokens, strict=True)
    ]
    await owner.patch(f"/users/{admin.id}", json={"role": "member"})
    anyone = platform.client()
    assert (await anyone.post("/auth/register", json=bodies[0])).status_code == 403
    await owner.patch(f"/users/{admin.id}", json={"role": "admin", "realms": ["data"]})
    assert (await anyone.post("/auth/register", json=bodies[0])).status_code == 403
    await owner.patch(f"/users/{admin.id}", json={"realms": None})
    await platform.sql(
        "UPDATE invites SET expires_at = now() - interval '1 s' WHERE email = $1", emails[1]
    )
    assert (await anyone.post("/auth/register", json=bodies[1])).status_code == 403
    assert (await anyone.post("/auth/register", json=bodies[2])).status_code == 201
