"""Tokens that must not get in, against both providers: each row is a token and why it is tried."""

from __future__ import annotations

import json
import secrets
import time
import zlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from joserfc.jwk import OctKey, RSAKey

from agentcy_ray.core.errors import RefusedError, UnauthenticatedError
from agentcy_ray.core.ids import new_id
from agentcy_ray.identity.provider import Providers
from agentcy_ray.identity.token_form import MAX_LENGTH
from agentcy_ray.stores.migrate import migrate
from agentcy_ray.stores.redis import open_redis
from tests.conftest import MakeDatabase
from tests.identity.conftest import PASSWORD, Desk, OidcDesk, open_desk
from tests.identity.forge import Forge, local_forge, oidc_forge
from tests.identity.issuer import open_issuer, part_of, raw_of, text_of

pytestmark = [pytest.mark.attack, pytest.mark.requirement("AUTH-05")]

Row = Callable[[Forge], str]
NOW = int(time.time())
DAY = 86_400


@pytest.fixture(scope="session")
async def forges(
    make_database: MakeDatabase, password_hash: str, redis_url: str
) -> AsyncIterator[dict[str, Forge]]:
    """Somebody's good token of each provider, once for all rows: none of them changes anything."""
    url = await make_database()
    await migrate(url)
    redis = await open_redis(redis_url, f"forges-{secrets.token_hex(4)}")
    async with open_desk(url, password_hash) as desk, open_issuer() as issuer:
        oidc = OidcDesk(desk, issuer, redis, [])
        made = {
            "local": await local_forge(desk, issuer, "ada@acme.test", PASSWORD),
            "oidc": await oidc_forge(oidc),
        }
        for forge in made.values():
            await forge.provider.verify(forge.token())
        yield made
        await oidc.opened[0].aclose()
    await redis.aclose()


@pytest.fixture(params=["local", "oidc"])
def forge(request: pytest.FixtureRequest, forges: dict[str, Forge]) -> Forge:
    """Each provider in turn."""
    return forges[request.param]


async def refused(forge: Forge, token: str) -> str:
    """The code of the refusal, which is the same by the router of providers as by the provider."""
    with pytest.raises(UnauthenticatedError) as by_provider:
        await forge.provider.verify(token)
    with pytest.raises(RefusedError) as by_router:
        await Providers([forge.provider]).verify(token)
    assert by_provider.value.status == by_router.value.status == 401
    assert token not in by_provider.value.message or not token
    return by_provider.value.code


# -- the algorithm ----------------------------------------------------------------------------


def unsigned(alg: Any, signature: bool = False) -> Row:
    def make(forge: Forge) -> str:
        _, claims, good = forge.parts()
        return f"{part_of(forge.header | {'alg': alg})}.{claims}.{good if signature else ''}"

    return make


def named(alg: Any) -> Row:
    return lambda forge: forge.token(header={"alg": alg})


def confused(spelling: str) -> Row:
    """HS256 keyed by what everybody may know of the issuer's key."""

    def make(forge: Forge) -> str:
        key = RSAKey.import_key(forge.public_pem)
        known = {
            "pem": forge.public_pem,
            "stripped pem": forge.public_pem.strip(),
            "der": key.as_der(private=False),
            "modulus": raw_of(str(key.as_dict()["n"])),
            "jwk": json.dumps(key.as_dict(private=False)).encode(),
            "nothing": b"",
            "kid": b"r1",
        }[spelling]
        return forge.token(header={"alg": "HS256"}, by=known)

    return make


ALGORITHM: dict[str, Row] = {
    **{f"alg {alg} without signature": unsigned(alg)
       for alg in ("none", "None", "NONE", "nOnE", " none", "none\x00", "")},
    **{f"alg {alg} with a signature": unsigned(alg, signature=True) for alg in ("none", "None")},
    **{f"alg {alg!r}": named(alg)
       for alg in (..., None, "", 7, True, ["RS256"], {"RS256": 1}, "HS384", "HS512", "RS384",
                   "RS512", "PS256", "ES384", "ES512", "ES256K", "EdDSA", "Ed25519", "rs256",
                   "hs256", "RS256 ", "dir", "RSA-OAEP", "A256GCMKW")},
    **{f"HS256 keyed by the {spelling}": confused(spelling)
       for spelling in ("pem", "stripped pem", "der", "modulus", "jwk", "nothing", "kid")},
    "ES256 by an RSA key's name": lambda forge: forge.token(header={"alg": "ES256", "kid": "r1"}),
    "RS256 by an EC key's name": lambda forge: forge.token(header={"alg": "RS256", "kid": "e1"}),
    "RS256 by the attacker's key": lambda forge: forge.token(header={"alg": "RS256"}, by=forge.own),
    "ES256 signed with zeros": lambda forge: (
        f"{part_of(forge.header | {'alg': 'ES256', 'kid': 'e1'})}.{forge.parts()[1]}."
        f"{text_of(bytes(64))}"
    ),
}  # fmt: skip


