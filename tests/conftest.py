"""Real servers for every test: one embedded trio per session, one database per asker."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from typing import Literal
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import hypothesis
import pytest

from agentcy_ray.core.settings import Settings
from agentcy_ray.stores.embedded import ensure_embedded, stop_embedded
from agentcy_ray.stores.embedded.layout import Layout
from agentcy_ray.stores.embedded.postgres import EXTENSIONS, USER
from agentcy_ray.stores.embedded.postgres_login import LOGIN, superuser_url
from agentcy_ray.stores.endpoints import Endpoints
from tests.tiny_model import tiny_model as tiny_model  # a fixture for every room

MakeDatabase = Callable[..., Awaitable[str]]
EXTENDED = "test_extended"
AttackScale = Literal["short", "long"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--attacks=long`` runs the tables of attacks with more cases than ``make test`` does."""
    parser.addoption("--attacks", choices=("short", "long"), default="short")
    parser.addoption("--fuzz-examples", type=int, help="requests per operation and caller")
    parser.addoption("--fuzz-seed", type=int, default=0, help="draws other requests")


def pytest_configure(config: pytest.Config) -> None:
    """Let no property fail by chance: the short form draws the same examples each time.

    The long form draws others in every run. No example has a limit of time, since a busy machine
    would decide about it.
    """
    hypothesis.settings.register_profile(
        "suite",
        deadline=None,
        derandomize=config.getoption("--attacks") == "short",
        suppress_health_check=[hypothesis.HealthCheck.too_slow],
    )
    if config.getoption("--hypothesis-profile") is None:
        hypothesis.settings.load_profile("suite")


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
def superuser_of(settings: Settings) -> Callable[[str], str]:
    """The same database as the embedded server's superuser, for what no login of ours may do."""
    return partial(superuser_url, Layout(settings.state_dir).data("postgres"), USER)


@pytest.fixture(scope="session")
async def make_database(
    endpoints: Endpoints, superuser_of: Callable[[str], str]
) -> AsyncIterator[MakeDatabase]:
    """Make a fresh database: ``await make_database()`` gives its URL.

    It has the extensions, and its login is the product's own: an owner without other rights.
    ``superuser=True`` gives one without extensions, and the server's superuser as the login.
    ``await make_database(template=url)`` copies another one, to which nobody is connected. All
    are dropped at the end of the session.
    """
    all_powerful = superuser_of(endpoints.database_url)
    admin = await asyncpg.connect(all_powerful)
    made: list[str] = []

    async def make(template: str | None = None, *, superuser: bool = False) -> str:
        name = f"test_{secrets.token_hex(6)}"
        source = "template1" if superuser else EXTENDED
        if template:
            source = urlsplit(template).path[1:]
        if source == EXTENDED and EXTENDED not in made:
            await admin.execute(f'CREATE DATABASE "{EXTENDED}"')
            made.append(EXTENDED)
            inside = await asyncpg.connect(_renamed(all_powerful, EXTENDED))
            for extension in EXTENSIONS:
                await inside.execute(f'CREATE EXTENSION "{extension}"')
            await inside.close()
        owner = "" if superuser else f"OWNER {LOGIN}"
        await admin.execute(f'CREATE DATABASE "{name}" TEMPLATE "{source}" {owner}')
        made.append(name)
        return _renamed(all_powerful if superuser else endpoints.database_url, name)

    try:
        yield make
    finally:
        for name in made:
            await admin.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
        await admin.close()


def _renamed(url: str, database: str) -> str:
    return urlunsplit(urlsplit(url)._replace(path=f"/{database}"))
