"""Who still holds what they held: people, keys and logins looked up together."""

from __future__ import annotations

import pytest

from agentcy_ray.core.ids import new_id
from agentcy_ray.core.tenancy import Principal, Role
from agentcy_ray.identity.standing import Standing
from tests.identity.conftest import PASSWORD, Desk

EMAIL = "ada@acme.test"


@pytest.mark.parametrize(
    ("change", "stands"),
    [
        ("name = 'Ada'", True),
        ("roles = '{admin}'", True),
        ("permissions = '{org.read,org.billing}'", True),
        ("realms = '{crm,data,design}'", True),
        ("realms = NULL", True),
        ("roles = '{viewer}'", False),
        ("roles = '{admin}', permissions = '{}'", True),  # an admin has what was granted
        ("permissions = '{}'", False),
        ("realms = '{crm}'", False),
        ("active = false", False),
    ],
)
async def test_who_holds_less_than_before_does_not_stand(
    desk: Desk, change: str, stands: bool
) -> None:
    await desk.set("permissions = '{org.read}', realms = '{crm,data}'")
    login = await desk.identity.login(EMAIL, PASSWORD)
    principal = await desk.identity.principal(desk.tokens.verify(login.token))
    await desk.set(change)
    assert await Standing(desk.db).of_principals([principal]) == [stands]


async def test_keys_logins_and_organisations_end_what_they_began(desk: Desk) -> None:
    standing = Standing(desk.db)
    login = await desk.identity.login(EMAIL, PASSWORD)
    by_login = await desk.identity.principal(desk.tokens.verify(login.token))
    by_key = by_login.model_copy(update={"session_id": None, "api_key_id": new_id()})
    # What an issuer's own token says of the role is not what is stored.
    by_issuer = by_login.model_copy(update={"session_id": None, "auth": "oidc", "role": Role.OWNER})
    granted = by_issuer.model_copy(update={"permissions": ("org.read",)})
    assert await standing.of_principals([granted]) == [False]
    system = Principal(user_id=new_id(), org_id=desk.org_id, role=Role.OWNER, auth="system")
    asked = [by_login, by_key, by_issuer, system]
    assert await standing.of_principals(asked) == [True, False, True, True]
    assert await standing.of_bearers(asked[:3]) == [True, False, True]
    await desk.identity.logout(desk.tokens.verify(login.token))
    assert await standing.of_principals([by_login]) == [True]  # a run outlives a logout
    assert await standing.of_bearers([by_login]) == [False]  # a stream does not
    async with desk.db.system() as connection:
        await connection.execute(
            "UPDATE organizations SET deleted_at = now() WHERE id = $1", desk.org_id
        )
    assert await standing.of_principals(asked) == [False, False, False, True]
