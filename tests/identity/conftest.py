"""A database with two organisations, the local provider over it, and an OIDC issuer beside it."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

import pytest

from agentcy_ray.api.founding import found_org
from agentcy_ray.core.clock import SystemClock
from agentcy_ray.core.ids import new_id
from agentcy_ray.core.settings import Settings
from agentcy_ray.identity.local import LocalIdentity
from agentcy_ray.identity.oidc_opening import Oidc, open_oidc
from agentcy_ray.identity.passwords import Passwords
from agentcy_ray.identity.tokens import Tokens
from agentcy_ray.stores.migrate import migrate
from agentcy_ray.stores.postgres import Database, open_database
from agentcy_ray.stores.redis import RedisStore, open_redis
from tests.conftest import MakeDatabase
from tests.identity.issuer import AUDIENCE, CLIENT_ID, CLIENT_SECRET, Issuer, open_issuer

PASSWORD = "correct horse battery"
SECRET = "0123456789abcdef0123456789abcdef"


class MovingClock:
    """The time of this machine, moved by what a test says."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def now(self) -> datetime:
        return SystemClock().now() + self.ahead


class StoppedClock(MovingClock):
    """Stands still, until a test moves it."""

    def __init__(self) -> None:
        super().__init__()
        self._start = super().now()

    def now(self) -> datetime:
        return self._start + self.ahead


@dataclass
class Desk:
    """Who logs people in, and the people."""

    db: Database
    clock: MovingClock
    tokens: Tokens
    identity: LocalIdentity
    org_id: UUID
    user_id: UUID

    async def user(self, column: str) -> object:
        async with self.db.system() as connection:
            return await connection.fetchval(
                f"SELECT {column} FROM users WHERE id = $1", self.user_id
            )

    async def set(self, assignment: str, *args: object) -> None:
        async with self.db.system() as connection:
            await connection.execute(
                f"UPDATE users SET {assignment} WHERE id = $1", self.user_id, *args
            )


@pytest.fixture(scope="session")
async def identity_url(make_database: MakeDatabase) -> str:
    url = await make_database()
    await migrate(url)
    return url


@pytest.fixture(scope="session")
async def password_hash() -> str:
    return await Passwords().hash(PASSWORD)


@asynccontextmanager
async def open_desk(url: str, password_hash: str) -> AsyncGenerator[Desk]:
    """Fresh rows: ``ada@acme.test`` in one organisation, ``bob`` in two."""
    db, clock = await open_database(url, pool_max=6), MovingClock()
    tokens = Tokens(SECRET, None, 3600, clock)
    first, second, ada = new_id(), new_id(), new_id()
    async with db.system() as connection:
        for org, name in ((first, "acme"), (second, "beta")):
            await connection.execute(
                "INSERT INTO organizations (id, name, display_name) VALUES ($1, $2, $2)", org, name
            )
        await connection.executemany(
            "INSERT INTO users (id, org_id, email, roles, password_hash)"
            " VALUES ($1, $2, $3, '{member}', $4)",
            [
                (ada, first, "ada@acme.test", password_hash),
                (new_id(), first, "bob@acme.test", password_hash),
                (new_id(), second, "Bob@acme.test", password_hash),
            ],
        )
    try:
        identity = LocalIdentity(db, tokens, clock, 3600 * 24, ("local", "oidc"))
        yield Desk(db, clock, tokens, identity, first, ada)
    finally:
        async with db.system() as connection:
            await connection.execute("DELETE FROM organizations")
        await db.close()


@pytest.fixture
async def desk(identity_url: str, password_hash: str) -> AsyncIterator[Desk]:
    """Fresh rows each time."""
    async with open_desk(identity_url, password_hash) as opened:
        yield opened


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[RedisStore]:
    store = await open_redis(redis_url, f"identity-{secrets.token_hex(4)}")
    yield store
    await store.aclose()


@pytest.fixture(scope="session")
async def served_issuer() -> AsyncIterator[Issuer]:
    async with open_issuer() as opened:
        yield opened


@pytest.fixture
async def issuer(served_issuer: Issuer) -> Issuer:
    """An OIDC issuer that somebody new of the organisation ``acme`` is logged in at."""
    served_issuer.reset()
    return served_issuer


@dataclass
class OidcDesk:
    """The OIDC provider over the desk's database."""

    desk: Desk
    issuer: Issuer
    redis: RedisStore
    opened: list[Oidc]

    def settings(self, **change: Any) -> Settings:
        return Settings.load({}, **{
            "auth_provider": ("local", "oidc"),
            "oidc_discovery_url": f"{self.issuer.url}/.well-known/openid-configuration",
            "oidc_client_id": CLIENT_ID,
            "oidc_client_secret": CLIENT_SECRET,
            "jwt_audience": AUDIENCE,
        } | change)  # fmt: skip

    def open(self, **change: Any) -> Oidc:
        """As another process does, which has read nothing yet; ``change`` are settings."""
        settings, desk = self.settings(**change), self.desk
        found = partial(_found, settings)
        oidc = open_oidc(
            settings, desk.db, self.redis, desk.clock, seal_key=SECRET.encode(),
            sessions=desk.identity, found_org=found,
        )  # fmt: skip
        assert oidc is not None
        self.opened.append(oidc)
        return oidc


async def _found(settings: Settings, connection: Any, display_name: str) -> UUID:
    return await found_org(connection, display_name, context_engine=settings.context_engine)


@pytest.fixture
async def oidc_desk(desk: Desk, issuer: Issuer, redis: RedisStore) -> AsyncIterator[OidcDesk]:
    opened = OidcDesk(desk, issuer, redis, [])
    yield opened
    for oidc in opened.opened:
        await oidc.aclose()
