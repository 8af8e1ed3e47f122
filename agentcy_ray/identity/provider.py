"""Who vouches for a person: the interface that local and OIDC logins implement.

A token names its issuer. That name is not verified yet and decides one thing only: which provider
is asked. The provider then verifies the whole token by itself, the issuer included.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from agentcy_ray.core.tenancy import Principal
from agentcy_ray.identity.token_form import claimed_issuer, token_invalid
from agentcy_ray.identity.tokens import Claims

ProviderName = Literal["local", "oidc"]


@dataclass(frozen=True)
class Identified:
    """Whom a verified token stands for.

    ``claims`` are those of a login session of ours; the token of another issuer has none.
    ``expires_at``: seconds since the epoch.
    """

    principal: Principal
    claims: Claims | None
    expires_at: float


class IdentityProvider(Protocol):
    """Verifies the access tokens of one issuer."""

    @property
    def name(self) -> ProviderName:
        """What ``AUTH_PROVIDER`` calls it."""
        ...

    async def issuer(self) -> str:
        """The ``iss`` of its tokens.

        Raises:
            StoreUnavailableError: it is not known yet, and who knows it does not answer.
        """
        ...

    async def verify(self, token: str) -> Identified:
        """Whom a token stands for, as the database knows them now.

        Raises:
            UnauthenticatedError: ``token_expired`` or ``token_invalid``.
            RefusedError: the token is good, and its holder may not come in.
            StoreUnavailableError: the keys to verify it cannot be had.
        """
        ...


class Providers:
    """All providers of an install, asked by issuer."""

    def __init__(self, providers: Sequence[IdentityProvider]) -> None:
        self._providers = providers

    async def verify(self, token: str) -> Identified:
        """Whom a token stands for, by the one provider that its issuer names.

        Raises:
            UnauthenticatedError, RefusedError, StoreUnavailableError: as the provider's, and
                ``token_invalid`` for an issuer that nobody speaks for.
        """
        claimed = claimed_issuer(token)
        for provider in self._providers:
            if await provider.issuer() == claimed:
                return await provider.verify(token)
        raise token_invalid()
