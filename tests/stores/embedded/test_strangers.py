"""Who has no credential is let into none of the embedded servers, and nothing shows one."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit, urlunsplit

import asyncpg
import httpx2 as httpx
import neo4j
import psutil
import pytest
import redis.asyncio as redis
from redis.exceptions import AuthenticationError

from agentcy_ray.core.settings import Settings
from agentcy_ray.stores.embedded import status
from agentcy_ray.stores.endpoints import Endpoints
from tests.stores.embedded.probing import database

pytestmark = pytest.mark.attack


def without_password(url: str, instead: str = "") -> str:
    """The same address for somebody who does not know the password, or guesses one."""
    parts = urlsplit(url)
    user, host = parts.username or "", parts.netloc.rpartition("@")[2]
    who = f"{user}:{instead}" if instead else user
    return urlunsplit(parts._replace(netloc=f"{who}@{host}" if who else host))


def passwords(endpoints: Endpoints) -> set[str]:
    """Every secret of the embedded servers."""
    urls = (endpoints.database_url, endpoints.redis_url)
    found = {urlsplit(url).password for url in urls}
    found |= {endpoints.neo4j_password, endpoints.neo4j_reader_password}
    return {secret for secret in found if secret}


@pytest.mark.requirement("SEC-01")
@pytest.mark.parametrize("guess", ["", "postgres", "agentcy"])
async def test_postgres_asks_for_the_password_on_its_socket(
    endpoints: Endpoints, guess: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PGPASSFILE", str(tmp_path / "none"))
    with pytest.raises((
        asyncpg.InvalidPasswordError,
        asyncpg.InvalidAuthorizationSpecificationError,
    )):
        await asyncpg.connect(without_password(endpoints.database_url, guess), timeout=10)


@pytest.mark.requirement("SEC-01")
@pytest.mark.parametrize("guess", ["", "redis", "agentcy"])
async def test_redis_asks_for_the_password(endpoints: Endpoints, guess: str) -> None:
    async with redis.from_url(without_password(endpoints.redis_url, guess)) as client:
        with pytest.raises((AuthenticationError, redis.ResponseError)):
            await client.execute_command("GET", "x")


@pytest.mark.requirement("SEC-01")
@pytest.mark.parametrize("auth", [None, ("neo4j", "neo4j"), ("root", "root"), ("root", "")])
async def test_the_graph_asks_for_a_password_over_bolt(
    endpoints: Endpoints, auth: tuple[str, str] | None
) -> None:
    async with neo4j.AsyncGraphDatabase.driver(endpoints.neo4j_uri, auth=auth) as driver:
        with pytest.raises(neo4j.exceptions.AuthError):
            await driver.execute_query("RETURN 1", database_=database(endpoints))


@pytest.mark.requirement("SEC-01")
async def test_the_graph_asks_for_a_password_over_http(
    settings: Settings, endpoints: Endpoints
) -> None:
    [graph] = [server for server in status(settings) if server.name == "graph"]
    bolt = urlsplit(endpoints.neo4j_uri).port
    ports = {
        connection.laddr.port
        for connection in psutil.Process(graph.pid).net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port != bolt
    }
    assert ports
    async with httpx.AsyncClient(timeout=10) as client:
        for port in ports:
            base = f"http://127.0.0.1:{port}"
            for path in ("/api/v1/server", "/api/v1/databases", f"/api/v1/exists/{DATABASE}"):
                assert (await client.get(base + path)).status_code in (401, 403), path
            for path in (f"/api/v1/query/{DATABASE}", f"/api/v1/command/{DATABASE}"):
                body = {"language": "cypher", "command": "MATCH (n) RETURN n"}
                assert (await client.post(base + path, json=body)).status_code in (401, 403), path


DATABASE = "agentcy"


@pytest.mark.requirement("SEC-01")
def test_no_password_stands_in_a_command_line_or_an_environment(
    settings: Settings, endpoints: Endpoints
) -> None:
    secrets = passwords(endpoints)
    assert len(secrets) >= 3
    shown = {
        (process.pid, place)
        for process in _servers(settings)
        for place, text in (
            ("arguments", " ".join(process.cmdline())),
            ("environment", str(process.environ())),
        )
        if any(secret in text for secret in secrets)
    }
    assert shown == set()


def _servers(settings: Settings) -> Iterator[psutil.Process]:
    for server in status(settings):
        process = psutil.Process(server.pid)
        yield process
        yield from process.children(recursive=True)


@pytest.mark.requirement("SEC-01")
def test_the_socket_of_postgres_lies_where_nobody_else_may_look(endpoints: Endpoints) -> None:
    folder = Path(parse_qs(urlsplit(endpoints.database_url).query)["host"][0])
    assert folder.is_dir()
    assert [
        one for one in (folder, *folder.parents) if stat.S_IMODE(one.stat().st_mode) & 0o007 == 0
    ]
