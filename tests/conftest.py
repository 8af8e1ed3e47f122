"""Real servers for every test: one embedded trio per session, one database per asker."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Literal
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from agentcy_ray.core.settings import Settings
from agentcy_ray.stores.embedded import ensure_embedded, stop_embedded
from agentcy_ray.stores.endpoints import Endpoints
from tests.tiny_model import tiny_model as tiny_model  # a fixture for every room

MakeDatabase = Callable[..., Awaitable[str]]
AttackScale = Literal["short", "long"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--attacks=long`` runs the tables of attacks with more cases than ``make test`` does."""
    parser.addoption("--attacks", choices=("short", "long"), default="short")
    parser.addoption("--fuzz-examples", type=int, help="requests per operation and caller")
    parser.addoption("--fuzz-seed", type=int, default=0, help="draws other requests")


@pytest.fixture(scope="session")
def attack_scale(pytestconfig: pytest.Config) -> AttackScale:
    """How many cases a table of attacks draws."""
    return pytestconfig.getoption("--attacks")


@pytest.fixture(scope="session")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Settings with a state folder of the session and nothing from the environment."""
    return Settings.load({}, agentcy_state_dir=tmp_path_factory.mktemp("state"))


@pytest.fixture(scope="session")
async def endpoints(settings: Settings) -> AsyncIterator[Endpoints]:
    """Embedded Postgres, Redis and graph; they also end when the test process is killed."""
    want = frozenset({"postgres", "redis", "graph"})
    try:
        yield await ensure_embedded(settings, want, until_exit_of=os.getpid())
    finally:
        await stop_embedded(settings)
        shutil.rmtree(settings.state_dir)  # thousands of files, which pytest would keep thrice


@pytest.fixture(scope="session")
def redis_url(endpoints: Endpoints) -> str:
    """The session's Redis; keep apart by a prefix of your own."""
    return endpoints.redis_url


@pytest.fixture(scope="session")
def ray_cluster(settings: Settings) -> Iterator[None]:
    """A local Ray cluster, with this process as its driver; workers find this state folder."""
    from agentcy_ray.runtime import cluster
    from agentcy_ray.runtime.cluster_config import ClusterConfig

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AGENTCY_STATE_DIR", str(settings.state_dir))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
        cluster.start(settings, ClusterConfig())  # its processes keep the variables of this moment
    yield
    cluster.stop()


@pytest.fixture(scope="session")
async def make_database(endpoints: Endpoints) -> AsyncIterator[MakeDatabase]:
    """Make a fresh database: ``await make_database()`` gives its URL.

    ``await make_database(template=url)`` copies another one, to which nobody is connected. All
    are dropped at the end of the session.
    """
    admin = await asyncpg.connect(endpoints.database_url)
    made: list[str] = []

    async def make(template: str | None = None) -> str:
        name = f"test_{secrets.token_hex(6)}"
        source = urlsplit(template).path[1:] if template else "template1"
        await admin.execute(f'CREATE DATABASE "{name}" TEMPLATE "{source}"')
        made.append(name)
        return urlunsplit(urlsplit(endpoints.database_url)._replace(path=f"/{name}"))

    try:
        yield make
    finally:
        for name in made:
            await admin.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
        await admin.close()
