"""An identity provider beside passwords, through the whole application."""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from http.cookies import SimpleCookie
from urllib.parse import urlsplit

import httpx2 as httpx
import pytest

from agentcy_ray.api.logins import counted
from agentcy_ray.core.errors import RateLimitedError
from agentcy_ray.identity.oidc_issuer import WELL_KNOWN
from agentcy_ray.identity.sessions import Client
from agentcy_ray.identity.throttle import Throttle
from agentcy_ray.retrieval.local_embedder import LocalEmbedder
from agentcy_ray.stores.endpoints import Endpoints
from agentcy_ray.stores.secrets import resolve_secrets
from tests.api.platform import Platform, credentials, open_platform, with_database
from tests.conftest import MakeDatabase
from tests.identity.conftest import StoppedClock
from tests.identity.forge import Forge
from tests.identity.issuer import (
    AUDIENCE,
    CLIENT_ID,
    CLIENT_SECRET,
    ORG_CLAIM,
    ROLE_CLAIM,
    Issuer,
    open_issuer,
    raw_of,
)
from tests.identity.test_jwt_attacks import ALGORITHM, CLAIMS, FORM, HEADER, KIDS

ROWS = {**ALGORITHM, **HEADER, **FORM, **CLAIMS}


@dataclass
class House:
    """A platform with both ways in, and the issuer of one of them."""

    platform: Platform
    issuer: Issuer

    def bearer(self, **change: object) -> dict[str, str]:
        claims = self.issuer.claims(**{ORG_CLAIM: "default"} | change)
        return {"authorization": f"Bearer {self.issuer.token(claims)}"}


