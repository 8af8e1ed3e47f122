"""A database with two organisations, and the local provider over it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import pytest

from agentcy_ray.core.clock import SystemClock
from agentcy_ray.core.ids import new_id
from agentcy_ray.identity.local import LocalIdentity
from agentcy_ray.identity.passwords import Passwords
from agentcy_ray.identity.tokens import Tokens
from agentcy_ray.stores.migrate import migrate
from agentcy_ray.stores.postgres import Database, open_database
from tests.conftest import MakeDatabase

PASSWORD = "correct horse battery"
SECRET = "0123456789abcdef0123456789abcdef"


class MovingClock:
    """The time of this machine, moved by what a test says."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def now(self) -> datetime:
        return SystemClock().now() + self.ahead


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


@pytest.fixture
async def desk(identity_url: str, password_hash: str) -> AsyncIterator[Desk]:
    """Fresh rows each time: ``ada@acme.test`` in one organisation, ``bob`` in two."""
    db, clock = await open_database(identity_url, pool_max=6), MovingClock()
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
        yield Desk(db, clock, tokens, LocalIdentity(db, tokens, clock, 3600 * 24), first, ada)
    finally:
        async with db.system() as connection:
            await connection.execute("DELETE FROM organizations")
        await db.close()
