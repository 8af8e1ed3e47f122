"""Who may come in: everything that a request passes before its handler."""

from __future__ import annotations

from dataclasses import dataclass

from agentcy_ray.api.authentication import Authenticator
from agentcy_ray.core.clock import Clock
from agentcy_ray.core.settings import Settings
from agentcy_ray.identity.api_keys import ApiKeys
from agentcy_ray.identity.local import LocalIdentity
from agentcy_ray.identity.revocation import Revocations
from agentcy_ray.identity.throttle import Throttle
from agentcy_ray.identity.tokens import Tokens
from agentcy_ray.stores.bell import Bell
from agentcy_ray.stores.postgres import Database
from agentcy_ray.stores.redis import RedisStore
from agentcy_ray.stores.secrets import Secrets


@dataclass(frozen=True)
class Access:
    """Logins, credentials and their limits."""

    identity: LocalIdentity
    authenticator: Authenticator
    login_limit: Throttle
    revocations: Revocations
    api_keys: ApiKeys


def open_access(
    db: Database,
    redis: RedisStore,
    bell: Bell,
    settings: Settings,
    secrets: Secrets,
    clock: Clock,
) -> Access:
    """Access over the stores; it holds nothing that needs closing.

    Until ``revocations`` is followed by the authenticator, revoked credentials are only forgotten
    with time.
    """
    tokens = Tokens(
        secrets.jwt_secret, secrets.jwt_secret_previous, settings.jwt_expiry_secs, clock
    )
    identity = LocalIdentity(db, tokens, clock, settings.jwt_refresh_expiry_secs)
    revocations = Revocations(bell)
    api_keys = ApiKeys(db, clock, revocations)
    return Access(
        identity=identity,
        authenticator=Authenticator(tokens, identity, api_keys, clock),
        login_limit=Throttle(redis, "login", settings.rate_limit_login_rpm, clock),
        revocations=revocations,
        api_keys=api_keys,
    )
