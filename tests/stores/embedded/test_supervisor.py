"""One supervisor per state folder, whatever dies."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import asyncpg
import neo4j
import psutil
import pytest
import redis.asyncio as redis

from agentcy_ray.core.settings import Settings
from agentcy_ray.stores.embedded import (
    ensure_embedded,
    read_endpoints,
    status,
    stop_embedded,
)
from agentcy_ray.stores.endpoints import Endpoints
from agentcy_ray.stores.resolve import resolve_endpoints
from tests.stores.embedded.probing import (
    ALL,
    Start,
    database,
    graph,
    server_processes,
    settings_in,
    supervisor_of,
    until,
    words,
    write,
)


@pytest.mark.requirement("RUN-02")
async def test_postgres_has_vector_and_trigram_and_redis_is_version_six_or_later(
    endpoints: Endpoints,
) -> None:
    connection = await asyncpg.connect(endpoints.database_url)
    names = {row["extname"] for row in await connection.fetch("SELECT extname FROM pg_extension")}
    await connection.close()
    assert {"vector", "pg_trgm"} <= names
    async with redis.from_url(endpoints.redis_url, decode_responses=True) as client:
        assert int((await client.info("server"))["redis_version"].split(".")[0]) >= 6
        modules = {module["name"] for module in await client.execute_command("MODULE LIST")}
        assert modules <= {"lua"}  # the script engine, which version 9 lists as a module


@pytest.mark.requirement("RUN-03")
async def test_graph_answers_cypher_over_bolt(endpoints: Endpoints) -> None:
    async with graph(endpoints) as driver:
        answer = await driver.execute_query("RETURN 1 AS one", database_=database(endpoints))
    assert answer.records[0]["one"] == 1


async def test_reader_of_the_graph_may_not_write(endpoints: Endpoints) -> None:
    async with graph(endpoints, reader=True) as driver:
        await driver.execute_query("MATCH (n) RETURN count(n)", database_=database(endpoints))
        with pytest.raises(neo4j.exceptions.Forbidden):
            await driver.execute_query("CREATE (:Word)", database_=database(endpoints))


@pytest.mark.requirement("RUN-04")
async def test_every_server_listens_on_loopback_only(
    endpoints: Endpoints, settings: Settings
) -> None:
    addresses = {
        connection.laddr.ip
        for server in status(settings)
        for connection in psutil.Process(server.pid).net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert addresses
    for address in map(ipaddress.ip_address, addresses):
        plain = getattr(address, "ipv4_mapped", None) or address
        assert plain.is_loopback


async def test_starters_at_the_same_time_share_one_supervisor(own: Settings) -> None:
    found = await asyncio.gather(
        *(ensure_embedded(own, frozenset({"redis"}), until_exit_of=os.getpid()) for _ in range(4))
    )
    assert len({endpoint.redis_url for endpoint in found}) == 1
    assert len(server_processes(own.state_dir)) == 1


async def test_running_supervisor_adds_a_server_that_it_lacks(own: Settings, start: Start) -> None:
    first = await start("redis")
    assert first.neo4j_uri == ""
    both = await start("graph")
    assert both.redis_url == first.redis_url
    assert both.neo4j_uri.startswith("bolt://127.0.0.1:")


@pytest.mark.requirement("DEP-07")
async def test_urls_with_tls_options_are_used_as_given_and_nothing_is_started(
    own: Settings,
) -> None:
    given = {
        "DATABASE_URL": "postgresql://u:p@db.example/a?sslmode=verify-full&sslrootcert=/ca.pem",
        "REDIS_URL": "rediss://:p@cache.example:6380/0?ssl_cert_reqs=required",
        "NEO4J_URI": "neo4j+s://graph.example",
        "NEO4J_PASSWORD": "p",
        "JWT_SECRET": "j" * 32,
        "ENCRYPTION_KEY": "a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s=",
    }
    found = await resolve_endpoints(Settings.load(given, agentcy_state_dir=own.agentcy_state_dir))
    assert found.database_url == given["DATABASE_URL"]
    assert found.redis_url == given["REDIS_URL"]
    assert found.neo4j_uri == given["NEO4J_URI"]
    assert not own.state_dir.exists()
    assert "p@" not in repr(found)


@pytest.mark.requirement("CTX-11")
async def test_only_servers_without_a_url_are_started(own: Settings) -> None:
    mixed = own.model_copy(update={
        "redis_url": Settings(redis_url="rediss://elsewhere:6380/1").redis_url,
        "neo4j_uri": "neo4j+s://graph.example:7687",
        "neo4j_password": Settings(neo4j_password="secret").neo4j_password,
    })  # fmt: skip
    found = await resolve_endpoints(mixed)
    assert found.redis_url == "rediss://elsewhere:6380/1"
    assert found.neo4j_uri == "neo4j+s://graph.example:7687"
    assert (found.neo4j_reader_user, found.neo4j_reader_password) == ("neo4j", "secret")
    assert [server.name for server in status(own)] == ["postgres"]


@pytest.mark.chaos
async def test_killed_server_is_back_at_the_same_url_with_its_data(
    own: Settings, start: Start
) -> None:
    before = await start()
    await write(before, "kept")
    for name in sorted(ALL):
        killed = next(server for server in status(own) if server.name == name)
        os.kill(killed.pid, signal.SIGKILL)
        await until(lambda n=name, old=killed: _healthy_again(own, n, old.pid))
    assert await start() == before
    assert await words(before) == (["kept"], ["kept"], ["kept"])
    assert [server.restarts for server in status(own)] == [1, 1, 1]


def _healthy_again(settings: Settings, name: str, old_pid: int | None) -> bool:
    server = next((server for server in status(settings) if server.name == name), None)
    return server is not None and server.state == "healthy" and server.pid != old_pid


@pytest.mark.chaos
async def test_killed_supervisor_leaves_no_orphan_and_the_next_start_finds_the_data(
    own: Settings, start: Start
) -> None:
    before = await start()
    await write(before, "kept")
    supervisor = supervisor_of(own)
    os.kill(supervisor.pid, signal.SIGKILL)
    await until(lambda: not supervisor.alive)
    after = await start()  # at once, while the servers may still be on their way out
    assert after == before
    assert await words(after) == (["kept"], ["kept"], ["kept"])
    await stop_embedded(own)
    assert server_processes(own.state_dir) == []


@pytest.mark.chaos
async def test_servers_end_by_themselves_when_their_supervisor_is_killed(
    own: Settings, start: Start
) -> None:
    await start()
    os.kill(supervisor_of(own).pid, signal.SIGKILL)
    await until(lambda: not server_processes(own.state_dir))
    assert read_endpoints(own) is None
    assert status(own) == []


async def test_stop_ends_every_process_and_a_second_stop_says_that_nothing_ran(
    own: Settings, start: Start
) -> None:
    await start()
    assert await stop_embedded(own) is True
    assert server_processes(own.state_dir) == []
    assert await stop_embedded(own) is False


async def test_supervisor_ends_with_the_process_that_owns_it(own: Settings) -> None:
    owner = await asyncio.create_subprocess_exec("cat", stdin=asyncio.subprocess.PIPE)
    await ensure_embedded(own, frozenset({"redis"}), until_exit_of=owner.pid)
    owner.kill()
    await owner.wait()
    await until(lambda: not server_processes(own.state_dir))


async def test_supervisor_ends_when_its_state_folder_was_removed(
    own: Settings, start: Start
) -> None:
    await start("redis")
    supervisor, (server,) = supervisor_of(own), server_processes(own.state_dir)
    shutil.rmtree(own.state_dir)
    server.kill()
    await until(lambda: not supervisor.alive)


async def test_state_folder_may_have_a_long_path(tmp_path: Path) -> None:
    settings = settings_in(tmp_path / ("deep" * 20) / ("er" * 20))
    try:
        found = await ensure_embedded(settings, frozenset({"postgres"}), until_exit_of=os.getpid())
        connection = await asyncpg.connect(found.database_url)
        assert await connection.fetchval("SELECT 1") == 1
        await connection.close()
    finally:
        await stop_embedded(settings)


async def test_two_installs_on_one_machine_do_not_fight_for_ports(
    endpoints: Endpoints, start: Start
) -> None:
    mine = await start("graph")
    assert mine.neo4j_uri != endpoints.neo4j_uri


async def test_port_that_is_taken_meanwhile_is_replaced(own: Settings, start: Start) -> None:
    before = await start("redis")
    await stop_embedded(own)
    with socket.socket() as thief:
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        thief.bind(("127.0.0.1", int(before.redis_url.rsplit(":", 1)[1].split("/")[0])))
        thief.listen()
        after = await start("redis")
    assert after.redis_url != before.redis_url
    async with redis.from_url(after.redis_url) as client:
        assert await client.ping()


@pytest.mark.skipif(os.geteuid() != 0, reason="the suite itself runs as a plain user")
async def test_plain_user_starts_everything_too() -> None:
    python = _python_for_everyone()
    if python is None:
        pytest.skip("no Python of this version that another user may run")
    # pytest keeps its folders to itself, and another run of it closes them again
    with tempfile.TemporaryDirectory(prefix="agb-") as state_dir:
        os.chown(state_dir, 65534, 65534)
        done = await asyncio.to_thread(
            subprocess.run,
            [str(python), "-c", _START_AND_STOP, state_dir],
            user=65534, group=65534, extra_groups=[], cwd="/", capture_output=True, text=True,
            env={"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["postgres", "redis", "graph", "True"]


_START_AND_STOP = """
import asyncio, sys
from pathlib import Path
from agentcy_ray.core.settings import Settings
from agentcy_ray.stores.embedded import ensure_embedded, status, stop_embedded
settings = Settings.load({}, agentcy_state_dir=Path(sys.argv[1]))
async def main():
    await ensure_embedded(settings, frozenset({"postgres", "redis", "graph"}))
    names = {server.name for server in status(settings) if server.state == "healthy"}
    print(*[name for name in ("postgres", "redis", "graph") if name in names])
    print(await stop_embedded(settings))
asyncio.run(main())
"""


def _python_for_everyone() -> Path | None:
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for candidate in (
        Path(sys.executable),
        Path("/usr/bin") / version,
        Path("/usr/local/bin") / version,
    ):
        try:
            if candidate.exists() and all(
                place.stat().st_mode & 0o001 for place in candidate.resolve().parents
            ):
                return candidate
        except OSError:
            continue
    return None
