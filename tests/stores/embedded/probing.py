"""Small questions to the three servers, and to the process table."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import asyncpg
import neo4j
import psutil
import redis.asyncio as redis

from agentcy_ray.cli import patience
from agentcy_ray.core.settings import Settings
from agentcy_ray.stores.embedded import record
from agentcy_ray.stores.embedded.layout import Layout
from agentcy_ray.stores.embedded.processes import Identity
from agentcy_ray.stores.endpoints import Endpoints

ALL = frozenset({"postgres", "redis", "graph"})
Start = Callable[..., Awaitable[Endpoints]]


def settings_in(state_dir: Path) -> Settings:
    """Settings with this state folder and nothing from the environment."""
    return Settings.load({}, agentcy_state_dir=state_dir)


def supervisor_of(settings: Settings) -> Identity:
    """The supervisor that runs now."""
    running = record.read(Layout(settings.state_dir))
    assert running is not None
    assert running.supervisor.alive
    return running.supervisor


async def write(endpoints: Endpoints, word: str) -> None:
    """Store a word in each of the three."""
    connection = await asyncpg.connect(endpoints.database_url)
    await connection.execute("CREATE TABLE IF NOT EXISTS words (word text)")
    await connection.execute("INSERT INTO words VALUES ($1)", word)
    await connection.close()
    async with redis.from_url(endpoints.redis_url, decode_responses=True) as client:
        await client.rpush("words", word)
        # the append-only file is flushed once a second; ask for it now
        await client.execute_command("WAITAOF", 1, 0, 5000)
    async with graph(endpoints) as driver, driver.session(database=database(endpoints)) as session:
        await session.execute_write(lambda tx: tx.run("CREATE (:Word {word: $word})", word=word))


async def words(endpoints: Endpoints) -> tuple[list[str], list[str], list[str]]:
    """The words in each of the three."""
    connection = await asyncpg.connect(endpoints.database_url)
    rows = [row["word"] for row in await connection.fetch("SELECT word FROM words ORDER BY 1")]
    await connection.close()
    async with redis.from_url(endpoints.redis_url, decode_responses=True) as client:
        listed = await client.lrange("words", 0, -1)
    async with graph(endpoints) as driver:
        found = await driver.execute_query(
            "MATCH (n:Word) RETURN n.word AS word ORDER BY word", database_=database(endpoints)
        )
    return rows, listed, [record["word"] for record in found.records]


def graph(endpoints: Endpoints, *, reader: bool = False) -> neo4j.AsyncDriver:
    """A driver as the writer, or as the reader."""
    user = endpoints.neo4j_reader_user if reader else endpoints.neo4j_user
    password = endpoints.neo4j_reader_password if reader else endpoints.neo4j_password
    return neo4j.AsyncGraphDatabase.driver(endpoints.neo4j_uri, auth=(user, password))


def database(endpoints: Endpoints) -> str:
    """Name of the graph database."""
    return endpoints.neo4j_database


def server_processes(state_dir: Path) -> list[psutil.Process]:
    """Every process that works inside this state folder."""
    root = str(state_dir.resolve())
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        try:
            if process.cwd().startswith(root) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


async def until(true: Callable[[], bool | Awaitable[bool]], seconds: float = 120) -> None:
    """Wait for a condition of another process; fail after ``seconds``."""

    async def look() -> bool | None:
        answer = true()
        return (answer if isinstance(answer, bool) else await answer) or None

    await patience.until(look, limit_secs=seconds, every_secs=0.02)
