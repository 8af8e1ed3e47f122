"""The keys of an issuer: when they are read, who shares them, and what is not taken for one."""

from __future__ import annotations

import asyncio
import zlib
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from starlette.responses import JSONResponse, RedirectResponse, Response

from agentcy_ray.core.errors import StoreUnavailableError, UnauthenticatedError
from agentcy_ray.identity.jwks import UNSEEN_SECS
from agentcy_ray.identity.oidc_issuer import MAX_BYTES
from tests.identity.conftest import OidcDesk

pytestmark = pytest.mark.requirement("AUTH-06")


def new_ec() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


async def test_keys_are_read_once_and_shared_by_processes(oidc_desk: OidcDesk) -> None:
    issuer, first = oidc_desk.issuer, oidc_desk.open().provider
    tokens = [issuer.token(), issuer.token(kid="e1"), *(issuer.token() for _ in range(6))]
    await asyncio.gather(*(first.verify(token) for token in tokens))
    await oidc_desk.open().provider.verify(issuer.token())
    assert issuer.asked["jwks"] == 1
    name = oidc_desk.redis.key("cache", "jwks", issuer.url)
    async with oidc_desk.redis.commands() as client:
        assert 0 < await client.ttl(name) <= 3600


async def test_an_unseen_key_is_looked_for_once_a_minute_and_then_refused(
    oidc_desk: OidcDesk,
) -> None:
    issuer, provider = oidc_desk.issuer, oidc_desk.open().provider
    await provider.verify(issuer.token())
    issuer.add_key("r2", new_ec())
    with pytest.raises(UnauthenticatedError):  # the keys are younger than a minute
        await provider.verify(issuer.token(kid="r2"))
    oidc_desk.desk.clock.ahead = timedelta(seconds=UNSEEN_SECS + 1)
    tokens = [issuer.token(kid="r2") for _ in range(5)]
    await asyncio.gather(*(provider.verify(token) for token in tokens))
    assert issuer.asked["jwks"] == 2
    absent = [issuer.token(header={"kid": f"absent-{n}"}) for n in range(20)]
    answers = await asyncio.gather(*map(provider.verify, absent), return_exceptions=True)
    assert {type(answer) for answer in answers} == {UnauthenticatedError}
    assert issuer.asked["jwks"] == 2


async def test_a_key_that_the_issuer_took_back_ends_with_its_time(oidc_desk: OidcDesk) -> None:
    issuer, provider = oidc_desk.issuer, oidc_desk.open(jwks_ttl_secs=120).provider
    issuer.add_key("r3", new_ec())
    await provider.verify(issuer.token(kid="r3"))
    issuer.drop_key("r3")
    oidc_desk.desk.clock.ahead = timedelta(seconds=130)
    with pytest.raises(UnauthenticatedError):
        await provider.verify(issuer.token(kid="r3"))
    await provider.verify(issuer.token())


async def test_while_the_issuer_is_away_fresh_keys_serve_and_then_nobody_gets_in(
    oidc_desk: OidcDesk,
) -> None:
    issuer, provider = oidc_desk.issuer, oidc_desk.open(jwks_ttl_secs=300).provider
    await provider.verify(issuer.token())
    issuer.away = True
    oidc_desk.desk.clock.ahead = timedelta(seconds=200)
    await provider.verify(issuer.token())
    with pytest.raises(UnauthenticatedError):
        await provider.verify(issuer.token(header={"kid": "absent"}))
    oidc_desk.desk.clock.ahead = timedelta(seconds=310)
    asked = issuer.asked["jwks"]
    for _ in range(3):
        with pytest.raises(StoreUnavailableError) as closed:
            await provider.verify(issuer.token())
    assert closed.value.status == 503
    assert issuer.asked["jwks"] + issuer.asked["document"] <= asked + 3, "it is left alone a while"
    issuer.away = False
    oidc_desk.desk.clock.ahead = timedelta(seconds=320)
    await provider.verify(issuer.token())


async def test_keys_in_redis_that_somebody_else_wrote_are_not_trusted(oidc_desk: OidcDesk) -> None:
    issuer, provider = oidc_desk.issuer, oidc_desk.open().provider
    await provider.verify(issuer.token())
    name = oidc_desk.redis.key("cache", "jwks", issuer.url)
    mine = new_ec()
    issuer.add_key("mine", mine)  # published by nobody: it goes into Redis alone
    async with oidc_desk.redis.commands() as client:
        seal, _, body = str(await client.get(name)).partition(".")
        forged = body.replace('"kid":"e1"', '"kid":"mine"')
        assert forged != body
        await client.set(name, f"{seal}.{forged}")
    issuer.drop_key("mine")
    with pytest.raises(UnauthenticatedError):
        await oidc_desk.open().provider.verify(issuer.token(kid="mine"))
    await oidc_desk.open().provider.verify(issuer.token())


