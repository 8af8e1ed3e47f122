"""From an ``Authorization`` header to a principal, without a database round trip per request.

A verified token is remembered by its hash for a few seconds: signature and claims cannot change,
and a revoked session or a changed role is seen when the memory lapses (5 s at most).
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass
from hashlib import sha256

from agentcy_ray.core.clock import Clock
from agentcy_ray.core.errors import UnauthenticatedError
from agentcy_ray.core.tenancy import Principal
from agentcy_ray.identity.local import LocalIdentity
from agentcy_ray.identity.tokens import Claims, Tokens

STALE_SECS = 4.0
"""Age of a remembered principal; with the time of a look-up it stays under the promised 5 s."""
REMEMBERED = 10_000


@dataclass(frozen=True)
class Caller:
    """Who sent the request, and by what.

    ``claims`` are those of a login's token; an API key has none. ``expires_at``: seconds since the
    epoch, after which the credential is refused.
    """

    principal: Principal
    claims: Claims | None
    expires_at: float = math.inf


class Authenticator:
    """Verifies bearer tokens."""

    def __init__(self, tokens: Tokens, identity: LocalIdentity, clock: Clock) -> None:
        self._tokens = tokens
        self._identity = identity
        self._clock = clock
        self._seen: OrderedDict[bytes, tuple[float, Caller]] = OrderedDict()

    async def bearer(self, header: bytes) -> Caller:
        """The caller behind an ``Authorization`` header.

        Raises:
            UnauthenticatedError: another scheme, or a token that is bad, expired or revoked.
        """
        scheme, _, token = header.decode("latin-1").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise UnauthenticatedError("send `Authorization: Bearer TOKEN`", code="token_invalid")
        key, now = sha256(token.encode()).digest(), self._clock.now().timestamp()
        found = self._seen.get(key)
        if found is not None and now < found[0] and now < found[1].expires_at:
            return found[1]
        claims = self._tokens.verify(token)
        caller = Caller(await self._identity.principal(claims), claims, claims.expires_at)
        self._seen[key] = (now + STALE_SECS, caller)
        if len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)
        return caller

    def forget(self, session_id: object) -> None:
        """Drop what is remembered of a session that has just ended here."""
        for key, (_, caller) in list(self._seen.items()):
            if caller.principal.session_id == session_id:
                del self._seen[key]
