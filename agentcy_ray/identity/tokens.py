"""Access tokens: HS256 JWTs with an explicit algorithm list (RFC 7519, RFC 8725).

A token names its login session (``sid``); the session's revocation is looked up apart, so a token
carries no more than it must and nothing secret.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import OctKey

from agentcy_ray.core.clock import Clock
from agentcy_ray.core.errors import UnauthenticatedError
from agentcy_ray.core.ids import new_id
from agentcy_ray.core.tenancy import Role

ISSUER = AUDIENCE = "agentcy"
ALGORITHMS = ["HS256"]
MAX_LENGTH = 8192
"""A longer token is refused before it is parsed."""
LEEWAY_SECS = 5


@dataclass(frozen=True)
class Claims:
    """What a verified token says."""

    user_id: UUID
    org_id: UUID
    role: Role
    session_id: UUID
    expires_at: float
    """Seconds since the epoch."""


class Tokens:
    """Sign and verify; a previous key still verifies while its tokens live."""

    def __init__(self, secret: str, previous: str | None, lifetime_secs: int, clock: Clock) -> None:
        self._keys = [OctKey.import_key(key) for key in (secret, previous) if key]
        self._lifetime = lifetime_secs
        self._clock = clock

    @property
    def lifetime_secs(self) -> int:
        """How long a new token lives."""
        return self._lifetime

    def sign(self, user_id: UUID, org_id: UUID, role: Role, session_id: UUID) -> str:
        """A signed access token."""
        now = int(self._clock.now().timestamp())
        claims = {
            "sub": user_id.hex,
            "org": org_id.hex,
            "role": role.value,
            "sid": session_id.hex,
            "jti": new_id().hex,
            "iss": ISSUER,
            "aud": AUDIENCE,
            "iat": now,
            "exp": now + self._lifetime,
        }
        return jwt.encode({"alg": "HS256", "typ": "JWT"}, claims, self._keys[0], ALGORITHMS)

    def verify(self, token: str) -> Claims:
        """The claims of a good token.

        Raises:
            UnauthenticatedError: ``token_expired`` or ``token_invalid``; no more is told.
        """
        claims = self._decode(token)
        try:
            expires, issued = claims["exp"], claims["iat"]
            plain = all(type(value) is int for value in (expires, issued))
            if not plain or claims["iss"] != ISSUER or claims["aud"] != AUDIENCE:
                raise ValueError(token)
            read = Claims(
                user_id=UUID(hex=claims["sub"]),
                org_id=UUID(hex=claims["org"]),
                role=Role(claims["role"]),
                session_id=UUID(hex=claims["sid"]),
                expires_at=float(expires),
            )
        except (KeyError, ValueError, TypeError, AttributeError, OverflowError):
            raise _invalid() from None
        now = self._clock.now().timestamp()
        if issued > now + LEEWAY_SECS:
            raise _invalid()
        if read.expires_at + LEEWAY_SECS < now:
            raise UnauthenticatedError(
                "the access token has expired; refresh it or log in again", code="token_expired"
            )
        return read

    def _decode(self, token: str) -> dict[str, Any]:
        if len(token) > MAX_LENGTH:
            raise _invalid()
        for key in self._keys:
            try:
                decoded = jwt.decode(token, key, algorithms=ALGORITHMS)
            except (JoseError, ValueError, TypeError):
                continue
            header = decoded.header
            # An embedded or linked key is never looked at, so a token that brings one is refused.
            if header.get("alg") != "HS256" or {"jwk", "jku", "x5u", "x5c", "crit"} & set(header):
                break
            return dict(decoded.claims)
        raise _invalid()


def _invalid() -> UnauthenticatedError:
    return UnauthenticatedError("the access token is not valid; log in", code="token_invalid")


def expiry(now: datetime, secs: int) -> datetime:
    """``now`` plus ``secs``."""
    return datetime.fromtimestamp(now.timestamp() + secs, tz=now.tzinfo)
