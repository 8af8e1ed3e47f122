"""A database with an organisation in it, and the run side of the agent room on real servers."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from types import SimpleNamespace
from uuid import UUID

import pytest

from agentcy_ray.agent.conversations import Conversation, ConversationSettings, ConversationStore
from agentcy_ray.agent.profiles import AgentProfile, AgentStore, NewAgent
from agentcy_ray.agent.run_records import NewRun, Run
from agentcy_ray.agent.runlog import RunLog
from agentcy_ray.agent.runs import RunStore
from agentcy_ray.core.ids import new_id
from agentcy_ray.core.settings import Settings
from agentcy_ray.core.tenancy import Principal, Role
from agentcy_ray.stores.bell import Bell
from agentcy_ray.stores.migrate import migrate
from agentcy_ray.stores.postgres import Database, open_database
from agentcy_ray.stores.redis import RedisStore, open_redis
from tests.conftest import MakeDatabase

REALMS = ("default", "development", "knowledge")


@dataclass
class World:
    """One organisation and everything that a run needs."""

    url: str
    redis_url: str
    redis_prefix: str
    settings: Settings
    db: Database
    redis: RedisStore
    bell: Bell
    log: RunLog
    runs: RunStore
    agents: AgentStore
    conversations: ConversationStore
    principal: Principal
    agent: AgentProfile

    @property
    def org_id(self) -> UUID:
        return self.principal.org_id

    async def conversation(self, **settings: str) -> Conversation:
        return await self.conversations.create(
            self.principal, ConversationSettings.model_validate(settings)
        )

    async def start(
        self, text: str = "Hello?", model: str = "scripted:tokens=3", **new: object
    ) -> Run:
        conversation = await self.conversation()
        wanted = {"agent": self.agent, "conversation_id": conversation.id, **new}
        started = await self.runs.start(
            self.principal, NewRun.model_validate({"text": text, "model": model, **wanted})
        )
        return started.run

    async def claim(self, owner: str = "a") -> Run:
        (run,) = await self.runs.claim(owner, limit=1, lease_secs=60)
        return run


@pytest.fixture(scope="session")
async def database_url(make_database: MakeDatabase) -> str:
    """One database for all tests here: each has an organisation of its own, gone after it."""
    url = await make_database()
    await migrate(url)
    return url


@pytest.fixture
async def world(database_url: str, redis_url: str) -> AsyncIterator[World]:
    url = database_url
    prefix = f"t{secrets.token_hex(4)}"
    settings = Settings.load({}, redis_prefix=prefix, approval_poll_secs=0.2)
    db = await open_database(url, pool_max=8)
    redis = await open_redis(redis_url, prefix)
    bell = Bell(redis)
    principal = await _people(db)
    log = RunLog(db, bell, settings)
    agents = AgentStore(db)
    try:
        yield World(
            url=url,
            redis_url=redis_url,
            redis_prefix=prefix,
            settings=settings,
            db=db,
            redis=redis,
            bell=bell,
            log=log,
            runs=RunStore(db, bell, log),
            agents=agents,
            conversations=ConversationStore(db),
            principal=principal,
            agent=await agents.create(principal.org_id, NewAgent(name="default")),
        )
    finally:
        await bell.aclose()
        await redis.aclose()
        async with db.system() as connection:
            await connection.execute("DELETE FROM organizations")
        await db.close()


@pytest.fixture
def spoken(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Scripted models that pause say one word and wait for this, however long that takes."""
    go_on = asyncio.Event()

    async def pause(secs: float) -> None:
        if secs:
            await go_on.wait()

    monkeypatch.setattr("agentcy_ray.llm.scripted.asyncio", SimpleNamespace(sleep=pause))
    return go_on


async def _people(db: Database) -> Principal:
    org_id, user_id = new_id(), new_id()
    async with db.system() as connection:
        await connection.execute(
            "INSERT INTO organizations (id, name, display_name) VALUES ($1, $2, $2)",
            org_id,
            f"org-{org_id.hex[-12:]}",
        )
        await connection.execute(
            "INSERT INTO users (id, org_id, email, roles) VALUES ($1, $2, 'a@b.c', '{owner}')",
            user_id,
            org_id,
        )
        await connection.executemany(
            "INSERT INTO realms (org_id, name, built_in) VALUES ($1, $2, true)",
            [(org_id, realm) for realm in REALMS],
        )
    return Principal(user_id=user_id, org_id=org_id, role=Role.OWNER)
