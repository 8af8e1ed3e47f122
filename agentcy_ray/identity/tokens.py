"""Access tokens: HS256 JWTs with an explicit algorithm list (RFC 7519, RFC 8725).

A token names its login session (``sid``); the session's revocation is looked up apart, so a token
carries no more than it must and nothing secret.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from joserfc import jwt
from joserfc.jwk import OctKey

from agentcy_ray.core.clock import Clock
from agentcy_ray.core.ids import new_id
from agentcy_ray.core.tenancy import Role
from agentcy_ray.identity.token_form import (
    MAX_LIFETIME_SECS,
    check_times,
    header_of,
    token_invalid,
    verified_claims,
)

ISSUER = AUDIENCE = "agentcy"
ALGORITHMS = ["HS256"]
_TYPES = frozenset({"jwt"})


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
        header_of(token, ALGORITHMS, _TYPES)
        claims = verified_claims(token, self._keys, ALGORITHMS[0])
        if claims.get("iss") != ISSUER or claims.get("aud") != AUDIENCE:
            raise token_invalid()
        now = self._clock.now().timestamp()
        expires = check_times(claims, now, max(self._lifetime, MAX_LIFETIME_SECS))
        try:
            return Claims(
                user_id=UUID(hex=claims["sub"]),
                org_id=UUID(hex=claims["org"]),
                role=Role(claims["role"]),
                session_id=UUID(hex=claims["sid"]),
                expires_at=expires,
            )
        except (KeyError, ValueError, TypeError, AttributeError):
            raise token_invalid() from None


def expiry(now: datetime, secs: int) -> datetime:
    """``now`` plus ``secs``."""
    return datetime.fromtimestamp(now.timestamp() + secs, tz=now.tzinfo)
