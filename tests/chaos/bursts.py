"""A process that writes to one audit log as fast as it can, and says at once what it released.

``python -m tests.chaos.bursts '<json>'``: one line on standard output for each release, the id of
its audit entry. What is killed is this process, or the Postgres under it.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg

from agentcy_ray.agent.calls import CallContext
from agentcy_ray.audit.entry import AuditEntry
from agentcy_ray.audit.log import AuditLog
from agentcy_ray.connectors.registry import Registry
from agentcy_ray.connectors.sources import SourceStore
from agentcy_ray.core.ids import new_id
from agentcy_ray.core.settings import Settings
from agentcy_ray.core.tenancy import Principal
from agentcy_ray.core.tools import ToolCall
from agentcy_ray.stores.bell import Bell
from agentcy_ray.stores.objects import open_objects
from agentcy_ray.stores.postgres import Database, open_database
from agentcy_ray.stores.redis import open_redis
from agentcy_ray.stores.vault import Vault
from tests.agent.gateway.world import LabConnector, Recorder, StillSearch, make_process

ROOT = Path(__file__).parents[2]
AT_ONCE = 300
_LINE = 33
_CUT = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND application_name = 'agentcy' AND pid <> pg_backend_pid()
"""


@dataclass(frozen=True)
class Burst:
    """What one process does: plain entries, or governed calls when a principal makes them."""

    url: str
    org: str
    count: int
    redis_url: str = ""
    state_dir: str = ""
    principal: dict[str, Any] | None = None


class Writer:
    """A process at work, and what it has released so far."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.released: list[UUID] = []

    async def until(self, count: int) -> None:
        """Read on until it has released ``count``; fails when it ends before."""
        assert self.process.stdout is not None
        while len(self.released) < count:
            line = await self.process.stdout.readexactly(_LINE)
            self.released.append(UUID(line.decode().strip()))

    async def rest(self) -> int:
        """Read what is left, and give the exit status."""
        assert self.process.stdout is not None
        rest = await self.process.stdout.read()
        whole = len(rest) - len(rest) % _LINE
        self.released += [UUID(line) for line in rest[:whole].decode().split()]
        return await self.process.wait()


@asynccontextmanager
async def writing(burst: Burst) -> AsyncIterator[Writer]:
    """A process that carries ``burst`` out; dead on leaving."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.chaos.bursts", json.dumps(asdict(burst)),
        cwd=ROOT, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        yield Writer(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def cut_connections(url: str) -> int:
    """End every connection of the writers from the server's side; gives how many."""
    admin = await asyncpg.connect(url)
    try:
        return len(await admin.fetch(_CUT))
    finally:
        await admin.close()


async def stored(db: Database, org: UUID) -> tuple[list[int], set[UUID]]:
    """All of a log: its seqs in order, and its ids."""
    async with db.tenant(org) as connection:
        rows = await connection.fetch("SELECT seq, id FROM audit_log ORDER BY seq")
    return [row["seq"] for row in rows], {row["id"] for row in rows}


# -- the process ----------------------------------------------------------------------------------


def _release(audit_id: UUID) -> None:
    os.write(1, f"{audit_id.hex}\n".encode())


async def _entries(burst: Burst, db: Database) -> None:
    log = AuditLog(db, patience_secs=20)

    async def one(number: int) -> None:
        _release(
            await log.append(
                AuditEntry(
                    org_id=UUID(burst.org), category="chat", action="chat.tool.execute",
                    decision="allow", resource={"type": "tool", "tool": "lab.look"},
                    input={"action": "chat.tool.execute", "resource": {"args": {"n": number}}},
                )
            )
        )  # fmt: skip

    await _many(burst.count, one)
    await log.close()


async def _calls(burst: Burst, db: Database, resources: AsyncExitStack) -> None:
    settings = Settings.load({}, agentcy_state_dir=burst.state_dir)
    redis = await open_redis(burst.redis_url, f"burst-{burst.org}")
    resources.push_async_callback(redis.aclose)
    bell = Bell(redis)
    resources.push_async_callback(bell.aclose)
    sources = SourceStore(db, Vault(bytes(32)), Registry([LabConnector()], settings), bell)
    gates = make_process(
        db, bell, sources, open_objects(settings), settings, Recorder(), StillSearch()
    )
    resources.push_async_callback(gates.close)
    principal, run = Principal.model_validate(burst.principal), new_id()

    async def one(number: int) -> None:
        ctx = CallContext(principal=principal, run_id=run, request_id="req_burst")
        call = ToolCall(connector="lab", tool="look", args={"id": str(number)}, position=number)
        result = await gates.gateway.call(ctx, call)
        assert result.policy is not None
        _release(result.policy.audit_id)

    await _many(burst.count, one)


async def _many(count: int, one: Callable[[int], Awaitable[None]]) -> None:
    numbers: Iterator[int] = iter(range(count))

    async def work() -> None:
        for number in numbers:
            await one(number)

    await asyncio.gather(*(work() for _ in range(AT_ONCE)))


async def _main(burst: Burst) -> None:
    async with AsyncExitStack() as resources:
        db = await open_database(burst.url, pool_max=6)
        resources.push_async_callback(db.close)
        if burst.principal is None:
            await _entries(burst, db)
        else:
            await _calls(burst, db, resources)


if __name__ == "__main__":
    asyncio.run(_main(Burst(**json.loads(sys.argv[1]))))
