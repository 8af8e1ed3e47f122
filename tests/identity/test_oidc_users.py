"""Who an OIDC token stands for: found by (issuer, subject), made at the first login."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from agentcy_ray.core.errors import ConflictError, RefusedError
from agentcy_ray.core.ids import encode
from agentcy_ray.core.tenancy import BUILT_IN_REALMS, Role
from agentcy_ray.identity.oidc_claims import Person
from agentcy_ray.identity.oidc_users import OidcUsers
from tests.identity.conftest import OidcDesk
from tests.identity.issuer import ORG_CLAIM, ROLE_CLAIM

WAITING = "SELECT EXISTS (SELECT 1 FROM pg_locks WHERE NOT granted)"
pytestmark = pytest.mark.requirement("AUTH-07")


async def rows(desk: OidcDesk, statement: str, *args: Any) -> list[Any]:
    async with desk.desk.db.system() as connection:
        return await connection.fetch(statement, *args)


async def test_the_first_login_makes_the_user_and_later_ones_find_them(oidc_desk: OidcDesk) -> None:
    issuer, provider = oidc_desk.issuer, oidc_desk.open().provider
    found = await asyncio.gather(*(provider.verify(issuer.token()) for _ in range(5)))
    assert len({one.principal.user_id for one in found}) == 1
    (user,) = await rows(oidc_desk, "SELECT * FROM users WHERE issuer IS NOT NULL")
    assert (user["issuer"], user["external_id"], user["email"], user["name"]) == (
        issuer.url, issuer.person["sub"], issuer.person["email"], "Ada",
    )  # fmt: skip
    assert (user["auth_provider"], user["password_hash"]) == ("oidc", None)
    assert (user["roles"], found[0].principal.role) == (["member"], Role.MEMBER)
    # Later tokens need no e-mail, and another address does not make another person.
    for email in (..., "changed@acme.test"):
        again = await provider.verify(issuer.token(issuer.claims(email=email)))
        assert again.principal.user_id == user["id"]


async def test_the_organisation_is_named_by_its_name_or_its_id(oidc_desk: OidcDesk) -> None:
    issuer, provider = oidc_desk.issuer, oidc_desk.open().provider
    by_name = await provider.verify(issuer.token())
    public = encode("org", oidc_desk.desk.org_id)
    by_id = await provider.verify(issuer.token(issuer.claims(**{ORG_CLAIM: public})))
    assert by_name.principal == by_id.principal
    # The same person in another organisation is another user there.
    elsewhere = await provider.verify(issuer.token(issuer.claims(**{ORG_CLAIM: "beta"})))
    assert elsewhere.principal.org_id != by_name.principal.org_id
    assert elsewhere.principal.user_id != by_name.principal.user_id


@pytest.mark.parametrize(
    "org", [..., None, "", "nowhere", "ORG_X", 7, ["acme"], "acme\n", "a" * 300]
)
async def test_without_an_organisation_of_ours_a_login_is_refused(
    oidc_desk: OidcDesk, org: Any
) -> None:
    issuer = oidc_desk.issuer
    for jit in (False, True):
        if jit and org in (..., None):
            continue  # the next test
        provider = oidc_desk.open(oidc_jit_org=jit).provider
        with pytest.raises(RefusedError) as refused:
            await provider.verify(issuer.token(issuer.claims(**{ORG_CLAIM: org})))
        assert refused.value.status == 403
    assert not await rows(oidc_desk, "SELECT 1 FROM users WHERE issuer IS NOT NULL")


async def test_a_first_login_founds_an_organisation_where_that_is_on(oidc_desk: OidcDesk) -> None:
    issuer, provider = oidc_desk.issuer, oidc_desk.open(oidc_jit_org=True).provider
    # A role without an organisation beside it is nobody's: a founder owns what they found.
    token = issuer.token(
        issuer.claims(**{ORG_CLAIM: ..., ROLE_CLAIM: "viewer", "name": "Ada & Co"})
    )
    found = await asyncio.gather(*(provider.verify(token) for _ in range(4)))
    assert len({one.principal.user_id for one in found}) == 1
    principal = found[0].principal
    assert principal.role is Role.OWNER
    (org,) = await rows(
        oidc_desk, "SELECT name, display_name FROM organizations WHERE id = $1", principal.org_id
    )
    assert (org["name"], org["display_name"]) == ("ada-co", "Ada & Co")
    for table, count in (("realms", len(BUILT_IN_REALMS)), ("agents", 1), ("policies", 4)):
        made = await rows(oidc_desk, f"SELECT 1 FROM {table} WHERE org_id = $1", principal.org_id)
        assert len(made) == count, table


async def test_a_claimed_role_counts_and_an_unknown_one_is_refused(oidc_desk: OidcDesk) -> None:
    issuer, provider = oidc_desk.issuer, oidc_desk.open().provider
    for role, meant in (("owner", "owner"), ("viewer", "viewer"), (["admin"], "admin")):
        found = await provider.verify(issuer.token(issuer.claims(**{ROLE_CLAIM: role})))
        assert found.principal.role == meant
    for role in ("root", "Admin", "", 7, [], ["admin", "viewer"], {"admin": 1}, True):
        with pytest.raises(RefusedError):
            await provider.verify(issuer.token(issuer.claims(**{ROLE_CLAIM: role})))
    # Without the claim the stored role counts, which an admin here may have changed.
    assert (await provider.verify(issuer.token())).principal.role is Role.OWNER


async def test_an_account_with_a_password_is_not_taken_over_by_its_email(
    oidc_desk: OidcDesk,
) -> None:
    issuer, provider = oidc_desk.issuer, oidc_desk.open().provider
    with pytest.raises(ConflictError):
        await provider.verify(issuer.token(issuer.claims(email="ADA@acme.test")))
    (ada,) = await rows(oidc_desk, "SELECT * FROM users WHERE id = $1", oidc_desk.desk.user_id)
    assert (ada["issuer"], ada["auth_provider"]) == (None, "local")


@pytest.mark.parametrize("change", [
    {"email": ...}, {"email": 7}, {"email": "nobody"}, {"email_verified": False},
    {"email_verified": "false"},
    {"email": "a@b\x00c.test"}, {"email": "x" * 300 + "@acme.test"},
], ids=str)  # fmt: skip
async def test_a_first_login_needs_an_email_that_the_issuer_stands_by(
    oidc_desk: OidcDesk, change: dict[str, Any]
) -> None:
    issuer, provider = oidc_desk.issuer, oidc_desk.open().provider
    with pytest.raises(RefusedError):
        await provider.verify(issuer.token(issuer.claims(**change)))


async def test_a_deleted_organisation_lets_nobody_in(oidc_desk: OidcDesk) -> None:
    issuer, provider = oidc_desk.issuer, oidc_desk.open().provider
    await provider.verify(issuer.token())
    async with oidc_desk.desk.db.system() as connection:
        await connection.execute(
            "UPDATE organizations SET deleted_at = now() WHERE id = $1", oidc_desk.desk.org_id
        )
    with pytest.raises(RefusedError):
        await provider.verify(issuer.token())


async def test_of_two_owners_who_end_at_once_by_different_ways_one_stays(
    oidc_desk: OidcDesk,
) -> None:
    desk, issuer = oidc_desk.desk, oidc_desk.issuer
    users = OidcUsers(desk.db, None)
    await oidc_desk.open().provider.verify(issuer.token())
    await rows(oidc_desk, "UPDATE users SET roles = '{owner}' WHERE issuer IS NOT NULL")
    await desk.set("roles = '{owner}'")
    person = Person(
        issuer.url, str(issuer.person["sub"]), str(issuer.person["email"]), "Ada", "acme",
        Role.MEMBER,
    )  # fmt: skip
    async with desk.db.system() as ending:
        await ending.fetch(
            "SELECT 1 FROM users WHERE 'owner' = ANY(roles) AND active ORDER BY id FOR UPDATE"
        )
        await ending.execute("UPDATE users SET active = false WHERE id = $1", desk.user_id)
        login = asyncio.create_task(users.admit(person, store_role=True))
        async with asyncio.timeout(60):
            while not await ending.fetchval(WAITING):
                await asyncio.wait({login}, timeout=0.02)
    admitted = await login
    assert admitted.role is Role.OWNER
    (user,) = await rows(oidc_desk, "SELECT roles FROM users WHERE issuer IS NOT NULL")
    assert user["roles"] == ["owner"]
