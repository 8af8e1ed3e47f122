"""A graph server over Bolt: ArcadeDB's native build, in a process of its own.

A query's own time limit is not honoured over Bolt and an access mode does not make a session
read-only here, hence two things that provisioning sets: a time limit per database, and a second
user who may only read.
"""

from __future__ import annotations

import asyncio
import base64
import json
import signal
import sys
import urllib.error
import urllib.request
from typing import Any, ClassVar

from agentcy_ray.core.errors import StoreUnavailableError
from agentcy_ray.stores.embedded.layout import kept_password, write_private
from agentcy_ray.stores.embedded.processes import StopStep
from agentcy_ray.stores.embedded.server import Launch, Server, package_dir

ROOT = "root"
READER = "reader"
DATABASE = "agentcy"
GRAPH_SERVER = "agentcy_ray.stores.embedded.graph_server"
PROBE_SECS = 5.0

DATABASE_SETTINGS = {
    "arcadedb.command.timeout": 30_000,  # milliseconds: the default time limit of a query
    "arcadedb.txWalFlush": 1,  # a commit is on disk before it is acknowledged
}

GROUPS: dict[str, Any] = {
    "admin": {
        "resultSetLimit": -1,
        "readTimeout": -1,
        "access": ["updateSecurity", "updateSchema", "updateDatabaseSettings"],
        "types": {
            "*": {"access": ["createRecord", "readRecord", "updateRecord", "deleteRecord"]},
        },
    },
    "readonly": {
        "resultSetLimit": -1,
        "readTimeout": -1,
        "access": [],
        "types": {"*": {"access": ["readRecord"]}},
    },
    "*": {
        "resultSetLimit": -1,
        "readTimeout": -1,
        "access": [],
        "types": {"*": {"access": []}},
    },
}
"""``server-groups.json`` as the server writes it itself, plus ``readonly``."""

# The four bytes that open a Bolt connection, then four proposals: 5.0 to 5.4, 4.4, none, none.
BOLT_HANDSHAKE = bytes.fromhex("6060b017 00040405 00000404 00000000 00000000")


class ArcadeDB(Server):
    """The embedded graph server."""

    name: ClassVar = "graph"
    program: ClassVar = GRAPH_SERVER
    port_names: ClassVar = ("bolt", "http")
    preferred_ports: ClassVar = {"bolt": 7687}
    stop_steps: ClassVar[tuple[StopStep, ...]] = ((signal.SIGTERM, 15.0),)
    death_signal: ClassVar = signal.SIGTERM

    async def prepare(self) -> None:
        """Write the groups before the start, which is when the server reads them."""
        package_dir("arcadedb")
        self.data.mkdir(exist_ok=True, mode=0o700)
        config = self.data / "config"
        config.mkdir(exist_ok=True, mode=0o700)
        self._password = kept_password(self.data / "password")
        self._reader_password = kept_password(self.data / "reader-password")
        groups = {"databases": {"*": {"groups": GROUPS}}, "version": 2}
        write_private(config / "server-groups.json", json.dumps(groups, indent=2))

    def launch(self) -> Launch:
        """This Python with the graph server as its main module."""
        return Launch(
            argv=(
                *(sys.executable, "-m", GRAPH_SERVER),
                *("--root", str(self.data), "--database", DATABASE),
                *("--password-file", str(self.data / "password")),
                *("--bolt-port", str(self.ports["bolt"])),
                *("--http-port", str(self.ports["http"])),
            ),
            cwd=self.data,
        )

    async def probe(self) -> bool:
        """Ready by HTTP, and Bolt agrees on a version."""
        try:
            async with asyncio.timeout(PROBE_SECS):
                reader, writer = await asyncio.open_connection("127.0.0.1", self.ports["bolt"])
                try:
                    writer.write(BOLT_HANDSHAKE)
                    version = await reader.readexactly(4)
                finally:
                    writer.close()
            return version != bytes(4) and await self._request("GET", "ready") == 204
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            return False

    async def provision(self) -> str:
        """Create the reader, set the time limit."""
        try:
            if await self._request("GET", "databases", user=READER) != 200:
                user = {
                    "name": READER,
                    "password": self._reader_password,
                    "databases": {DATABASE: ["readonly"]},
                }
                await self._require("server", {"command": f"create user {json.dumps(user)}"})
            for name, value in DATABASE_SETTINGS.items():
                command = f"ALTER DATABASE `{name}` {value}"
                await self._require(f"command/{DATABASE}", {"language": "sql", "command": command})
        except (OSError, TimeoutError) as error:
            raise StoreUnavailableError(f"the graph server refused its set-up: {error}") from error
        from importlib.metadata import version

        return f"ArcadeDB {version('arcadedb')}"

    def endpoints(self) -> dict[str, str]:
        """One address, a writer and a reader."""
        return {
            "neo4j_uri": f"bolt://127.0.0.1:{self.ports['bolt']}",
            "neo4j_user": ROOT,
            "neo4j_password": self._password,
            "neo4j_database": DATABASE,
            "neo4j_reader_user": READER,
            "neo4j_reader_password": self._reader_password,
        }

    async def _require(self, path: str, body: dict[str, Any]) -> None:
        status = await self._request("POST", path, body)
        if status != 200:
            raise StoreUnavailableError(f"the graph server answered {status} to {path}")

    async def _request(
        self, method: str, path: str, body: dict[str, Any] | None = None, user: str = ROOT
    ) -> int:
        password = self._password if user == ROOT else self._reader_password
        token = base64.b64encode(f"{user}:{password}".encode()).decode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.ports['http']}/api/v1/{path}",
            method=method,
            data=json.dumps(body).encode() if body is not None else None,
            headers={"Authorization": f"Basic {token}", "Content-Type": "application/json"},
        )
        return await asyncio.to_thread(_status_of, request)


def _status_of(request: urllib.request.Request) -> int:
    # no proxy: the server is on loopback, whatever HTTP_PROXY says
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=PROBE_SECS) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
