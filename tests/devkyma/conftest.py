"""One server for the contract tests, and ways to talk to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx2
import orjson
import pytest
from moto.server import ThreadedMotoServer

from tests.kyma_server import KymaServer, kyma_server


@pytest.fixture(scope="session")
async def devkyma(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[KymaServer]:
    """The embedded engine, or the real server that the environment names."""
    async with kyma_server(tmp_path_factory.mktemp("kyma")) as server:
        yield server


@dataclass(frozen=True)
class Talk:
    """One database of a server, over HTTP."""

    server: KymaServer
    client: httpx2.AsyncClient
    database: str

    async def ingest(self, *rows: Any, table: str = "t", **headers: str) -> httpx2.Response:
        """Post rows, or raw bytes."""
        raw = len(rows) == 1 and isinstance(rows[0], bytes)
        body = rows[0] if raw else b"\n".join(map(orjson.dumps, rows))
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.post(
            "/v1/ingest", content=body, headers={"x-table": table, **named}
        )

    async def ask(
        self, text: str, kind: str = "application/sql", **headers: str
    ) -> httpx2.Response:
        """Post a query."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.post(
            "/v1/query", content=text, headers={"content-type": kind, **named}
        )

    async def rows(self, text: str, kind: str = "application/sql", **headers: str) -> list[Any]:
        """The rows of a query that has to succeed."""
        answer = await self.ask(text, kind, **headers)
        assert answer.status_code == 200, answer.text
        rows = [orjson.loads(line) for line in answer.content.splitlines()]
        assert int(answer.headers["x-kyma-rows"]) == len(rows)
        return rows

    async def kql(self, text: str) -> list[Any]:
        """The rows of a KQL query."""
        return await self.rows(text, "application/x-kql")

    async def refused(
        self, text: str, kind: str = "application/sql", **headers: str
    ) -> tuple[int, str]:
        """Status and code of a query that has to fail."""
        answer = await self.ask(text, kind, **headers)
        return answer.status_code, answer.json()["error"]["code"]


@pytest.fixture
async def talk(devkyma: KymaServer) -> AsyncIterator[Talk]:
    """A fresh database."""
    async with fresh(devkyma) as talk:
        yield talk


@pytest.fixture(scope="module")
async def module_talk(devkyma: KymaServer) -> AsyncIterator[Talk]:
    """A database for the tests of a file."""
    async with fresh(devkyma) as talk:
        yield talk


@asynccontextmanager
async def fresh(server: KymaServer) -> AsyncIterator[Talk]:
    """A database that does not exist yet."""
    database = server.database()
    async with server.client(**{"x-database": database}) as client:
        yield Talk(server, client, database)


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """A server that speaks S3, with the bucket ``kyma``."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    httpx2.put(f"{endpoint}/kyma").raise_for_status()
    yield endpoint
    server.stop()