# -- headers ----------------------------------------------------------------------------------


def brought(**header: Any) -> Row:
    """A header beside a good signature."""
    return lambda forge: forge.token(header=header)


def own_key(place: str) -> Row:
    """Signed by the attacker, who says where the key is."""

    def make(forge: Forge) -> str:
        jwk = RSAKey.import_key(forge.own).as_dict(private=False) | {"kid": "mine"}
        more = {
            "jwk": {"jwk": jwk},
            "jwk of that kid": {"jwk": jwk | {"kid": "r1"}, "kid": "r1"},
            "jku": {"jku": f"{forge.issuer.url}/trap", "kid": "mine"},
            "x5u": {"x5u": f"{forge.issuer.url}/trap", "kid": "mine"},
            "x5c": {"x5c": [text_of(b"certificate")], "kid": "mine"},
            "kid as URL": {"kid": f"{forge.issuer.url}/trap"},
        }[place]
        return forge.token(header={"alg": "RS256", **more}, by=forge.own)

    return make


def secret_jwk(forge: Forge) -> str:
    key = OctKey.generate_key(256)
    return forge.token(header={"alg": "HS256", "jwk": key.as_dict()}, by=key.raw_value)


KIDS = (
    ..., None, "", 7, ["r1"], {"r1": 1}, "unknown", "R1", "r1 ", "r1\x00", "../../../../dev/null",
    "/etc/passwd", "/proc/self/environ", "' OR 1=1 --", "r1' UNION SELECT 'x", "r1|whoami", "*",
    "http://127.0.0.1/key", "k" * 400,
)  # fmt: skip
HEADER: dict[str, Row] = {
    **{f"own key by {place}": own_key(place)
       for place in ("jwk", "jwk of that kid", "jku", "x5u", "x5c", "kid as URL")},
    "secret key by jwk": secret_jwk,
    **{f"good signature, header {header}": brought(**header) for header in (
        {"jwk": {"kty": "oct", "k": "AAAA"}}, {"jku": "http://127.0.0.1/jwks"},
        {"x5u": "http://127.0.0.1/x"}, {"x5c": ["AAAA"]}, {"crit": ["exp"]}, {"crit": []},
        {"crit": ["urn:x"], "urn:x": 1}, {"crit": "exp"}, {"b64": False, "crit": ["b64"]},
        {"b64": False}, {"b64": True}, {"zip": "DEF"}, {"enc": "A256GCM"}, {"epk": {}},
        {"typ": "JOSE"}, {"typ": "logout+jwt"}, {"typ": "secevent+jwt"}, {"typ": 7},
        {"typ": ["JWT"]}, {"typ": "dpop+jwt"},
    )},
}  # fmt: skip


# -- the form ---------------------------------------------------------------------------------


def reshaped(change: Callable[[list[str]], str]) -> Row:
    return lambda forge: change(forge.parts())


