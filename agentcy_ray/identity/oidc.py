"""The OIDC provider: access tokens of the configured issuer, by its published keys alone."""

from __future__ import annotations

from typing import Any

from agentcy_ray.core.clock import Clock
from agentcy_ray.core.errors import RefusedError
from agentcy_ray.core.settings import Settings
from agentcy_ray.identity.oidc_claims import Person, person_of, refuse_other_kinds
from agentcy_ray.identity.oidc_issuer import Issuer
from agentcy_ray.identity.oidc_users import OidcUsers
from agentcy_ray.identity.provider import Identified, ProviderName
from agentcy_ray.identity.token_form import (
    check_times,
    header_of,
    names_audience,
    token_invalid,
    verified_claims,
)

ALGORITHMS = ("RS256", "ES256")
TYPES = frozenset({"at+jwt", "application/at+jwt", "jwt", ""})
"""Accepted ``typ`` headers: RFC 9068's own, and what issuers sent before it."""


class OidcProvider:
    """Verifies bearer tokens that the issuer gave to other clients for us."""

    def __init__(self, settings: Settings, issuer: Issuer, users: OidcUsers, clock: Clock) -> None:
        self._settings = settings
        self._issuer = issuer
        self._users = users
        self._clock = clock

    @property
    def name(self) -> ProviderName:
        """What ``AUTH_PROVIDER`` calls it."""
        return "oidc"

    async def issuer(self) -> str:
        """The ``iss`` of its tokens.

        Raises:
            StoreUnavailableError: it is to be discovered, and does not answer.
        """
        return await self._issuer.name()

    async def verify(self, token: str) -> Identified:
        """Whom an access token stands for; a first one makes the user.

        Raises:
            UnauthenticatedError: ``token_expired``, or ``token_invalid``: also when no
                ``JWT_AUDIENCE`` is set, for then no access token is meant for us.
            RefusedError: the token is good, and its holder may not come in.
            StoreUnavailableError: no fresh keys can be had.
        """
        person, expires = await self._person(token)
        try:
            admitted = await self._users.admit(person)
        except RefusedError as error:
            if error.code == "account_disabled":  # said to a login; a request's token has ended
                raise token_invalid() from error
            raise
        return Identified(admitted.principal(), None, expires)

    async def _person(self, token: str) -> tuple[Person, float]:
        audience = self._settings.jwt_audience
        header = header_of(token, ALGORITHMS, TYPES)
        if audience is None:
            raise token_invalid()
        claims = await signed_claims(self._issuer, token, header)
        issuer = await self._issuer.name()
        if claims.get("iss") != issuer or not names_audience(claims, audience):
            raise token_invalid()
        expires = check_times(claims, self._clock.now().timestamp())
        refuse_other_kinds(header, claims, self._settings)
        return person_of(claims, issuer, self._settings), expires


async def signed_claims(issuer: Issuer, token: str, header: dict[str, Any]) -> dict[str, Any]:
    """The claims of a token that the issuer's key of that name has signed.

    Raises:
        UnauthenticatedError: ``token_invalid``: no such key, or another signature.
        StoreUnavailableError: no fresh keys can be had.
    """
    kid, algorithm = header.get("kid"), str(header["alg"])
    if not isinstance(kid, str):
        raise token_invalid()
    key = await (await issuer.keys()).key(kid, algorithm)
    if key is None:
        raise token_invalid()
    return verified_claims(token, [key], algorithm)
