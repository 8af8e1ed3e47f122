"""Puts the parts of OIDC together, as the settings say."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from agentcy_ray.core.clock import Clock
from agentcy_ray.core.settings import Settings
from agentcy_ray.identity.oauth_state import OAuthStates
from agentcy_ray.identity.oidc import OidcProvider
from agentcy_ray.identity.oidc_issuer import MAX_BYTES, Issuer
from agentcy_ray.identity.oidc_login import OidcLogin
from agentcy_ray.identity.oidc_users import FoundOrg, OidcUsers
from agentcy_ray.identity.sessions import Sessions
from agentcy_ray.stores.egress import Egress
from agentcy_ray.stores.http_client import open_http
from agentcy_ray.stores.postgres import Database
from agentcy_ray.stores.redis import RedisStore

ANSWER_SECS = 10.0
"""The issuer answers within it, or is away: requests wait for its keys."""


@dataclass(frozen=True)
class Oidc:
    """``login`` is None where no client id is set: then only access tokens are taken."""

    provider: OidcProvider
    login: OidcLogin | None
    aclose: Callable[[], Awaitable[None]]


def open_oidc(
    settings: Settings,
    db: Database,
    redis: RedisStore,
    clock: Clock,
    *,
    seal_key: bytes,
    sessions: Sessions,
    found_org: FoundOrg,
) -> Oidc | None:
    """The OIDC provider of an install; None when ``AUTH_PROVIDER`` has none. Asks nobody yet.

    Args:
        settings: name the issuer.
        db: users.
        redis: keys of the issuer, states of logins.
        clock: what expires by.
        seal_key: known to our processes alone.
        sessions: opens ours for who has logged in.
        found_org: founds an organisation, used when ``OIDC_JIT_ORG`` is on.
    """
    if "oidc" not in settings.auth_provider:
        return None
    http = open_http(
        Egress(settings).guard("operator"),
        idle_secs=ANSWER_SECS,
        connect_secs=ANSWER_SECS / 2,
        total_secs=ANSWER_SECS,
        max_bytes=MAX_BYTES,
        connections=4,
    )
    issuer = Issuer(settings, http, redis, clock, seal_key)
    users = OidcUsers(db, found_org if settings.oidc_jit_org else None)
    login = None
    if settings.oidc_client_id is not None:
        login = OidcLogin(settings, issuer, users, sessions, OAuthStates(redis), clock)
    return Oidc(OidcProvider(settings, issuer, users, clock), login, http.aclose)
