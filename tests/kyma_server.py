"""A kyma to test against: the embedded engine in a process of its own, or a real server.

With ``KYMA_TEST_URL`` set the real one is taken, ``KYMA_TEST_FLIGHT_URL`` and ``KYMA_TEST_TOKEN``
(role admin) beside it. Every test makes its own database, by a name that nobody else has.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pyarrow as pa
import pyarrow.flight as fl

TOKENS = {"read": "tok-read", "write": "tok-write", "admin": "tok-admin"}


@dataclass(frozen=True)
class KymaServer:
    """Where a server is, tokens by role, and whether it is a real kyma."""

    http_url: str
    flight_url: str | None
    tokens: dict[str, str]
    real: bool = False
    process: asyncio.subprocess.Process | None = field(default=None, repr=False)

    @property
    def token(self) -> str:
        """The token that may do everything."""
        return self.tokens["admin"]

    def database(self) -> str:
        """The name of a database that does not exist yet."""
        return f"test_{secrets.token_hex(6)}"

    def client(self, role: str = "admin", **headers: str) -> httpx2.AsyncClient:
        """An HTTP client with the token of a role; close it."""
        token = self.tokens.get(role)
        bearer = {"authorization": f"Bearer {token}"} if token else {}
        return httpx2.AsyncClient(base_url=self.http_url, headers={**bearer, **headers}, timeout=30)

    def do_get(self, **ticket: str) -> pa.Table:
        """The whole answer to a ticket."""
        with fl.connect(self.flight_url) as client:
            return client.do_get(fl.Ticket(json.dumps(ticket).encode())).read_all()

    async def faults(self, **switches: Any) -> None:
        """Set switches of the embedded engine."""
        async with self.client() as client:
            (await client.post("/dev/faults", json=switches)).raise_for_status()

    async def kill(self) -> None:
        """End the process without a word, and wait for it."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        await self.process.wait()


@asynccontextmanager
async def engine_process(data: Path | str, *options: str, tokens: Path | None = None):
    """The embedded engine over a data folder, in its own process, ready to answer."""
    arguments = ["--data", str(data), "--http-port", "0", "--flight-port", "0", *options]
    if tokens is not None:
        text = "\n".join(f"{token}:{role}" for role, token in TOKENS.items())
        await asyncio.to_thread(tokens.write_text, text)
        arguments += ["--tokens-file", str(tokens)]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "agentcy_ray.devkyma", *arguments, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        line = await asyncio.wait_for(process.stdout.readline(), 30)
        at = json.loads(line)
        yield KymaServer(at["http"], at["flight"], TOKENS if tokens else {}, process=process)
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        await asyncio.wait_for(process.wait(), 30)


@asynccontextmanager
async def kyma_server(folder: Path) -> AsyncIterator[KymaServer]:
    """The server of a test session."""
    if url := os.environ.get("KYMA_TEST_URL"):
        token = os.environ.get("KYMA_TEST_TOKEN", "")
        tokens = {"admin": token} if token else {}
        yield KymaServer(url, os.environ.get("KYMA_TEST_FLIGHT_URL"), tokens, real=True)
        return
    async with engine_process(
        folder / "data", "--test-switches", tokens=folder / "tokens"
    ) as server:
        yield server
