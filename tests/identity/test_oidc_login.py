"""Login by the browser at an identity provider: state, PKCE, nonce, and what comes back."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest

from agentcy_ray.core.errors import (
    AgentcyError,
    BadRequestError,
    InvalidError,
    RefusedError,
    UnauthenticatedError,
)
from agentcy_ray.identity.oauth_state import LIVES_SECS
from agentcy_ray.identity.oidc_login import Arrival, OidcLogin
from agentcy_ray.identity.sessions import Client
from tests.identity.conftest import OidcDesk
from tests.identity.issuer import AUDIENCE, CLIENT_ID, ROLE_CLAIM, Issuer

pytestmark = pytest.mark.requirement("AUTH-08")


class Browser:
    """Goes where it is sent, and keeps what it is given."""

    def __init__(self, login: OidcLogin) -> None:
        self.login = login
        self.asked: dict[str, str] = {}

    async def go(self, return_to: str = "/", **tampered: str) -> Arrival:
        """To the issuer and back; ``tampered`` parameters are changed on the way there."""
        started = await self.login.start(return_to)
        parts = urlsplit(started.url)
        self.asked = {k: v[0] for k, v in parse_qs(parts.query).items()} | tampered
        async with httpx2.AsyncClient(timeout=60) as http:
            url = f"{parts.scheme}://{parts.netloc}{parts.path}"
            answer = await http.get(url, params=self.asked)
        assert answer.status_code == 302
        back = {k: v[0] for k, v in parse_qs(urlsplit(answer.headers["location"]).query).items()}
        return Arrival(
            back["state"], back.get("code"), back.get("error"), back.get("iss"), started.browser
        )


@pytest.fixture
def login(oidc_desk: OidcDesk) -> OidcLogin:
    opened = oidc_desk.open().login
    assert opened is not None
    return opened


async def refused(login: OidcLogin, arrival: Arrival, kind: type[AgentcyError]) -> AgentcyError:
    with pytest.raises(kind) as error:
        await login.finish(arrival, Client())
    return error.value


async def sessions(desk: OidcDesk) -> int:
    async with desk.desk.db.system() as connection:
        return await connection.fetchval("SELECT count(*) FROM login_sessions")


async def test_a_login_ends_in_a_session_of_ours(login: OidcLogin, oidc_desk: OidcDesk) -> None:
    browser = Browser(login)
    arrival = await browser.go("/console?tab=1")
    session, return_to = await login.finish(arrival, Client("10.0.0.7", "firefox"))
    assert return_to == "/console?tab=1"
    assert (browser.asked["code_challenge_method"], len(browser.asked["code_challenge"])) == (
        "S256", 43,
    )  # fmt: skip
    assert browser.asked["redirect_uri"].endswith("/api/v1/auth/oidc/callback")
    assert browser.asked["scope"].split()[0] == "openid"
    identity = oidc_desk.desk.identity
    found = await identity.verify(session.token)
    assert (found.principal.auth, found.principal.org_id) == ("oidc", oidc_desk.desk.org_id)
    assert found.principal.external_id == oidc_desk.issuer.person["sub"]
    again = await identity.refresh(session.refresh_token)
    await identity.verify(again.token)


async def test_a_session_ends_when_its_provider_is_turned_off(
    login: OidcLogin, oidc_desk: OidcDesk
) -> None:
    session, _ = await login.finish(await Browser(login).go(), Client())
    identity = oidc_desk.desk.identity
    identity._providers = frozenset({"local"})
    with pytest.raises(UnauthenticatedError):
        await identity.verify(session.token)
    with pytest.raises(UnauthenticatedError):
        await identity.refresh(session.refresh_token)


async def test_state_and_verifier_lie_in_redis_for_ten_minutes(
    login: OidcLogin, oidc_desk: OidcDesk
) -> None:
    arrival = await Browser(login).go()
    redis = oidc_desk.redis
    async with redis.commands() as client:
        for name in ("oauth", "pkce"):
            key = redis.key(name, arrival.state)
            assert LIVES_SECS - 60 < await client.ttl(key) <= LIVES_SECS
            assert arrival.browser not in str(await client.get(key))
    await login.finish(arrival, Client())
    async with redis.commands() as client:
        assert not await client.exists(*(redis.key(n, arrival.state) for n in ("oauth", "pkce")))


@pytest.mark.attack
async def test_a_state_works_once_in_the_browser_that_began(
    login: OidcLogin, oidc_desk: OidcDesk
) -> None:
    browser = Browser(login)
    arrival = await browser.go()
    await login.finish(arrival, Client())
    before = await sessions(oidc_desk)
    asked = oidc_desk.issuer.asked["token"]
    expired = await browser.go()
    async with oidc_desk.redis.commands() as client:
        await client.delete(oidc_desk.redis.key("oauth", expired.state))
    other = await browser.go()
    for wrong in (
        arrival,  # used
        expired,
        replace(await browser.go(), browser=None),
        replace(await browser.go(), browser=other.browser),
        replace(await browser.go(), browser=""),
        replace(await browser.go(), state="A" * 43),
        replace(await browser.go(), state=""),
        replace(await browser.go(), state="*"),
        replace(await browser.go(), state="x:../oauth" + "a" * 33),
    ):
        error = await refused(login, wrong, BadRequestError)
        assert (error.status, error.code) == (400, "oauth_state_invalid")
    stolen = await browser.go()
    await refused(login, replace(stolen, browser=other.browser), BadRequestError)
    await refused(login, stolen, BadRequestError)  # whoever tried has used it up
    assert oidc_desk.issuer.asked["token"] == asked, "no code was tried"
    assert await sessions(oidc_desk) == before


@pytest.mark.attack
async def test_pkce_cannot_be_weakened_and_a_code_cannot_be_moved(
    login: OidcLogin, oidc_desk: OidcDesk
) -> None:
    browser, before = Browser(login), await sessions(oidc_desk)
    downgraded = await browser.go(code_challenge="E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM")
    await refused(login, downgraded, UnauthenticatedError)
    injected = replace(await browser.go(), code=(await browser.go()).code)
    await refused(login, injected, UnauthenticatedError)
    for code in (None, "", "made-up"):
        await refused(login, replace(await browser.go(), code=code), UnauthenticatedError)
    moved = await browser.go(redirect_uri="https://attacker.test/callback")
    await refused(login, moved, UnauthenticatedError)
    assert await sessions(oidc_desk) == before


@pytest.mark.attack
async def test_an_answer_in_the_name_of_another_issuer_is_refused(
    login: OidcLogin, oidc_desk: OidcDesk
) -> None:
    for issuer in ("https://attacker.test", "", oidc_desk.issuer.url + "/"):
        arrival = replace(await Browser(login).go(), issuer=issuer)
        await refused(login, arrival, UnauthenticatedError)
    error = replace(await Browser(login).go(), error="access_denied", code=None)
    assert (await refused(login, error, UnauthenticatedError)).code == "invalid_credentials"


@pytest.mark.attack
@pytest.mark.parametrize("change", [
    {"nonce": "another"}, {"nonce": ...}, {"nonce": None}, {"iss": "https://attacker.test"},
    {"iss": ...}, {"aud": AUDIENCE}, {"aud": ...}, {"aud": [CLIENT_ID, "other"]},
    {"aud": [CLIENT_ID, "other"], "azp": "other"}, {"azp": "other"}, {"exp": 1}, {"exp": ...},
    {"exp": "9999999999"}, {"iat": 9_999_999_999}, {"nbf": 9_999_999_999}, {"at_hash": "AAAA"},
    {"at_hash": None}, {"sub": ...}, {"sub": ""}, {"typ": "Bearer"}, {"typ": "Logout"},
], ids=str)  # fmt: skip
async def test_an_id_token_that_is_not_for_this_login_is_refused(
    login: OidcLogin, oidc_desk: OidcDesk, change: dict[str, Any]
) -> None:
    oidc_desk.issuer.id_token_change.update(change)
    error = await refused(login, await Browser(login).go(), UnauthenticatedError)
    assert error.code == "token_invalid"
    assert await sessions(oidc_desk) == 0


@pytest.mark.attack
@pytest.mark.parametrize("header", [
    {"alg": "none"}, {"alg": "HS256"}, {"kid": "absent"}, {"jwk": {}}, {"typ": "at+jwt"},
], ids=str)  # fmt: skip
async def test_an_id_token_of_another_form_is_refused(
    login: OidcLogin,
    oidc_desk: OidcDesk,
    monkeypatch: pytest.MonkeyPatch,
    header: dict[str, Any],
) -> None:
    def forged(self: Issuer, nonce: str, access_token: str) -> str:
        return self.token(self.claims(aud=CLIENT_ID, nonce=nonce, scope=...), header)

    monkeypatch.setattr(Issuer, "id_token", forged)
    await refused(login, await Browser(login).go(), UnauthenticatedError)


async def test_an_email_that_the_id_token_lacks_is_asked_for(
    login: OidcLogin, oidc_desk: OidcDesk
) -> None:
    issuer = oidc_desk.issuer
    issuer.id_token_change["email"] = ...
    issuer.told["email"] = "asked@acme.test"
    session, _ = await login.finish(await Browser(login).go(), Client())
    assert session.email == "asked@acme.test"
    issuer.told["sub"] = "somebody else"
    await refused(login, await Browser(login).go(), UnauthenticatedError)


async def test_a_login_stores_the_claimed_role_but_keeps_the_last_owner(
    login: OidcLogin, oidc_desk: OidcDesk
) -> None:
    issuer = oidc_desk.issuer
    for role, stored in (
        ("viewer", "viewer"), ("owner", "owner"), ("member", "owner"),  # the only owner there is
    ):  # fmt: skip
        issuer.id_token_change[ROLE_CLAIM] = role
        session, _ = await login.finish(await Browser(login).go(), Client())
        found = await oidc_desk.desk.identity.verify(session.token)
        assert found.principal.role == stored


async def test_a_disabled_account_is_told_so_and_gets_no_session(
    login: OidcLogin, oidc_desk: OidcDesk
) -> None:
    await login.finish(await Browser(login).go(), Client())
    async with oidc_desk.desk.db.system() as connection:
        await connection.execute("UPDATE users SET active = false WHERE issuer IS NOT NULL")
    error = await refused(login, await Browser(login).go(), RefusedError)
    assert (error.status, error.code) == (403, "account_disabled")
    assert await sessions(oidc_desk) == 1


@pytest.mark.attack
@pytest.mark.parametrize("path", [
    "", "console", "https://attacker.test/", "//attacker.test", "/\\attacker.test", "\\/a.test",
    "/a\nb", "/a\r\nset-cookie: x=1", "javascript:alert(1)", "/\x00", "/ü", "/a b", "/" + "a" * 600,
    "http:/x", "///x",
], ids=repr)  # fmt: skip
async def test_nobody_is_sent_to_another_site_after_a_login(login: OidcLogin, path: str) -> None:
    with pytest.raises(InvalidError):
        await login.start(path)
