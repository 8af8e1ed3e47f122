"""Where a secret may have got out to, on a machine that runs: files, memory, stores, processes."""

from __future__ import annotations

import base64
import mmap
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import asyncpg
import psutil
from redis.asyncio import Redis

from agentcy_ray.core.settings import Settings
from agentcy_ray.stores.embedded import read_endpoints
from agentcy_ray.stores.embedded.layout import Layout
from agentcy_ray.stores.embedded.postgres import USER
from agentcy_ray.stores.embedded.postgres_login import superuser_url
from tests.e2e.conftest import Machine, command


def spellings(secret: str) -> list[bytes]:
    """A secret of letters and digits as it stands in text, hexadecimal and base64."""
    raw = secret.encode()
    found = [raw, raw.hex().encode(), raw.hex().upper().encode(), raw[::-1]]
    for shift in range(3):  # what goes before it moves the groups of six bits
        text = base64.b64encode(b"\0" * shift + raw).rstrip(b"=")
        found.append(text[-(-shift * 8 // 6) : len(raw) * 8 // 6 - 1])
    return found


class Leaks:
    """Collects the places where one of the secrets is found."""

    def __init__(self, secret: str, exact: Iterable[str], control: str) -> None:
        """Take what must not be found.

        Args:
            secret: looked for in every spelling.
            exact: looked for as they are.
            control: what is no secret and was kept, so that we know that looking finds it.
        """
        self.needles = [*spellings(secret), *(each.encode() for each in exact)]
        self.control = control.encode()
        self.found: list[str] = []
        self.seen: list[str] = []
        """Places of the control."""
        self.bytes = 0

    def look(self, where: str, content: bytes | mmap.mmap) -> None:
        """Search one piece."""
        self.bytes += len(content)
        if any(content.find(needle) >= 0 for needle in self.needles):
            self.found.append(where)
        if content.find(self.control) >= 0:
            self.seen.append(where)

    def files(self, folder: Path, *, without: Iterable[Path] = ()) -> int:
        """Search every file below a folder; gives how many there were."""
        count, passed = 0, {path.resolve() for path in without}
        for path in _files(folder):
            if path.resolve() in passed:
                continue
            try:
                with path.open("rb") as file:
                    size = os.fstat(file.fileno()).st_size
                    if size:
                        with mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as content:
                            self.look(str(path), content)
                count += 1
            except (FileNotFoundError, PermissionError, ValueError):
                continue  # removed meanwhile, or cut while we mapped it
        return count

    def object_store(self, machine: Machine) -> int:
        """Search Ray's shared memory, which holds every object of the cluster; gives its bytes."""
        size = 0
        for raylet in machine.processes("raylet/raylet", "ray::raylet", "/raylet "):
            for link in Path(f"/proc/{raylet.pid}/fd").iterdir():
                try:
                    if "plasma" not in str(link.readlink()):
                        continue
                    with link.open("rb") as file:
                        content = file.read()
                except OSError:
                    continue
                size += len(content)
                self.look(f"object store of {raylet.pid}", content)
        return size

    async def postgres(self, settings: Settings) -> int:
        """Search every column of every table, binary ones as hexadecimal; gives the tables."""
        endpoints = read_endpoints(settings)
        assert endpoints is not None
        data = Layout(settings.state_dir).data("postgres")
        connection = await asyncpg.connect(superuser_url(data, USER, endpoints.database_url))
        try:
            tables = await connection.fetch(
                "SELECT c.oid::regclass::text AS name FROM pg_class c"
                " JOIN pg_namespace n ON n.oid = relnamespace WHERE relkind = 'r'"
                " AND nspname NOT IN ('pg_catalog', 'information_schema')"
            )
            words = "|".join(sorted({re.escape(needle.decode()) for needle in self.needles}))
            for table in tables:
                hits = await connection.fetchval(
                    f"SELECT count(*) FROM {table['name']} t WHERE t::text ~ $1", words
                )
                if hits:
                    self.found.append(f"{hits} rows of {table['name']}")
                if await connection.fetchval(
                    f"SELECT count(*) FROM {table['name']} t WHERE strpos(t::text, $1) > 0",
                    self.control.decode(),
                ):
                    self.seen.append(f"rows of {table['name']}")
            return len(tables)
        finally:
            await connection.close()

    async def redis(self, settings: Settings) -> int:
        """Search every key with its value; gives how many there are."""
        endpoints = read_endpoints(settings)
        assert endpoints is not None
        redis, count = Redis.from_url(endpoints.redis_url), 0
        readers = {
            b"string": redis.get, b"hash": redis.hgetall, b"set": redis.smembers,
            b"list": lambda key: redis.lrange(key, 0, -1),
            b"zset": lambda key: redis.zrange(key, 0, -1),
        }  # fmt: skip
        async for key in redis.scan_iter():
            value = await readers[await redis.type(key)](key) if await redis.exists(key) else None
            self.look(f"Redis {key!r}", repr((key, value)).encode())
            count += 1
        await redis.aclose()
        return count

    def processes(self, machine: Machine, *, need_none: Iterable[psutil.Process]) -> int:
        """Search command lines of all processes, and environments of those that need no secret."""
        ours = [psutil.Process(machine.pid), *psutil.Process(machine.pid).children(recursive=True)]
        for process in ours:
            self.look(f"command line of {process.pid}", command(process).encode())
        for process in need_none:
            content = Path(f"/proc/{process.pid}/environ").read_bytes()
            assert content is not None
            self.look(f"environment of {process.name()}", content)
        return len(ours)


def _files(folder: Path) -> Iterator[Path]:
    for place, _, names in os.walk(folder):
        for name in names:
            path = Path(place, name)
            if path.is_file() and not path.is_symlink():
                yield path
