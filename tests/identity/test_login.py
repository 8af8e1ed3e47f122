"""Local logins: passwords, sessions, refresh tokens."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import bcrypt
import pytest
from argon2 import PasswordHasher

from agentcy_ray.core.errors import (
    BadRequestError,
    InvalidError,
    RefusedError,
    UnauthenticatedError,
)
from agentcy_ray.core.tenancy import Role
from agentcy_ray.identity.local import LocalIdentity
from agentcy_ray.identity.passwords import check_new
from agentcy_ray.identity.revocation import Revoked
from agentcy_ray.identity.sessions import Client
from tests.identity.conftest import PASSWORD, Desk

EMAIL = "ada@acme.test"


@pytest.mark.requirement("AUTH-02")
async def test_a_login_makes_a_session_row_and_a_token_that_names_it(desk: Desk) -> None:
    login = await desk.identity.login(EMAIL, PASSWORD, client=Client("10.0.0.7", "curl"))
    async with desk.db.tenant(desk.org_id) as connection:
        (row,) = await connection.fetch("SELECT * FROM login_sessions")
    claims = desk.tokens.verify(login.token)
    assert (row["family_id"], row["user_id"], row["ip"]) == (
        claims.session_id, desk.user_id, "10.0.0.7",
    )  # fmt: skip
    assert login.refresh_token.encode() not in row["refresh_hash"]
    principal = await desk.identity.principal(claims)
    assert (principal.user_id, principal.org_id, principal.role) == (
        desk.user_id, desk.org_id, Role.MEMBER,
    )  # fmt: skip


async def test_a_principal_is_what_the_database_says_now(desk: Desk) -> None:
    claims = desk.tokens.verify((await desk.identity.login(EMAIL, PASSWORD)).token)
    await desk.set("roles = '{viewer,admin}', realms = '{crm}', permissions = '{org.billing}'")
    principal = await desk.identity.principal(claims)
    assert (principal.role, principal.realms) == (Role.ADMIN, ("crm",))
    assert principal.grant("org.billing") == "full"
    await desk.set("active = false")
    with pytest.raises(UnauthenticatedError):
        await desk.identity.principal(claims)


async def test_a_wrong_email_and_a_wrong_password_get_the_same_answer(desk: Desk) -> None:
    said = []
    for email, password in ((EMAIL, "wrong"), ("nobody@acme.test", PASSWORD)):
        with pytest.raises(UnauthenticatedError) as refused:
            await desk.identity.login(email, password)
        said.append((refused.value.code, refused.value.message))
    assert said[0] == said[1]
    assert said[0][0] == "invalid_credentials"


async def test_both_wrong_logins_verify_a_hash_of_the_same_cost(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    costs: list[str] = []
    real = PasswordHasher.verify

    def watched(self: PasswordHasher, stored: str, password: str) -> bool:
        costs.append(stored.rsplit("$", 2)[0])
        return real(self, stored, password)

    monkeypatch.setattr(PasswordHasher, "verify", watched)
    for email in (EMAIL, "nobody@acme.test"):
        with pytest.raises(UnauthenticatedError):
            await desk.identity.login(email, "wrong")
    assert costs[0] == costs[1] == "$argon2id$v=19$m=65536,t=3,p=4"


async def test_an_email_of_several_organisations_needs_the_organisation(desk: Desk) -> None:
    with pytest.raises(BadRequestError) as refused:
        await desk.identity.login("bob@acme.test", PASSWORD)
    assert refused.value.code == "org_required"
    said = []
    for email in ("bob@acme.test", "nobody@acme.test"):  # a stranger is not told of it
        with pytest.raises(UnauthenticatedError) as wrong:
            await desk.identity.login(email, "wrong")
        said.append((wrong.value.code, wrong.value.message))
    assert said[0] == said[1]
    login = await desk.identity.login("BOB@acme.test", PASSWORD, "beta")
    assert login.org_id != desk.org_id
    with pytest.raises(UnauthenticatedError):
        await desk.identity.login("bob@acme.test", PASSWORD, "gamma")


async def test_a_disabled_account_is_told_so_only_with_its_password(desk: Desk) -> None:
    await desk.set("active = false")
    with pytest.raises(RefusedError) as refused:
        await desk.identity.login(EMAIL, PASSWORD)
    assert refused.value.code == "account_disabled"
    with pytest.raises(UnauthenticatedError):
        await desk.identity.login(EMAIL, "wrong")


async def test_a_hash_of_weaker_parameters_is_replaced_at_a_good_login(desk: Desk) -> None:
    weak = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash(PASSWORD)
    await desk.set("password_hash = $2, must_change_password = true", weak)
    with pytest.raises(UnauthenticatedError):
        await desk.identity.login(EMAIL, "wrong")
    assert await desk.user("password_hash") == weak
    await desk.identity.login(EMAIL, PASSWORD)
    stored = str(await desk.user("password_hash"))
    assert stored.startswith("$argon2id$v=19$m=65536")
    assert await desk.user("must_change_password")  # the password itself is still the first one


@pytest.mark.requirement("AUTH-03")
@pytest.mark.parametrize("password", [PASSWORD, "ä" * 50 + " is longer than 72 bytes"])
@pytest.mark.parametrize("prefix", [b"2a", b"2b"])
async def test_a_bcrypt_hash_is_accepted_once_and_replaced_by_argon2id(
    desk: Desk, password: str, prefix: bytes
) -> None:
    salt = bcrypt.gensalt(4, prefix)
    await desk.set("password_hash = $2", bcrypt.hashpw(password.encode()[:72], salt).decode())
    with pytest.raises(UnauthenticatedError):
        await desk.identity.login(EMAIL, "wrong")
    assert str(await desk.user("password_hash")).startswith("$2")
    await desk.identity.login(EMAIL, password)
    assert str(await desk.user("password_hash")).startswith("$argon2id$v=19$m=65536")
    await desk.identity.login(EMAIL, password)
    with pytest.raises(UnauthenticatedError):  # beyond 72 bytes it counts from now on
        await desk.identity.login(EMAIL, password + "x")


@pytest.mark.parametrize("stored", [
    "", "$2b$04$short", "$2b$31$" + "a" * 53, "$2x$04$" + "a" * 53, "plain", "$1$abc$def", None,
])  # fmt: skip
async def test_a_hash_of_another_kind_lets_nobody_in(desk: Desk, stored: str | None) -> None:
    await desk.set("password_hash = $2", stored)
    for password in (PASSWORD, "plain", ""):
        with pytest.raises(UnauthenticatedError):
            await desk.identity.login(EMAIL, password)


async def test_where_passwords_are_off_no_login_and_no_session_of_one_is_good(desk: Desk) -> None:
    before = await desk.identity.login(EMAIL, PASSWORD)
    closed = LocalIdentity(desk.db, desk.tokens, desk.clock, 3600, ("oidc",))
    with pytest.raises(RefusedError):
        await closed.login(EMAIL, PASSWORD)
    with pytest.raises(UnauthenticatedError):
        await closed.verify(before.token)


@pytest.mark.requirement("AUTH-04")
async def test_a_refresh_token_works_once_and_its_reuse_ends_the_family(desk: Desk) -> None:
    login = await desk.identity.login(EMAIL, PASSWORD)
    bystander = await desk.identity.login(EMAIL, PASSWORD)
    second = await desk.identity.refresh(login.refresh_token)
    third = await desk.identity.refresh(second.refresh_token)
    claims = desk.tokens.verify(third.token)
    assert claims.session_id == desk.tokens.verify(login.token).session_id
    await desk.identity.principal(claims)

    with pytest.raises(UnauthenticatedError) as reused:
        await desk.identity.refresh(login.refresh_token)
    assert reused.value.code == "token_reused"
    for token in (login.token, second.token, third.token):
        with pytest.raises(UnauthenticatedError):
            await desk.identity.principal(desk.tokens.verify(token))
    with pytest.raises(UnauthenticatedError):
        await desk.identity.refresh(third.refresh_token)
    await desk.identity.principal(desk.tokens.verify(bystander.token))


@pytest.mark.requirement("AUTH-04")
async def test_of_many_that_refresh_at_once_one_wins_and_the_family_ends(desk: Desk) -> None:
    login = await desk.identity.login(EMAIL, PASSWORD)
    answers = await asyncio.gather(
        *(desk.identity.refresh(login.refresh_token) for _ in range(5)), return_exceptions=True
    )
    won = [answer for answer in answers if not isinstance(answer, BaseException)]
    lost = [answer for answer in answers if isinstance(answer, UnauthenticatedError)]
    assert (len(won), len(lost)) == (1, 4)
    with pytest.raises(UnauthenticatedError):
        await desk.identity.principal(desk.tokens.verify(won[0].token))


async def test_an_expired_or_made_up_refresh_token_is_refused(desk: Desk) -> None:
    login = await desk.identity.login(EMAIL, PASSWORD)
    with pytest.raises(UnauthenticatedError) as made_up:
        await desk.identity.refresh("rt_" + "A" * 43)
    assert made_up.value.code == "token_invalid"
    desk.clock.ahead = timedelta(days=2)
    with pytest.raises(UnauthenticatedError):
        await desk.identity.refresh(login.refresh_token)


async def test_a_logout_ends_one_login_with_its_refresh_tokens(desk: Desk) -> None:
    gone = await desk.identity.login(EMAIL, PASSWORD)
    kept = await desk.identity.login(EMAIL, PASSWORD)
    await desk.identity.logout(desk.tokens.verify(gone.token))
    with pytest.raises(UnauthenticatedError):
        await desk.identity.principal(desk.tokens.verify(gone.token))
    with pytest.raises(UnauthenticatedError):
        await desk.identity.refresh(gone.refresh_token)
    await desk.identity.principal(desk.tokens.verify(kept.token))


async def test_a_new_password_is_argon2id_and_ends_the_other_sessions(desk: Desk) -> None:
    mine = await desk.identity.login(EMAIL, PASSWORD)
    other = await desk.identity.login(EMAIL, PASSWORD)
    me = await desk.identity.principal(desk.tokens.verify(mine.token))
    with pytest.raises(UnauthenticatedError):
        await desk.identity.change_password(me, "wrong", "another long password")
    await desk.set("must_change_password = true")
    await desk.identity.change_password(me, PASSWORD, "another long password")
    assert str(await desk.user("password_hash")).startswith("$argon2id$")
    assert not await desk.user("must_change_password")
    await desk.identity.principal(desk.tokens.verify(mine.token))
    with pytest.raises(UnauthenticatedError):
        await desk.identity.principal(desk.tokens.verify(other.token))
    with pytest.raises(UnauthenticatedError):
        await desk.identity.login(EMAIL, PASSWORD)
    await desk.identity.login(EMAIL, "another long password")


@pytest.mark.parametrize("password", ["elevenchars", "x" * 257, "Ada@Acme.test"])
def test_a_password_too_short_too_long_or_like_the_email_is_refused(password: str) -> None:
    with pytest.raises(InvalidError):
        check_new(password, EMAIL)


async def test_the_current_password_is_no_new_one(desk: Desk) -> None:
    await desk.set("must_change_password = true")
    login = await desk.identity.login(EMAIL, PASSWORD)
    principal = await desk.identity.principal(desk.tokens.verify(login.token))
    with pytest.raises(InvalidError):
        await desk.identity.change_password(principal, PASSWORD, PASSWORD)
    assert await desk.user("must_change_password")


async def test_a_login_that_is_refreshed_while_it_ends_has_ended(desk: Desk) -> None:
    for _ in range(4):
        login = await desk.identity.login(EMAIL, PASSWORD)
        claims = desk.tokens.verify(login.token)
        refreshed, _ = await asyncio.gather(
            desk.identity.refresh(login.refresh_token),
            desk.identity.logout(claims),
            return_exceptions=True,
        )
        with pytest.raises(UnauthenticatedError):
            await desk.identity.principal(claims)
        if not isinstance(refreshed, BaseException):
            with pytest.raises(UnauthenticatedError):
                await desk.identity.refresh(refreshed.refresh_token)


async def test_a_login_by_the_old_password_beside_its_change_leaves_nothing(desk: Desk) -> None:
    new = "a brand new password"
    for _ in range(2):
        old = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()
        await desk.set("password_hash = $2", old)
        own = await desk.identity.login(EMAIL, PASSWORD)
        await desk.set("password_hash = $2", old)
        principal = await desk.identity.principal(desk.tokens.verify(own.token))
        beside, changed = await asyncio.gather(
            desk.identity.login(EMAIL, PASSWORD),
            desk.identity.change_password(principal, PASSWORD, new),
            return_exceptions=True,
        )
        if isinstance(changed, UnauthenticatedError):  # the login had renewed the hash before
            continue
        assert changed is None
        await desk.identity.login(EMAIL, new)
        if not isinstance(beside, BaseException):
            with pytest.raises(UnauthenticatedError):
                await desk.identity.principal(desk.tokens.verify(beside.token))


async def test_no_login_of_a_closed_organisation_is_good(desk: Desk) -> None:
    login = await desk.identity.login(EMAIL, PASSWORD)
    async with desk.db.system() as connection:
        await connection.execute(
            "UPDATE organizations SET deleted_at = now() WHERE id = $1", desk.org_id
        )
    with pytest.raises(UnauthenticatedError):
        await desk.identity.verify(login.token)
    with pytest.raises(UnauthenticatedError):
        await desk.identity.refresh(login.refresh_token)


async def test_other_processes_hear_of_a_login_that_was_stolen(desk: Desk) -> None:
    told: list[Revoked] = []

    async def tell(revoked: Revoked) -> None:
        told.append(revoked)

    identity = LocalIdentity(desk.db, desk.tokens, desk.clock, 3600, ("local",), tell)
    login = await identity.login(EMAIL, PASSWORD)
    await identity.refresh(login.refresh_token)
    assert told == []
    with pytest.raises(UnauthenticatedError):
        await identity.refresh(login.refresh_token)
    assert told == [Revoked(session_id=desk.tokens.verify(login.token).session_id)]
