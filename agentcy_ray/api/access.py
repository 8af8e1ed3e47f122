"""Who may come in: everything that a request passes before its handler."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import UUID

from agentcy_ray.api.authentication import Authenticator
from agentcy_ray.api.founding import found_org
from agentcy_ray.api.registration import Registrar
from agentcy_ray.core.clock import Clock
from agentcy_ray.core.settings import Settings
from agentcy_ray.identity.activity import Activities
from agentcy_ray.identity.api_keys import ApiKeys
from agentcy_ray.identity.buckets import Buckets
from agentcy_ray.identity.invites import Invites
from agentcy_ray.identity.limits import RateLimits
from agentcy_ray.identity.local import LocalIdentity
from agentcy_ray.identity.oidc_opening import Oidc, open_oidc
from agentcy_ray.identity.orgs import Orgs
from agentcy_ray.identity.provider import IdentityProvider, Providers
from agentcy_ray.identity.revocation import OpenStreams, Revocations
from agentcy_ray.identity.standing import Standing
from agentcy_ray.identity.stream_slots import StreamSlots
from agentcy_ray.identity.throttle import Throttle
from agentcy_ray.identity.tokens import Tokens
from agentcy_ray.identity.users import Users
from agentcy_ray.stores.bell import Bell
from agentcy_ray.stores.postgres import Database
from agentcy_ray.stores.redis import RedisStore
from agentcy_ray.stores.secrets import Secrets

SESSIONS_PER_LOGIN = 20
"""Behind one address many people log in and refresh in a minute; whoever tries one password on many
e-mails, or wants our processors to hash, does not come further than they do."""


@dataclass(frozen=True)
class Access:
    """Logins, credentials and their limits."""

    identity: LocalIdentity
    authenticator: Authenticator
    login_limit: Throttle
    session_limit: Throttle
    """Of logins, registrations and refreshes, each by address alone."""
    oidc: Oidc | None
    limits: RateLimits
    streams: StreamSlots
    revocations: Revocations
    open_streams: OpenStreams
    standing: Standing
    api_keys: ApiKeys
    users: Users
    invites: Invites
    orgs: Orgs
    registrar: Registrar
    activities: Activities


def open_access(
    db: Database,
    redis: RedisStore,
    bell: Bell,
    settings: Settings,
    secrets: Secrets,
    clock: Clock,
) -> Access:
    """Access over the stores; ``oidc`` and ``streams`` want to be closed.

    Until ``revocations`` is followed by the authenticator, revoked credentials are only forgotten
    with time.
    """
    tokens = Tokens(
        secrets.jwt_secret, secrets.jwt_secret_previous, settings.jwt_expiry_secs, clock
    )
    revocations = Revocations(bell)
    identity = LocalIdentity(
        db, tokens, clock, settings.jwt_refresh_expiry_secs, settings.auth_provider,
        revocations.tell,
    )  # fmt: skip
    oidc = open_oidc(
        settings, db, redis, clock, seal_key=secrets.jwt_secret.encode(), sessions=identity,
        found_org=partial(_found, settings),
    )  # fmt: skip
    providers: list[IdentityProvider] = [identity]
    if oidc is not None:
        providers.append(oidc.provider)
    api_keys = ApiKeys(db, clock, revocations)
    invites = Invites(db, clock)
    return Access(
        identity=identity,
        authenticator=Authenticator(Providers(providers), api_keys, clock),
        login_limit=Throttle(redis, "login", settings.rate_limit_login_rpm, clock),
        session_limit=Throttle(
            redis, "session", settings.rate_limit_login_rpm * SESSIONS_PER_LOGIN, clock
        ),
        oidc=oidc,
        limits=RateLimits(
            Buckets(redis, clock),
            clock,
            user_rpm=settings.rate_limit_user_rpm,
            org_rpm=settings.rate_limit_org_rpm,
        ),
        streams=StreamSlots(redis, clock, settings.sse_streams_per_user),
        revocations=revocations,
        open_streams=OpenStreams(),
        standing=Standing(db),
        api_keys=api_keys,
        users=Users(db, clock, revocations),
        invites=invites,
        orgs=Orgs(db, bell, clock, revocations),
        registrar=Registrar(db, settings, invites),
        activities=Activities(db, clock),
    )


async def _found(settings: Settings, connection: Any, display_name: str) -> UUID:
    return await found_org(connection, display_name, context_engine=settings.context_engine)
