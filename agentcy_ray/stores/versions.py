"""What we need of the stores, and whether given facts satisfy it. Pure: facts come from outside."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agentcy_ray.core.errors import ConfigError

POSTGRES_MINIMUM = (14,)
VECTOR_MINIMUM = (0, 5, 0)
REDIS_MINIMUM = (6,)
NEO4J_MINIMUM = (5, 13)
KERNEL_MINIMUM = (4, 19)
DOCKER_MINIMUM = (24,)
CONTAINERD_MINIMUM = (1, 6)
KUBERNETES_MINIMUM = (1, 27)

UUID_EXTENSIONS = ("pgcrypto", "uuid-ossp")


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    name: str
    ok: bool
    found: str
    needed: str = ""
    remedy: str = ""
    """What to do; empty when it is fine."""
    advisory: bool = False
    """Whether a start goes on when it is not fine."""


@dataclass(frozen=True, slots=True)
class Extension:
    """One Postgres extension: the version installed in this database, the one on offer."""

    installed: str | None = None
    offered: str | None = None
    creatable: bool = False
    """Whether ``CREATE EXTENSION`` by this user succeeds."""


@dataclass(frozen=True, slots=True)
class PostgresFacts:
    """What a database says about itself."""

    version: str
    builtin_uuid: bool
    """Whether ``gen_random_uuid()`` exists without an extension."""
    extensions: Mapping[str, Extension]


def at_least(version: str, minimum: tuple[int, ...]) -> bool:
    """Whether the leading numbers of ``version`` reach ``minimum``; False when it has none."""
    # a number that does not belong to a word, as the 4 of Neo4j does
    found = re.search(r"(?:^|[^A-Za-z0-9.])v?(\d+(?:\.\d+)*)", version)
    return found is not None and tuple(map(int, found[1].split("."))) >= minimum


def version_check(name: str, found: str, minimum: tuple[int, ...], remedy: str) -> Check:
    """A check on a version number."""
    needed = f">= {'.'.join(map(str, minimum))}"
    fine = at_least(found, minimum)
    return Check(name, fine, found, needed, "" if fine else remedy)


def postgres_checks(facts: PostgresFacts) -> list[Check]:
    """Version, ``vector``, ``pg_trgm`` and a UUID generator."""
    return [
        version_check(
            "postgres", facts.version, POSTGRES_MINIMUM,
            "move to PostgreSQL 14 or later (16 recommended), or unset DATABASE_URL",
        ),
        _vector_check(facts.extensions.get("vector", Extension())),
        _extension_check("pg_trgm", facts.extensions.get("pg_trgm", Extension())),
        _uuid_check(facts),
    ]  # fmt: skip


def _extension_check(name: str, facts: Extension) -> Check:
    statement = f'CREATE EXTENSION "{name}";'
    if facts.installed is not None:
        return Check(name, True, facts.installed, "installed")
    if facts.creatable:
        return Check(name, True, f"{facts.offered}, created at start-up", "installed")
    if facts.offered is not None:
        remedy = f"as an administrator of this database run: {statement}"
    else:
        remedy = f"install the extension on the database server, then run: {statement}"
    return Check(name, False, "absent", "installed", remedy)


def _vector_check(facts: Extension) -> Check:
    check = _extension_check("vector", facts)
    version = facts.installed or facts.offered
    if not check.ok or version is None:
        return check
    newer = facts.offered is not None and at_least(facts.offered, VECTOR_MINIMUM)
    return version_check(
        "vector", version, VECTOR_MINIMUM,
        "as an administrator of this database run: ALTER EXTENSION vector UPDATE;" if newer
        else "install pgvector 0.5.0 or later (0.8 recommended) on the database server",
    )  # fmt: skip


def _uuid_check(facts: PostgresFacts) -> Check:
    needed = "gen_random_uuid(), pgcrypto or uuid-ossp"
    if facts.builtin_uuid:
        return Check("uuid", True, "gen_random_uuid()", needed)
    for name in UUID_EXTENSIONS:
        extension = facts.extensions.get(name, Extension())
        if extension.installed is not None or extension.creatable:
            return Check("uuid", True, name, needed)
    return Check(
        "uuid", False, "none", needed,
        'as an administrator of this database run: CREATE EXTENSION "pgcrypto";',
    )  # fmt: skip


def redis_check(version: str) -> Check:
    """``redis_version`` of ``INFO server``."""
    return version_check(
        "redis", version, REDIS_MINIMUM, "move to Redis 6 or later, or unset REDIS_URL"
    )


def graph_check(agent: str) -> Check:
    """The agent text of a Bolt server, such as ``Neo4j/5.26.0``."""
    return version_check(
        "graph", agent, NEO4J_MINIMUM, "move to Neo4j 5.13 or later, or unset NEO4J_URI"
    )


def require(checks: Sequence[Check]) -> None:
    """Refuse a start that some check forbids.

    Raises:
        ConfigError: names what was found, what is needed and what to do, of every failed check.
    """
    faults = [
        f"{check.name}: found {check.found}, needs {check.needed}; {check.remedy}"
        for check in checks
        if not check.ok and not check.advisory
    ]
    if faults:
        raise ConfigError(
            "the stores do not allow a start:\n  " + "\n  ".join(faults), faults=faults
        )