def bomb(forge: Forge) -> str:
    """A payload that is small when packed; nothing here unpacks it."""
    packed = zlib.compress(json.dumps(forge.claims | {"pad": "0" * 10_000_000}).encode())
    return forge.token(packed[: MAX_LENGTH // 2], {"zip": "DEF"})


def flipped(forge: Forge) -> str:
    head, claims, signature = forge.parts()
    raw = bytearray(raw_of(signature))
    raw[0] ^= 1
    return f"{head}.{claims}.{text_of(bytes(raw))}"


def respelled(forge: Forge) -> str:
    """The same signature with another last letter, whose unused bits are not zero."""
    head, claims, signature = forge.parts()
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return f"{head}.{claims}.{signature[:-1]}{letters[letters.index(signature[-1]) + 1]}"


FORM: dict[str, Row] = {
    "four segments": reshaped(lambda p: ".".join([*p, "x"])),
    "five segments, as if encrypted": reshaped(lambda p: ".".join([*p, *p[:2]])),
    "two segments": reshaped(lambda p: ".".join(p[:2])),
    "one segment": reshaped(lambda p: p[0]),
    "nothing": lambda forge: "",
    "dots": lambda forge: "..",
    "an empty payload": reshaped(lambda p: f"{p[0]}..{p[2]}"),
    "an empty signature": reshaped(lambda p: f"{p[0]}.{p[1]}."),
    "swapped segments": reshaped(lambda p: f"{p[1]}.{p[0]}.{p[2]}"),
    "a shorter signature": reshaped(lambda p: f"{p[0]}.{p[1]}.{p[2][:-1]}"),
    "half a signature": reshaped(lambda p: f"{p[0]}.{p[1]}.{p[2][:20]}"),
    "a longer signature": reshaped(lambda p: f"{p[0]}.{p[1]}.{p[2]}AAAA"),
    "a flipped bit": flipped,
    "unused bits": respelled,
    "padding": reshaped(lambda p: f"{p[0]}.{p[1]}.{p[2]}=="),
    "a space before": reshaped(lambda p: " " + ".".join(p)),
    "a line feed after": reshaped(lambda p: ".".join(p) + "\n"),
    "a line feed within": reshaped(lambda p: f"{p[0]}.\n{p[1]}.{p[2]}"),
    "standard base64": reshaped(lambda p: f"{p[0]}.{p[1]}.+/{p[2][2:]}"),
    "a NUL": reshaped(lambda p: f"{p[0]}.{p[1]}\x00.{p[2]}"),
    "no ASCII": lambda forge: "é" * 30,
    "too long": lambda forge: forge.token(pad="x" * MAX_LENGTH),
    "a megabyte": lambda forge: "x" * 1_000_000,
    "a deflate bomb": bomb,
    "a deep header": lambda forge: forge.token(header="[" * 5000),
    "a deep payload": lambda forge: forge.token("[" * 5000),
    "a deep claim": lambda forge: forge.token('{"a":' * 2000 + "1" + "}" * 2000),
    "claims that are a list": lambda forge: forge.token([1]),
    "claims that are a text": lambda forge: forge.token('"admin"'),
    "claims that are no JSON": lambda forge: forge.token("{"),
    "claims that are no UTF-8": lambda forge: forge.token(b'{"sub":"\xff"}'),
    "an issuer said twice": lambda forge: forge.token(
        json.dumps(forge.claims)[:-1] + f', "iss": {json.dumps(forge.claims["iss"])}}}'
    ),
    "an algorithm said twice": lambda forge: (
        forge.token(header=json.dumps(forge.header)[:-1] + ', "alg": "none"}')
    ),
    "the claims of another token": lambda forge: ".".join([
        forge.parts()[0], part_of(forge.claims | {"exp": NOW + 900}), forge.parts()[2],
    ]),
}  # fmt: skip


# -- the claims -------------------------------------------------------------------------------


def claim(**change: Any) -> Row:
    return lambda forge: forge.token(**change)


def literal(name: str, text: str) -> Row:
    """A claim as JSON text, which our own writer would not write."""
    return lambda forge: forge.token(
        json.dumps({k: v for k, v in forge.claims.items() if k != name})[:-1]
        + f', "{name}": {text}}}'
    )


NO_TIMES = ('"9999999999"', '"0"', "true", "null", "[1]", "{}", "NaN", "Infinity", "-Infinity",
            "1e400", "-1e400", "1" + "0" * 400, '""')  # fmt: skip
CLAIMS: dict[str, Row] = {
    **{f"{name} {text[:12]}": literal(name, text)
       for name in ("exp", "iat", "nbf") for text in NO_TIMES},
    "no exp": claim(exp=...),
    "no iat": claim(iat=...),
    "exp in a year": claim(exp=NOW + 366 * DAY),
    "exp in a million years": claim(exp=NOW + 10**6 * 366 * DAY),
    "iat tomorrow": claim(iat=NOW + DAY),
    "nbf tomorrow": claim(nbf=NOW + DAY),
    **{f"iss {iss!r}": claim(iss=iss)
       for iss in (..., None, "", "somebody", ["agentcy"], 7, "agentcy/", "AGENTCY",
                   "https://accounts.google.com")},
    "iss with a slash": lambda forge: forge.token(iss=f"{forge.claims['iss']}/"),
    "iss in a list": lambda forge: forge.token(iss=[forge.claims["iss"]]),
    "iss of the other provider": lambda forge: forge.token(
        iss=forge.issuer.url if forge.name == "local" else "agentcy"
    ),
    **{f"aud {aud!r}": claim(aud=aud)
       for aud in (..., None, "", "other", [], ["other"], ["agentcy-ap"], {"agentcy-api": 1}, 7,
                   [["agentcy-api"]], ["agentcy-api", 7])},
    **{f"sub {sub!r}": claim(sub=sub) for sub in (..., None, "", 7, ["x"], "s" * 300)},
}  # fmt: skip


@pytest.mark.parametrize("row", ALGORITHM.values(), ids=ALGORITHM)
async def test_a_token_by_another_algorithm_is_refused(forge: Forge, row: Row) -> None:
    assert await refused(forge, row(forge)) == "token_invalid"


@pytest.mark.parametrize("row", HEADER.values(), ids=HEADER)
async def test_a_token_with_a_foreign_header_is_refused(forge: Forge, row: Row) -> None:
    assert await refused(forge, row(forge)) == "token_invalid"
    assert not forge.issuer.asked["trap"], "a token's own address was asked for keys"


@pytest.mark.parametrize("row", FORM.values(), ids=FORM)
async def test_a_malformed_token_is_refused(forge: Forge, row: Row) -> None:
    assert await refused(forge, row(forge)) == "token_invalid"


@pytest.mark.parametrize("row", CLAIMS.values(), ids=CLAIMS)
async def test_a_well_signed_token_with_wrong_claims_is_refused(forge: Forge, row: Row) -> None:
    assert await refused(forge, row(forge)) == "token_invalid"


@pytest.mark.parametrize("kid", KIDS, ids=[str(kid)[:30] for kid in KIDS])
@pytest.mark.requirement("AUTH-06")
async def test_a_key_is_found_by_its_exact_name_only(forges: dict[str, Forge], kid: Any) -> None:
    forge = forges["oidc"]
    assert await refused(forge, forge.token(header={"kid": kid})) == "token_invalid"
    by_nothing = forge.token(header={"kid": kid, "alg": "HS256"}, by=b"")
    assert await refused(forge, by_nothing) == "token_invalid"


async def test_an_expired_token_is_refused_as_expired(forge: Forge) -> None:
    assert await refused(forge, forge.token(exp=NOW - 60, iat=NOW - DAY)) == "token_expired"


# -- tokens that are good for something else --------------------------------------------------


@pytest.mark.parametrize("change", [
    {"nonce": "n"}, {"at_hash": "h"}, {"c_hash": "h"}, {"s_hash": "h"}, {"typ": "ID"},
    {"typ": "Refresh"}, {"events": {}}, {"nonce": "n", "aud": ["agentcy-api", "agentcy-web"]},
    {"aud": "agentcy-web"}, {"aud": "agentcy-web", "nonce": "n", "at_hash": "h", "scope": ...},
], ids=str)  # fmt: skip
async def test_what_the_issuer_signed_for_another_use_is_no_access_token(
    forges: dict[str, Forge], change: dict[str, Any]
) -> None:
    forge = forges["oidc"]
    token = forge.token(header={"typ": "JWT"}, **change)
    assert await refused(forge, token) == "token_invalid"


async def test_where_client_and_audience_share_a_name_a_token_must_show_its_use(
    oidc_desk: OidcDesk,
) -> None:
    provider = oidc_desk.open(jwt_audience="agentcy-web").provider
    claims = oidc_desk.issuer.claims(aud="agentcy-web")
    for header, change, good in (
        ({"typ": "JWT"}, {"scope": ...}, False), ({"typ": "at+jwt"}, {"scope": ...}, True),
        ({"typ": "JWT"}, {"scope": "api"}, True),
        ({"typ": "JWT"}, {"scp": "x", "scope": ...}, True),
    ):  # fmt: skip
        token = oidc_desk.issuer.token(claims | change, header)
        if good:
            await provider.verify(token)
        else:
            with pytest.raises(UnauthenticatedError):
                await provider.verify(token)


async def test_without_an_audience_of_ours_no_access_token_is_meant_for_us(
    oidc_desk: OidcDesk,
) -> None:
    provider = oidc_desk.open(jwt_audience=None).provider
    for aud in ("agentcy-web", "agentcy-api", ..., None):
        with pytest.raises(UnauthenticatedError):
            await provider.verify(oidc_desk.issuer.token(oidc_desk.issuer.claims(aud=aud)))


async def test_a_signed_token_for_another_tenant_finds_nobody_there(
    desk: Desk, oidc_desk: OidcDesk
) -> None:
    forge = await local_forge(desk, oidc_desk.issuer, "ada@acme.test", PASSWORD)
    other = (await desk.identity.login("bob@acme.test", PASSWORD, "beta")).org_id
    for change in (
        {"org": other.hex}, {"org": new_id().hex}, {"sub": new_id().hex}, {"sid": new_id().hex},
        {"org": "not-an-id"}, {"sid": ...}, {"role": "god"}, {"role": None},
    ):  # fmt: skip
        assert await refused(forge, forge.token(**change)) == "token_invalid"
    # A role in the token gives nothing: what the database says counts.
    found = await forge.provider.verify(forge.token(role="owner"))
    assert found.principal.role == "member"


async def test_a_token_of_a_revoked_session_is_refused(desk: Desk, oidc_desk: OidcDesk) -> None:
    forge = await local_forge(desk, oidc_desk.issuer, "ada@acme.test", PASSWORD)
    await desk.identity.logout(desk.tokens.verify(forge.token()))
    assert await refused(forge, forge.token()) == "token_invalid"
