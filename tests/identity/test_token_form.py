"""Whatever is sent as a token, reading it ends in a refusal and in nothing else."""

from __future__ import annotations

import contextlib
import hmac
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from joserfc.jwk import OctKey

from agentcy_ray.core.errors import UnauthenticatedError
from agentcy_ray.core.ids import new_id
from agentcy_ray.core.tenancy import Role
from agentcy_ray.identity.token_form import (
    MAX_LENGTH,
    check_times,
    claimed_issuer,
    header_of,
    names_audience,
    verified_claims,
)
from agentcy_ray.identity.tokens import Tokens
from tests.identity.conftest import SECRET, MovingClock
from tests.identity.issuer import part_of, text_of

pytestmark = [pytest.mark.attack, pytest.mark.requirement("AUTH-05")]

TOKENS = Tokens(SECRET, None, 3600, MovingClock())
GOOD = TOKENS.sign(new_id(), new_id(), Role.ADMIN, new_id())
KEY = OctKey.import_key(SECRET)

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
values = st.recursive(
    scalars, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=8), v, max_size=3)
)
headers = st.dictionaries(
    st.sampled_from(["alg", "typ", "kid", "jwk", "crit", "zip"]) | st.text(max_size=6),
    st.sampled_from(["HS256", "RS256", "none", "JWT"]) | values, max_size=4,
)  # fmt: skip
claims = st.dictionaries(
    st.sampled_from(["iss", "aud", "sub", "org", "sid", "role", "exp", "iat", "nbf"]),
    st.sampled_from(["agentcy", "admin", 1, 4_000_000_000]) | values, max_size=9,
)  # fmt: skip


def read(token: str) -> None:
    """All that is read of a token by either provider, with its only exception."""
    for read_one in (
        lambda: claimed_issuer(token),
        lambda: header_of(token, ["HS256", "RS256"], {"jwt", ""}),
        lambda: verified_claims(token, [KEY], "HS256"),
        lambda: TOKENS.verify(token),
    ):
        with contextlib.suppress(UnauthenticatedError):
            read_one()


many = settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.too_slow])


@many
@given(st.text(max_size=200) | st.text("AZaz09-_.=", max_size=200))
def test_of_any_text(text: str) -> None:
    read(text)


@many
@given(headers, claims)
def test_of_any_signed_header_and_claims(
    header: dict[str, object], said: dict[str, object]
) -> None:
    for head in (header, header | {"alg": "HS256"}):
        text = f"{part_of(head)}.{part_of(said)}"
        read(f"{text}.{text_of(hmac.digest(SECRET.encode(), text.encode(), 'sha256'))}")


@many
@given(st.integers(0, len(GOOD) - 1), st.characters())
def test_of_a_good_token_with_one_letter_changed(place: int, letter: str) -> None:
    changed = GOOD[:place] + letter + GOOD[place + 1 :]
    read(changed)
    if changed != GOOD:
        with pytest.raises(UnauthenticatedError):
            TOKENS.verify(changed)


@many
@given(values, values, values)
def test_of_any_times_and_audience(exp: object, iat: object, aud: object) -> None:
    said = {"exp": exp, "iat": iat, "nbf": iat, "aud": aud}
    try:
        expires = check_times(said, 1_000.0, 100.0)
    except UnauthenticatedError:
        pass
    else:
        assert 995 <= expires <= 1_105
    assert names_audience(said, "ours") is (aud == "ours" or _is_list_with_ours(aud))


def test_of_the_longest_that_is_read() -> None:
    for text in ("[" * 12_000, '{"a":' * 2_000, json.dumps({"a": "x" * 11_000}), "9" * 12_000):
        token = f"{part_of(text)}.{part_of(text)}.AAAA"
        read(token[:MAX_LENGTH])
        read(token)


def _is_list_with_ours(aud: object) -> bool:
    return isinstance(aud, list) and "ours" in aud and all(isinstance(n, str) for n in aud)