@pytest.mark.attack
@pytest.mark.filterwarnings("ignore:Key size")  # of the test's own short key
async def test_weak_foreign_and_secret_keys_are_not_used(oidc_desk: OidcDesk) -> None:
    issuer = oidc_desk.issuer
    issuer.add_key("short", rsa.generate_private_key(65537, 1024))
    issuer.add_key("to-encrypt", new_ec(), use="enc")
    issuer.add_key("other-alg", new_ec(), alg="RS256")
    issuer.add_key("no-alg", new_ec())
    issuer.published += [
        {"kty": "oct", "kid": "shared", "k": "AAAA", "alg": "HS256"}, {"kty": "RSA", "kid": "torn"},
        {"kty": "EC", "crv": "P-256", "kid": "bad", "x": "AA", "y": "AA"},
        {"kid": 7}, [], None, "x",
    ]  # fmt: skip
    provider = oidc_desk.open().provider
    try:
        for kid in ("short", "to-encrypt", "other-alg"):
            with pytest.raises(UnauthenticatedError):
                await provider.verify(issuer.token(kid=kid))
        await provider.verify(issuer.token(kid="no-alg"))
        await provider.verify(issuer.token())
    finally:
        issuer.published[:] = [
            key
            for key in issuer.published
            if isinstance(key, dict) and key.get("kid") in issuer.keys
        ]


@pytest.mark.parametrize("change", [
    {"oidc_discovery_url": None, "jwt_issuer": "{url}", "jwks_url": "{url}/jwks",
     "oidc_client_id": None},
    {"jwt_issuer": "{url}"}, {"jwks_url": "{url}/jwks"},
], ids=["no discovery", "named issuer", "named keys"])  # fmt: skip
async def test_issuer_and_keys_may_be_named_instead_of_discovered(
    oidc_desk: OidcDesk, change: dict[str, str | None]
) -> None:
    url = oidc_desk.issuer.url
    named = {name: value and value.format(url=url) for name, value in change.items()}
    await oidc_desk.open(**named).provider.verify(oidc_desk.issuer.token())


async def test_a_document_of_another_issuer_is_not_believed(oidc_desk: OidcDesk) -> None:
    other = oidc_desk.open(jwt_issuer="https://login.example.com/", jwks_url=None)
    assert other.login is not None
    with pytest.raises(StoreUnavailableError, match="another issuer"):
        await other.login.start("/")
    with pytest.raises(StoreUnavailableError):
        await other.provider.verify(oidc_desk.issuer.token())


@pytest.mark.attack
@pytest.mark.parametrize("answer", [
    RedirectResponse("/trap"), JSONResponse({"keys": [{"pad": "x" * MAX_BYTES}]}),
    JSONResponse([]), Response(b"<html>"), Response(b""), Response(b"{}", 500),
    Response(zlib.compress(bytes(50_000_000)), headers={"content-encoding": "deflate"}),
], ids=["redirect", "huge", "a list", "no JSON", "nothing", "failure", "deflate bomb"])  # fmt: skip
async def test_an_answer_that_holds_no_keys_lets_nobody_in(
    oidc_desk: OidcDesk, answer: Response
) -> None:
    issuer, provider = oidc_desk.issuer, oidc_desk.open().provider
    issuer.keys_answer = answer
    with pytest.raises(StoreUnavailableError):
        await provider.verify(issuer.token())
    assert not issuer.asked["trap"]


@pytest.mark.attack
@pytest.mark.parametrize("change", [
    {"jwks_uri": "http://169.254.169.254/latest/meta-data/"}, {"jwks_uri": "file:///etc/passwd"},
    {"jwks_uri": "http://metadata.google.internal/"}, {"jwks_uri": None}, {"jwks_uri": 7},
    {"jwks_uri": "//elsewhere"}, {"issuer": "https://attacker.test"}, {"issuer": None},
    {"token_endpoint": "gopher://127.0.0.1/"}, {"authorization_endpoint": "javascript:alert(1)"},
    {"userinfo_endpoint": "ftp://127.0.0.1/"},
], ids=str)  # fmt: skip
async def test_a_document_that_points_where_it_must_not_is_not_followed(
    oidc_desk: OidcDesk, change: dict[str, Any]
) -> None:
    issuer, provider = oidc_desk.issuer, oidc_desk.open().provider
    issuer.document_change.update(change)
    with pytest.raises(StoreUnavailableError):
        await provider.verify(issuer.token())