@pytest.fixture(scope="module")
async def house(
    endpoints: Endpoints,
    make_database: MakeDatabase,
    embedder: LocalEmbedder,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[House]:
    own = with_database(endpoints, await make_database())
    async with (
        open_issuer() as issuer,
        open_platform(
            own, tmp_path_factory.mktemp("house"), embedder,
            auth_provider=("local", "oidc"), jwt_audience=AUDIENCE,
            oidc_discovery_url=issuer.url + WELL_KNOWN,
            oidc_client_id=CLIENT_ID, oidc_client_secret=CLIENT_SECRET, rate_limit_login_rpm=3,
        ) as platform,
    ):  # fmt: skip
        yield House(platform, issuer)


@pytest.fixture(autouse=True)
def somebody(house: House) -> None:
    """Each time somebody else is logged in at the issuer."""
    house.issuer.reset()
    house.issuer.person[ORG_CLAIM] = "default"


async def at_callback(house: House, browser: httpx.AsyncClient, return_to: str = "/") -> str:
    """Go to the issuer and back; where the issuer sends the browser."""
    started = await browser.get("/auth/oidc/start", params={"return_to": return_to})
    assert started.status_code == 302, started.text
    async with httpx.AsyncClient(timeout=60) as elsewhere:
        answer = await elsewhere.get(started.headers["location"])
    parts = urlsplit(answer.headers["location"])
    return f"{house.platform.url}{parts.path}?{parts.query}"


@pytest.mark.requirement("AUTH-08")
async def test_a_browser_logs_in_and_stays_so_by_a_cookie(house: House) -> None:
    async with house.platform.client() as browser:
        back = await at_callback(house, browser, "/console#runs")
        ended = await browser.get(back)
        assert ended.status_code == 302
        assert ended.headers["location"] == house.platform.settings.public_url + "/console#runs"
        cookie = SimpleCookie(ended.headers.get_list("set-cookie")[0])["agentcy_refresh"]
        assert (cookie["path"], cookie["samesite"], cookie["httponly"]) == (
            "/api/v1/auth", "strict", True,
        )  # fmt: skip
        assert not cookie["secure"], "this one is served over http"
        first = (await browser.post("/auth/refresh")).json()
        assert first["refresh_token"] is None, "a script has no business with it"
        second = (await browser.post("/auth/refresh")).json()
        header = {"authorization": f"Bearer {second['token']}"}
        me = (await browser.get("/auth/me", headers=header)).json()
        assert (me["user"]["email"], me["role"]) == (house.issuer.person["email"], "member")
        assert (await browser.get("/sources", headers=header)).status_code == 200
        out = await browser.post("/auth/logout", headers=header)
        assert out.status_code == 204
        assert "agentcy_refresh" not in browser.cookies
        assert (await browser.get("/auth/me", headers=header)).status_code == 401
    owner = await house.platform.as_("owner")
    logged = await owner.get("/policies/audit", params={"category": "auth", "limit": 50})
    mine = [e["action"] for e in logged.json()["items"] if e["user_id"] == me["user"]["id"]]
    assert mine == ["auth.logout", "auth.login"]


@pytest.mark.attack
@pytest.mark.requirement("AUTH-08")
async def test_a_callback_works_once_and_in_its_own_browser(house: House) -> None:
    async with house.platform.client() as browser, house.platform.client() as other:
        back = await at_callback(house, browser)
        await at_callback(house, other)
        for client in (other, browser):  # the second one's login was used up by the first
            answer = await client.get(back)
            assert (answer.status_code, answer.json()["error"]["code"]) == (
                400, "oauth_state_invalid",
            )  # fmt: skip
            assert "agentcy_refresh" not in client.cookies
        assert (await browser.get(await at_callback(house, browser))).status_code == 302
        for path in ("https://attacker.test", "//attacker.test", "/\\attacker.test"):
            refused = await browser.get("/auth/oidc/start", params={"return_to": path})
            assert refused.status_code == 422
        assert (await other.post("/auth/refresh")).status_code == 401
        reused = SimpleCookie((await browser.post("/auth/refresh")).headers["set-cookie"])
        assert reused["agentcy_refresh"].value


@pytest.mark.requirement("AUTH-06")
async def test_an_access_token_of_the_issuer_is_a_bearer_token(house: House) -> None:
    async with house.platform.client(headers=house.bearer(**{ROLE_CLAIM: "viewer"})) as client:
        me = (await client.get("/auth/me")).json()
        assert (me["user"]["email"], me["role"]) == (house.issuer.person["email"], "viewer")
        assert (await client.get("/sources")).status_code == 200
        denied = await client.post("/sources", json={})
        assert (denied.status_code, denied.json()["error"]["code"]) == (403, "permission_denied")
        assert (await client.post("/auth/logout")).status_code == 403, "no login of ours"
        owner = await house.platform.as_("owner")
        path = f"/users/{me['user']['id']}"
        assert (await owner.patch(path, json={"active": False})).status_code == 200
        assert (await client.get("/auth/me")).status_code == 401


async def test_a_refused_login_is_in_the_log_of_its_organisation(house: House) -> None:
    house.issuer.person["email"] = "member@acme.test"
    async with house.platform.client() as browser:
        answer = await browser.get(await at_callback(house, browser))
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "conflict")
        assert "agentcy_refresh" not in browser.cookies
    await house.platform.services.gates.audit.settle()
    owner = await house.platform.as_("owner")
    page = await owner.get("/policies/audit", params={"category": "auth", "decision": "deny"})
    entry = page.json()["items"][0]
    assert (entry["action"], entry["user_id"], entry["reasons"][0]) == (
        "auth.login", None, "conflict",
    )  # fmt: skip


@pytest.mark.requirement("AUTH-07")
async def test_whom_the_issuer_sends_without_an_organisation_is_told_what_is_missing(
    house: House,
) -> None:
    async with house.platform.client(headers=house.bearer(**{ORG_CLAIM: ...})) as client:
        answer = await client.get("/auth/me")
        assert answer.status_code == 403
        assert "OIDC_CLAIM_ORG_ID" in answer.json()["error"]["message"]


