"""From a credential to a principal, without a database round trip per request.

A verified credential is remembered by its hash for a few seconds: signature and claims cannot
change, and a revoked session, a deleted key or a changed role is heard at once by the bell, or seen
when the memory lapses (5 s at most).
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass
from hashlib import sha256

from agentcy_ray.core.clock import Clock
from agentcy_ray.core.errors import UnauthenticatedError
from agentcy_ray.core.tenancy import Principal
from agentcy_ray.identity.api_keys import PREFIX, ApiKeys
from agentcy_ray.identity.provider import Providers
from agentcy_ray.identity.revocation import Revoked
from agentcy_ray.identity.tokens import Claims

STALE_SECS = 4.0
"""Age of a remembered principal; with the time of a look-up it stays under the promised 5 s."""
REMEMBERED = 10_000


@dataclass(frozen=True)
class Caller:
    """Who sent the request, and by what.

    ``claims`` are those of a login's token; an API key and a token of an OIDC issuer have none.
    ``expires_at``: seconds since the epoch, after which the credential is refused.
    """

    principal: Principal
    claims: Claims | None
    expires_at: float = math.inf


class Authenticator:
    """Verifies bearer tokens: those of logins, of an OIDC issuer, and API keys."""

    def __init__(self, providers: Providers, keys: ApiKeys, clock: Clock) -> None:
        self._providers = providers
        self._keys = keys
        self._clock = clock
        self._seen: OrderedDict[bytes, tuple[float, Caller]] = OrderedDict()
        self._forgotten = 0

    async def bearer(self, header: bytes) -> Caller:
        """The caller behind an ``Authorization`` header.

        Raises:
            UnauthenticatedError: another scheme, or a token that is bad, expired or revoked.
            RefusedError, StoreUnavailableError: as ``IdentityProvider.verify``.
        """
        scheme, _, token = header.decode("latin-1").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise UnauthenticatedError("send `Authorization: Bearer TOKEN`", code="token_invalid")
        key, now = sha256(token.encode()).digest(), self._clock.now().timestamp()
        found = self._seen.get(key)
        if found is not None and now < found[0] and now < found[1].expires_at:
            return found[1]
        before = self._forgotten
        caller = await self._look_up(token)
        # What was rung while we read may have come after the read: then this is not kept.
        if before == self._forgotten:
            self._seen[key] = (now + STALE_SECS, caller)
            if len(self._seen) > REMEMBERED:
                self._seen.popitem(last=False)
        return caller

    async def _look_up(self, token: str) -> Caller:
        if token.startswith(PREFIX):
            holder = await self._keys.holder(token)
            end = holder.expires_at
            return Caller(holder.principal, None, math.inf if end is None else end.timestamp())
        found = await self._providers.verify(token)
        return Caller(found.principal, found.claims, found.expires_at)

    def forget(self, revoked: Revoked | None) -> None:
        """Drop what is remembered of credentials that have ended or changed; None = of all."""
        self._forgotten += 1
        if revoked is None:
            self._seen.clear()
            return
        for key, (_, caller) in list(self._seen.items()):
            if revoked.concerns(caller.principal):
                del self._seen[key]
