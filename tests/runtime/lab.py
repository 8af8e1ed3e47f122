"""Sources whose tools report to the test and do as it says, in whichever process they run.

A tool connects to the test's harbour, says who it is, and goes on when the harbour answers. So a
test knows that a call has reached its host, and which process that is, without waiting for time.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from pydantic import BaseModel

from agentcy_ray.connectors.base import Connector, ConnectorSpec, SessionContext
from agentcy_ray.connectors.config import ConnectorConfig, read_config
from agentcy_ray.connectors.registry import Registry
from agentcy_ray.connectors.source_records import Source
from agentcy_ray.core.errors import NotFoundError
from agentcy_ray.core.ids import new_id
from agentcy_ray.core.settings import Settings
from agentcy_ray.core.tools import Effect, ToolRequest, ToolSpec

ORG = new_id()
LIMIT_SECS = 30.0


class LabConnector:
    """Tools: ``echo``, ``report`` (waits for the harbour), ``block`` (the same, on its loop's
    thread), ``end`` (ends the loop from a task of its own), ``die``, ``pid``, ``sleep``.
    """

    spec = ConnectorSpec(
        name="lab", title="Lab", description="Reports to the test.", version="1",
        config_model=ConnectorConfig, default_realm="default",
    )  # fmt: skip

    def validate(self, config: Mapping[str, Any], context: SessionContext) -> ConnectorConfig:
        return read_config(ConnectorConfig, config)

    def tools(self, config: Any) -> list[ToolSpec]:
        return []

    async def open(self, config: Any, context: SessionContext) -> LabSession:
        return LabSession()


class LabSession:
    async def check(self) -> None:
        return

    async def extract(self, cursors: Any, *, full: bool) -> AsyncIterator[Any]:
        raise AssertionError("nobody extracts from the lab")
        yield

    async def call(
        self, tool: str, args: Mapping[str, Any], *, idempotency_key: str | None = None
    ) -> Any:
        if tool == "echo":
            return args.get("value")
        if tool == "pid":
            return os.getpid()
        said = json.dumps({"tool": tool, "pid": os.getpid(), "name": args.get("name")}) + "\n"
        if tool == "report":
            reader, writer = await asyncio.open_unix_connection(args["harbour"])
            try:
                writer.write(said.encode())
                return (await reader.readline()).decode().strip()
            finally:
                writer.close()
        if tool == "block":
            with socket.socket(socket.AF_UNIX) as plain:
                plain.connect(args["harbour"])
                plain.sendall(said.encode())
                return plain.makefile().readline().strip()
        if tool == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if tool == "end":
            asyncio.get_running_loop().create_task(_end())
            await asyncio.Event().wait()
        if tool == "sleep":
            await asyncio.sleep(args["secs"])
        return None

    async def close(self) -> None:
        return


async def _end() -> None:
    raise SystemExit(1)


class LabSources:
    """A source of every id, in place of the store."""

    def __init__(self, settings: Settings) -> None:
        self.registry = Registry([LabConnector()], settings)

    async def open_config(
        self, org_id: UUID, source_id: UUID
    ) -> tuple[Source, Connector, BaseModel]:
        if org_id == source_id:
            raise NotFoundError("no such source")
        connector = self.registry.get("lab")
        now = datetime.now(UTC)
        source = Source(
            id=source_id, org_id=org_id, name="lab", connector="lab", realm="default", config={},
            config_version=1, sync_mode="full", schedule="manual", egress={}, retention_days=30,
            status="ready", enabled=True, current_package_id=None, last_error=None,
            created_by=None, created_at=now, updated_at=now,
        )  # fmt: skip
        return source, connector, ConnectorConfig()

    async def version(self, org_id: UUID, source_id: UUID) -> int:
        return 1


async def open_lab(settings: Settings) -> LabSources:
    """What session hosts of a test open in place of the store."""
    return LabSources(settings)


@dataclass
class Call:
    """A tool that reported and waits."""

    tool: str
    pid: int
    name: str | None
    writer: asyncio.StreamWriter = field(repr=False)

    def release(self, word: str = "done") -> None:
        """Let it go on, with ``word`` as its result."""
        self.writer.write(word.encode() + b"\n")
        self.writer.close()


class Harbour:
    """Where tools report."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.arrived: asyncio.Queue[Call] = asyncio.Queue()
        self._writers: list[asyncio.StreamWriter] = []

    async def next(self) -> Call:
        """The next tool that reports."""
        return await asyncio.wait_for(self.arrived.get(), LIMIT_SECS)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        line = await reader.readline()
        if line:
            said = json.loads(line)
            await self.arrived.put(Call(said["tool"], said["pid"], said["name"], writer))

    def close(self) -> None:
        """Let go of every tool that still waits.

        One that is left to the garbage collector would be finalised on whichever thread runs it,
        and take a new connection with the same descriptor out of its event loop.
        """
        for writer in self._writers:
            writer.close()

    def request(
        self,
        source_id: UUID,
        tool: str = "report",
        effect: Effect = Effect.READ,
        within: float = LIMIT_SECS,
        **args: Any,
    ) -> ToolRequest:
        """A call of a lab tool."""
        return ToolRequest(
            tool_call_id=new_id(),
            org_id=ORG,
            source_id=source_id,
            connector="lab",
            tool=tool,
            args={"harbour": self.path, **args},
            effect=effect,
            deadline=datetime.now(UTC) + timedelta(seconds=within),
            idempotency_key="key",
        )


@asynccontextmanager
async def open_harbour() -> AsyncIterator[Harbour]:
    with tempfile.TemporaryDirectory(prefix="lab-") as folder:
        harbour = Harbour(str(Path(folder) / "s"))
        server = await asyncio.start_unix_server(harbour.serve, harbour.path)
        try:
            yield harbour
        finally:
            server.close()
            harbour.close()
