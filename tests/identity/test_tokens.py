"""Access tokens: what is refused."""

from __future__ import annotations

import base64
import json
from datetime import timedelta
from hmac import digest
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, OctKey, RSAKey

from agentcy_ray.core.errors import UnauthenticatedError
from agentcy_ray.core.ids import new_id
from agentcy_ray.core.tenancy import Role
from agentcy_ray.identity.tokens import MAX_LENGTH, Tokens
from tests.identity.conftest import SECRET, MovingClock

KEY = OctKey.import_key(SECRET)
RSA = RSAKey.generate_key(2048)


@pytest.fixture
def clock() -> MovingClock:
    return MovingClock()


@pytest.fixture
def tokens(clock: MovingClock) -> Tokens:
    return Tokens(SECRET, None, 3600, clock)


def good(tokens: Tokens) -> str:
    return tokens.sign(new_id(), new_id(), Role.ADMIN, new_id())


def claims_of(token: str) -> dict[str, Any]:
    return json.loads(_raw(token.split(".")[1]))


def signed(tokens: Tokens, change: dict[str, Any], header: dict[str, Any] | None = None) -> str:
    """A good token with other claims or headers, signed with the right key."""
    claims = {k: v for k, v in (claims_of(good(tokens)) | change).items() if v is not ...}
    return _sign({"alg": "HS256", "typ": "JWT"} | (header or {}), claims)


def _sign(header: dict[str, Any], claims: Any, key: bytes = SECRET.encode()) -> str:
    """By hand, since a library would refuse to make most of these."""
    text = f"{_part(header)}.{_part(claims)}"
    return f"{text}.{_text(digest(key, text.encode(), 'sha256'))}"


def _part(value: Any) -> str:
    return _text(json.dumps(value).encode())


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _raw(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def refused(tokens: Tokens, token: str) -> str:
    with pytest.raises(UnauthenticatedError) as error:
        tokens.verify(token)
    assert error.value.status == 401
    return error.value.code


def test_a_token_says_what_was_signed(tokens: Tokens) -> None:
    user, org, session = new_id(), new_id(), new_id()
    claims = tokens.verify(tokens.sign(user, org, Role.VIEWER, session))
    assert (claims.user_id, claims.org_id, claims.session_id) == (user, org, session)
    assert claims.role is Role.VIEWER


def test_a_token_made_by_hand_with_the_right_key_is_good(tokens: Tokens) -> None:
    tokens.verify(signed(tokens, {}))


@pytest.mark.requirement("AUTH-05")
@pytest.mark.parametrize(
    "change",
    [
        {"iss": "somebody"}, {"iss": ...}, {"iss": ["agentcy"]},
        {"aud": "other"}, {"aud": ...}, {"aud": ["agentcy"]}, {"aud": None},
        {"exp": ...}, {"exp": "9999999999"}, {"exp": 1.0e10}, {"exp": float("nan")},
        {"exp": float("inf")}, {"exp": True}, {"exp": None}, {"exp": 10**400},
        {"iat": ...}, {"iat": "0"}, {"iat": 9_999_999_999},
        {"sub": "not-an-id"}, {"sub": 7}, {"org": None}, {"sid": ...}, {"role": "god"},
    ],
    ids=lambda change: str(change)[:40],
)  # fmt: skip
def test_a_well_signed_token_with_wrong_claims_is_refused(
    tokens: Tokens, change: dict[str, Any]
) -> None:
    assert refused(tokens, signed(tokens, change)) == "token_invalid"


@pytest.mark.requirement("AUTH-05")
def test_an_expired_token_is_refused_as_expired(tokens: Tokens, clock: MovingClock) -> None:
    token = good(tokens)
    clock.ahead = timedelta(seconds=3700)
    assert refused(tokens, token) == "token_expired"


@pytest.mark.requirement("AUTH-05")
@pytest.mark.parametrize(
    "header",
    [
        {"alg": "none"}, {"alg": "None"}, {"alg": "HS512"}, {"alg": "RS256"}, {"alg": ""},
        {"alg": None}, {"crit": ["exp"]}, {"crit": ["urn:x"], "urn:x": 1}, {"crit": []},
        {"jwk": {"kty": "oct", "k": "AAAA"}}, {"jku": "http://127.0.0.1/jwks"},
        {"x5u": "http://127.0.0.1/x"}, {"x5c": ["AAAA"]}, {"b64": False, "crit": ["b64"]},
    ],
    ids=str,
)  # fmt: skip
def test_a_token_with_a_foreign_header_is_refused(tokens: Tokens, header: dict[str, Any]) -> None:
    assert refused(tokens, signed(tokens, {}, header)) == "token_invalid"


@pytest.mark.requirement("AUTH-05")
def test_a_token_without_signature_or_by_another_key_is_refused(tokens: Tokens) -> None:
    head, body, signature = good(tokens).split(".")
    none = _part({"alg": "none", "typ": "JWT"})
    claims = claims_of(f"{head}.{body}.{signature}")
    other = OctKey.import_key("f" * 32)
    public = RSA.as_pem(private=False)
    for token in (
        f"{none}.{body}.", f"{none}.{body}.{signature}", f"{head}.{body}.", f"{head}.{body}",
        f"{head}.{body}.{signature[:-2]}", f"{head}.{body}.{signature}A",
        f"{head}.{body}.{signature}.x", f"{body}.{head}.{signature}", "", ".", "..", "a.b.c",
        jwt.encode({"alg": "HS256"}, claims, other, ["HS256"]),
        _sign({"alg": "HS256"}, claims, public),
        jwt.encode({"alg": "RS256"}, claims, RSA, ["RS256"]),
        jwt.encode({"alg": "ES256"}, claims, ECKey.generate_key("P-256"), ["ES256"]),
        jwt.encode({"alg": "HS512"}, claims, KEY, ["HS512"]),
        "é" * 30, "\x00" * 30, f"{head}.{_part([1, 2])}.{signature}",
    ):  # fmt: skip
        assert refused(tokens, token) == "token_invalid"
    assert refused(tokens, _sign({"alg": "HS256"}, [1])) == "token_invalid"
    assert refused(tokens, signed(tokens, {"pad": "x" * MAX_LENGTH})) == "token_invalid"


def test_a_previous_key_still_verifies_and_no_longer_signs(clock: MovingClock) -> None:
    old = Tokens("o" * 32, None, 3600, clock)
    turned = Tokens(SECRET, "o" * 32, 3600, clock)
    turned.verify(good(old))
    refused(old, good(turned))
