"""API keys: their owner narrowed, known by a hash, ended everywhere."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from datetime import timedelta
from hashlib import sha256

import httpx2 as httpx
import pytest

from agentcy_ray.api.access import open_access
from agentcy_ray.core.clock import SystemClock
from agentcy_ray.core.errors import UnauthenticatedError
from agentcy_ray.core.ids import decode
from agentcy_ray.identity.api_keys import MAX_KEYS
from agentcy_ray.identity.revocation import Revoked
from agentcy_ray.stores.bell import Bell
from agentcy_ray.stores.secrets import resolve_secrets
from tests.api.people import join, make_key, with_key
from tests.api.platform import Platform
from tests.identity.conftest import MovingClock


@pytest.mark.requirement("AUTH-09")
async def test_a_key_is_shown_once_and_kept_as_its_hash(platform: Platform) -> None:
    owner = await platform.as_("owner")
    repeat = {"idempotency-key": "one-key"}
    body = {"name": "nightly", "permissions": ["rag.search", "graph.read"]}
    made = await owner.post("/api-keys", json=body, headers=repeat)
    assert made.status_code == 201
    key = made.json()["key"]
    assert key.startswith("agk_")
    again = await owner.post("/api-keys", json=body, headers=repeat)
    assert (again.json()["key"], again.json()["id"]) == (None, made.json()["id"])
    (row,) = await platform.sql(
        "SELECT key_hash FROM api_keys WHERE id = $1", decode("key", made.json()["id"])
    )
    assert row["key_hash"] == sha256(key.encode()).digest()
    for table in ("api_keys", "idempotency_keys", "audit_log"):
        found = await platform.sql(
            f"SELECT 1 FROM {table} t WHERE strpos(t::text, $1) > 0", key.removeprefix("agk_")
        )
        assert not found, table
    listed = (await owner.get("/api-keys", params={"limit": 200})).json()["items"]
    (shown,) = [one for one in listed if one["id"] == made.json()["id"]]
    assert "key" not in shown
    assert shown["permissions"] == ["graph.read", "rag.search"]


@pytest.mark.requirement("AUTH-09")
async def test_a_key_has_its_scope_of_what_its_owner_holds_now(platform: Platform) -> None:
    person, owner = await join(platform, "admin"), await platform.as_("owner")
    key = await person.key("source.create", "source.read", "chat.read")
    me = (await key.get("/auth/me")).json()
    assert me["permissions"] == ["chat.read", "source.create", "source.read"]
    body = {"name": "by-key", "connector": "demo", "realm": "data", "config": {}}
    assert (await key.post("/sources", json={})).status_code == 422  # may, if it were one
    refused = await key.get("/agents")
    assert refused.status_code == 403
    assert refused.json()["error"]["details"] == {"permission": "agent.read"}

    path = f"/users/{person.id}"
    assert (await owner.patch(path, json={"role": "viewer"})).status_code == 200
    assert (await key.post("/sources", json=body)).status_code == 403
    assert (await key.get("/sources")).status_code == 200
    change = {"role": "admin", "realms": ["data"]}
    assert (await owner.patch(path, json=change)).status_code == 200
    assert (await key.get("/auth/me")).json()["realms"] == ["data"]
    await key.aclose()


@pytest.mark.requirement("AUTH-09")
async def test_a_key_sees_the_realms_that_both_it_and_its_owner_have(platform: Platform) -> None:
    person, owner = await join(platform, "admin"), await platform.as_("owner")
    wide = await person.key("graph.read")
    narrow = await person.key("graph.read", realms=["crm", "data"])
    for owned, seen, by_wide in (
        (["data", "design"], ["data"], ["data", "design"]),
        (["design"], [], ["design"]),
        (None, ["crm", "data"], None),
    ):
        change = {"realms": owned}
        assert (await owner.patch(f"/users/{person.id}", json=change)).status_code == 200
        assert (await narrow.get("/auth/me")).json()["realms"] == seen
        assert (await wide.get("/auth/me")).json()["realms"] == by_wide
    unknown = {"name": "x", "permissions": ["graph.read"], "realms": ["nowhere"]}
    assert (await owner.post("/api-keys", json=unknown)).status_code == 422
    await narrow.aclose()
    await wide.aclose()


@pytest.mark.requirement("AUTH-09")
async def test_a_deleted_key_is_refused_at_once_here_and_by_other_processes(
    platform: Platform,
) -> None:
    services, owner = platform.services, await platform.as_("owner")
    made = await make_key(owner, "graph.read")
    header = f"Bearer {made['key']}".encode()
    bell, clock = Bell(services.redis), MovingClock()
    secrets = resolve_secrets(platform.settings)
    other = open_access(
        services.db, services.redis, bell, platform.settings, secrets, clock
    )  # a second replica
    heard = asyncio.Event()

    def forget(revoked: Revoked | None) -> None:
        other.authenticator.forget(revoked)
        if revoked is not None and revoked.api_key_id == decode("key", made["id"]):
            heard.set()

    try:
        async with other.revocations.followed_by(forget), bell.listen("ch:session:revoked"):
            async with with_key(owner, made["key"]) as client:
                assert (await client.get("/auth/ping")).status_code == 200
                caller = await other.authenticator.bearer(header)
                assert caller.principal.scope == ("graph.read",)
                gone = await owner.delete(f"/api-keys/{made['id']}")
                assert gone.status_code == 204
                refused = await client.get("/auth/ping")
                error = refused.json()["error"]
                assert (refused.status_code, error["code"]) == (401, "token_invalid")
            async with asyncio.timeout(60):
                await heard.wait()
            with pytest.raises(UnauthenticatedError):
                await other.authenticator.bearer(header)
    finally:
        await bell.aclose()
    assert (await owner.delete(f"/api-keys/{made['id']}")).status_code == 404


async def test_a_stream_ends_with_the_credential_that_opened_it(platform: Platform) -> None:
    owner = await platform.as_("owner")
    made, kept = await make_key(owner, "audit.read"), await make_key(owner, "audit.read")
    open_streams = platform.services.access.open_streams
    async with with_key(owner, made["key"]) as ending, with_key(owner, kept["key"]) as staying:
        path = "/policies/audit/stream"
        async with ending.stream("GET", path) as first, staying.stream("GET", path) as second:
            before, after = first.aiter_bytes(), second.aiter_bytes()
            for pieces in (before, after):
                assert await anext(pieces)  # it is open
            open_before = len(open_streams)
            assert (await owner.delete(f"/api-keys/{made['id']}")).status_code == 204
            async with asyncio.timeout(60):
                with suppress(httpx.TransportError):
                    async for _ in before:
                        pass
            assert len(open_streams) == open_before - 1  # the other one goes on
            assert await anext(after)
    await owner.delete(f"/api-keys/{kept['id']}")


async def test_a_stream_ends_with_its_credential_though_nobody_was_told(platform: Platform) -> None:
    owner, person = await platform.as_("owner"), await join(platform, "admin")
    made = await make_key(owner, "audit.read")
    open_streams = platform.services.access.open_streams
    endings = (
        ("UPDATE api_keys SET active = false WHERE id = $1", decode("key", made["id"])),
        (
            "UPDATE login_sessions SET revoked_at = now() WHERE user_id = $1",
            decode("usr", person.id),
        ),
    )
    async with with_key(owner, made["key"]) as program, AsyncExitStack() as opened:
        streams: list[AsyncIterator[bytes]] = []
        for client in (program, person.client, owner):
            answer = await opened.enter_async_context(
                client.stream("GET", "/policies/audit/stream")
            )
            streams.append(answer.aiter_bytes())
            assert await anext(streams[-1])  # it is open
        for statement, who in endings:
            await platform.sql(statement, who)
        open_streams.end(None)  # rings may have been lost
        async with asyncio.timeout(60):
            for stream in streams[:2]:
                with suppress(httpx.TransportError):
                    async for _ in stream:
                        pass
        await owner.delete(f"/api-keys/{made['id']}")
        assert await anext(streams[2])  # the other one goes on


@pytest.mark.requirement("AUTH-09")
async def test_without_the_bell_a_deleted_key_and_an_ended_login_lapse_within_5_s(
    platform: Platform,
) -> None:
    services, person = platform.services, await join(platform, "admin")
    made = await make_key(person.client, "graph.read")
    clock = MovingClock()
    deaf = open_access(
        services.db, services.redis, Bell(services.redis), platform.settings,
        resolve_secrets(platform.settings), clock,
    )  # fmt: skip
    headers = [f"Bearer {made['key']}".encode(), person.client.headers["authorization"].encode()]
    for header in headers:
        await deaf.authenticator.bearer(header)
    assert (await person.client.delete(f"/api-keys/{made['id']}")).status_code == 204
    assert (await person.client.post("/auth/logout")).status_code == 204
    clock.ahead = timedelta(seconds=5)
    for header in headers:
        with pytest.raises(UnauthenticatedError):
            await deaf.authenticator.bearer(header)


async def test_a_key_ends_when_it_says_so_and_tells_when_it_was_used(platform: Platform) -> None:
    keys, owner = platform.services.access.api_keys, await platform.as_("owner")
    now = SystemClock().now()
    over = {"name": "x", "permissions": ["graph.read"], "expires_at": now.isoformat()}
    assert (await owner.post("/api-keys", json=over)).status_code == 422
    beyond = over | {"expires_at": "9999-12-31T23:59:59-23:00"}
    assert (await owner.post("/api-keys", json=beyond)).status_code == 422
    until = (now + timedelta(hours=1)).isoformat()
    made = await make_key(owner, "graph.read", expires_at=until)
    assert (await keys.holder(made["key"])).expires_at is not None

    statement = "SELECT last_used_at FROM api_keys WHERE id = $1"
    (first,) = await platform.sql(statement, decode("key", made["id"]))
    assert first["last_used_at"] is not None
    await keys.holder(made["key"])
    (second,) = await platform.sql(statement, decode("key", made["id"]))
    assert second["last_used_at"] == first["last_used_at"]  # to the minute
    await platform.sql(
        "UPDATE api_keys SET expires_at = now() - interval '1 s' WHERE id = $1",
        decode("key", made["id"]),
    )
    with pytest.raises(UnauthenticatedError) as refused:
        await keys.holder(made["key"])
    assert refused.value.code == "token_expired"


async def test_a_key_is_no_login_and_its_deeds_carry_its_id(platform: Platform) -> None:
    owner = await platform.as_("owner")
    made = await make_key(owner, "realm.write")
    async with with_key(owner, made["key"]) as key:
        for path, body in (
            ("/auth/logout", {}),
            ("/auth/password", {"current": "x" * 12, "new": "y" * 12}),
        ):
            assert (await key.post(path, json=body)).status_code == 403, path
        assert (await key.post("/realms", json={"name": "by-a-key"})).status_code == 201
        refused = await key.get("/users")
        assert refused.status_code == 403
        assert "scope" in refused.json()["error"]["message"]  # its owner's role has it
    entries = await owner.get("/policies/audit", params={"api_key_id": made["id"]})
    seen = {(row["action"], row["decision"]) for row in entries.json()["items"]}
    assert {("realm.write", "allow"), ("user.read", "deny")} <= seen
    asked = {row["input"]["subject"]["api_key_id"] for row in entries.json()["items"]}
    assert asked == {made["id"]}


async def test_a_user_has_at_most_a_hundred_keys_however_many_are_asked_for_at_once(
    platform: Platform,
) -> None:
    person = await join(platform, "admin")
    body = {"name": "many", "permissions": ["graph.read"]}
    async with asyncio.timeout(60):
        answers = await asyncio.gather(
            *(person.client.post("/api-keys", json=body) for _ in range(MAX_KEYS + 5))
        )
    refused = [answer for answer in answers if answer.status_code != 201]
    assert len(refused) == 5
    assert {answer.json()["error"]["code"] for answer in refused} == {"quota_exceeded"}
