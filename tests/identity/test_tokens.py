"""Access tokens of ours: what they say, and for how long. What is refused: ``test_jwt_attacks``."""

from __future__ import annotations

from datetime import timedelta

import pytest

from agentcy_ray.core.errors import UnauthenticatedError
from agentcy_ray.core.ids import new_id
from agentcy_ray.core.tenancy import Role
from agentcy_ray.identity.tokens import Tokens
from tests.identity.conftest import SECRET, MovingClock


@pytest.fixture
def clock() -> MovingClock:
    return MovingClock()


def good(tokens: Tokens) -> str:
    return tokens.sign(new_id(), new_id(), Role.ADMIN, new_id())


def refused(tokens: Tokens, token: str) -> str:
    with pytest.raises(UnauthenticatedError) as error:
        tokens.verify(token)
    return error.value.code


def test_a_token_says_what_was_signed(clock: MovingClock) -> None:
    tokens = Tokens(SECRET, None, 3600, clock)
    user, org, session = new_id(), new_id(), new_id()
    claims = tokens.verify(tokens.sign(user, org, Role.VIEWER, session))
    assert (claims.user_id, claims.org_id, claims.session_id) == (user, org, session)
    assert claims.role is Role.VIEWER


@pytest.mark.requirement("AUTH-05")
def test_a_token_ends_with_its_lifetime(clock: MovingClock) -> None:
    tokens = Tokens(SECRET, None, 3600, clock)
    token = good(tokens)
    clock.ahead = timedelta(seconds=3590)
    tokens.verify(token)
    clock.ahead = timedelta(seconds=3700)
    assert refused(tokens, token) == "token_expired"


def test_a_lifetime_may_be_longer_than_issuers_are_allowed(clock: MovingClock) -> None:
    tokens = Tokens(SECRET, None, 90 * 86_400, clock)
    tokens.verify(good(tokens))


def test_a_previous_key_still_verifies_and_no_longer_signs(clock: MovingClock) -> None:
    old = Tokens("o" * 32, None, 3600, clock)
    turned = Tokens(SECRET, "o" * 32, 3600, clock)
    turned.verify(good(old))
    assert refused(old, good(turned)) == "token_invalid"
