"""``agentcy login, org, users, invites, api-keys`` against a real API."""

from __future__ import annotations

import asyncio
from hashlib import sha256
from pathlib import Path
from typing import Any

import orjson
import pytest
from typer.testing import CliRunner

from agentcy_ray.cli.client import Client
from agentcy_ray.cli.main import build
from agentcy_ray.cli.output import exit_code
from agentcy_ray.cli.profile import save_login, saved_login
from agentcy_ray.core.errors import RefusedError
from agentcy_ray.core.settings import Settings
from tests.api.people import join
from tests.api.platform import PASSWORD, Platform


async def test_a_person_and_a_program_work_from_the_command_line(
    platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENTCY_URL", platform.url)
    monkeypatch.setenv("AGENTCY_STATE_DIR", str(tmp_path))

    async def run(*words: str) -> Any:
        done = await asyncio.to_thread(CliRunner().invoke, build(), [*words, "--json"])
        if isinstance(done.exception, Exception):
            raise done.exception
        assert done.exit_code == 0, done.output
        return orjson.loads(done.stdout)

    person, owner = await join(platform, "admin"), await join(platform, "owner")
    me = await run("login", "--email", owner.email, "--password", PASSWORD)
    assert (me["user"]["email"], me["role"]) == (owner.email, "owner")
    assert await run("whoami") == me

    assert (await run("org", "change", "--audit-days", "400"))["settings"]["retention"] == {
        "audit_days": 400
    }
    await run("org", "change", "--audit-days", "0")
    assert (await run("org", "show"))["settings"]["retention"] == {"audit_days": None}
    assert (await run("org", "usage", "--by", "model"))["since"]

    listed = await run("users", "list")
    assert {person.email, owner.email} <= {user["email"] for user in listed}
    changed = await run(
        "users", "change", person.id, "--role", "member", "--permission", "user.read",
        "--realm", "data", "--realm", "crm",
    )  # fmt: skip
    assert (changed["role"], changed["permissions"]) == ("member", ["user.read"])
    assert changed["realms"] == ["data", "crm"]
    freed = await run("users", "change", person.id, "--realm", "*", "--permission", "")
    assert (freed["realms"], freed["permissions"]) == (None, [])
    invited = await run("invites", "create", "by-command@acme.test", "--role", "viewer")
    assert "#invite=inv_" in invited["link"]
    assert invited["id"] in {one["id"] for one in await run("invites", "list")}
    await run("invites", "revoke", invited["id"])

    made = await run("api-keys", "create", "report", "--permission", "user.read", "--rpm", "60")
    with monkeypatch.context() as program:
        program.setenv("AGENTCY_API_KEY", made["key"])
        assert (await run("whoami"))["permissions"] == ["user.read"]
        assert await run("users", "list")
        with pytest.raises(RefusedError) as refused:
            await run("users", "remove", person.id)
        assert exit_code(refused.value) == 3
    (shown,) = [key for key in await run("api-keys", "list") if key["id"] == made["id"]]
    assert (shown["rpm"], shown["active"], "key" in shown) == (60, True, False)
    await run("api-keys", "revoke", made["id"])
    await run("users", "remove", person.id)
    assert person.id not in {user["id"] for user in await run("users", "list")}
    heir = await join(platform)
    assert (await run("org", "transfer", heir.id))["role"] == "owner"
    assert (await run("whoami"))["role"] == "admin"


async def test_commands_side_by_side_renew_one_login_once(
    platform: Platform, tmp_path: Path
) -> None:
    person = await join(platform)
    settings = Settings.load({}, agentcy_url=platform.url, agentcy_state_dir=tmp_path)
    async with Client(settings) as first:
        await first.login(person.email, PASSWORD)
    login = saved_login(settings, platform.url)
    save_login(settings, platform.url, login | {"token": "no longer good"})
    async with Client(settings) as one, Client(settings) as other, asyncio.timeout(60):
        asked = [client.get("/auth/me") for client in (one, one, one, other, other)]
        assert {me["user"]["email"] for me in await asyncio.gather(*asked)} == {person.email}
    rows = await platform.sql(
        "SELECT used_at, revoked_at FROM login_sessions WHERE refresh_hash = $1",
        sha256(login["refresh_token"].encode()).digest(),
    )
    assert [(row["used_at"] is not None, row["revoked_at"]) for row in rows] == [(True, None)]