@pytest.mark.attack
@pytest.mark.requirement("AUTH-05")
async def test_every_bad_token_answers_401_whatever_the_route(
    house: House, attack_scale: str
) -> None:
    """Of the table in its short form each third row: the providers themselves are asked all."""
    platform, sent, step = house.platform, 0, 1 if attack_scale == "long" else 3
    login = await platform.as_("member")
    issuer = house.issuer
    header = {"alg": "RS256", "typ": "at+jwt", "kid": "r1"}
    claims = issuer.claims(**{ORG_CLAIM: "default"})
    oidc = Forge("oidc", None, header, claims, issuer, issuer.keys["r1"])  # type: ignore[arg-type]
    text = login.headers["authorization"].removeprefix("Bearer ")
    parsed = [json.loads(raw_of(part)) for part in text.split(".")[:2]]
    secret = resolve_secrets(platform.settings).jwt_secret.encode()
    local = Forge("local", None, *parsed, issuer, secret)  # type: ignore[arg-type]
    async with platform.client() as client:
        for forge in (oidc, local):
            good = {"authorization": f"Bearer {forge.token()}"}
            assert (await client.get("/auth/ping", headers=good)).status_code == 200, forge.name
            bad = {name: row(forge) for name, row in ROWS.items()}
            if forge is oidc:
                bad |= {f"kid {kid!r}": forge.token(header={"kid": kid}) for kid in KIDS}
            for number, (name, token) in enumerate(list(bad.items())[::step]):
                if not (token.isascii() and token.isprintable() and 0 < len(token) < 60_000):
                    continue  # no client can put it into a header
                sent += 1
                path = ("/auth/ping", "/auth/me", "/sources", "/auth/config")[number % 4]
                headers = {"authorization": f"Bearer {token}"}
                answer = await client.get(path, headers=headers)
                assert answer.status_code == 401, (forge.name, name, path)
                error = answer.json()["error"]
                assert error["code"] == "token_invalid", (forge.name, name)
                assert error["message"] == "the access token is not valid; log in", name
    assert sent > 300 / step
    assert not issuer.asked["trap"]


async def test_the_ways_in_are_told_without_a_login(house: House) -> None:
    answer = await house.platform.client().get("/auth/config")
    assert answer.json()["providers"] == ["local", "oidc"]


async def test_a_first_password_is_changed_before_anything_else(house: House) -> None:
    platform = house.platform
    await platform.sql(
        "UPDATE users SET must_change_password = true WHERE id = $1", platform.users["leaver"]
    )
    async with platform.client() as client:
        body = (await client.post("/auth/login", json=credentials("leaver"))).json()
        client.headers["authorization"] = f"Bearer {body['token']}"
        for method, path in (
            ("GET", "/sources"), ("POST", "/chat/conversations"), ("GET", "/realms"),
            ("GET", "/api-keys"),
        ):  # fmt: skip
            answer = await client.request(method, path, json={} if method == "POST" else None)
            assert (answer.status_code, answer.json()["error"]["code"]) == (
                403, "password_change_required",
            ), path  # fmt: skip
            assert "/auth/password" in answer.json()["error"]["message"]
        assert (await client.get("/auth/me")).json()["must_change_password"] is True
        renewed = await client.post("/auth/refresh", json={"refresh_token": body["refresh_token"]})
        client.headers["authorization"] = f"Bearer {renewed.json()['token']}"
        assert (await client.get("/sources")).status_code == 403
        change = {"current": credentials("leaver")["password"], "new": "a password of my own"}
        assert (await client.post("/auth/password", json=change)).status_code == 204
        assert (await client.get("/sources")).status_code == 200
        assert (await client.get("/auth/me")).json()["must_change_password"] is False


@pytest.fixture
def stopped(house: House, monkeypatch: pytest.MonkeyPatch) -> Throttle:
    """The limit of an address, to which no token comes back meanwhile."""
    limit = house.platform.services.access.session_limit
    monkeypatch.setattr(limit._buckets, "_clock", StoppedClock())
    return limit


async def test_refreshes_are_limited_by_address(house: House, stopped: Throttle) -> None:
    async with house.platform.client() as client:
        codes: list[int] = []
        while 429 not in codes:
            assert len(codes) < 300
            guess = {"refresh_token": f"rt_{secrets.token_urlsafe(32)}"}
            codes.append((await client.post("/auth/refresh", json=guess)).status_code)
    assert set(codes) == {401, 429}


async def test_whoever_tries_ever_other_emails_is_limited_by_address(
    house: House, stopped: Throttle
) -> None:
    with suppress(RateLimitedError):
        for _ in range(100):
            await stopped.check("login:127.0.0.1")
    async with house.platform.client() as client:
        for path in ("/auth/login", "/auth/register"):
            body = {"email": f"{secrets.token_hex(4)}@acme.test", "password": "wrong password"}
            assert (await client.post(path, json=body)).status_code == 429, path


@pytest.mark.parametrize(("address", "by"), [
    ("192.0.2.7", "192.0.2.7"), ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"), (None, "None"),
])  # fmt: skip
def test_an_address_counts_for_all_that_one_customer_has(address: str | None, by: str) -> None:
    assert counted(Client(ip=address)) == by
