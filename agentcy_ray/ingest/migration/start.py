"""At start-up: what the settings say of engines, and what organisations are on."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

import structlog

from agentcy_ray.core.errors import ConfigError, ConflictError
from agentcy_ray.ingest.migration.requests import MigrationRequests
from agentcy_ray.jobs.postgres_queue import PostgresQueue

if TYPE_CHECKING:
    from agentcy_ray.core.settings import Settings
    from agentcy_ray.stores.postgres import Database

_ON = "SELECT count(*) FROM organizations WHERE context_engine = $1 AND deleted_at IS NULL"
_EMPTY = """
UPDATE organizations o SET context_engine = $2 WHERE context_engine = $1
  AND NOT EXISTS (SELECT 1 FROM packages p WHERE p.org_id = o.id)
"""
_WAITING = """
SELECT o.id FROM organizations o WHERE o.context_engine = 'basic' AND o.deleted_at IS NULL
  AND NOT EXISTS (SELECT 1 FROM engine_migrations m WHERE m.org_id = o.id) ORDER BY o.id
"""
_NEEDS = {
    "basic": "NEO4J_URI to the server that has their graph, so that they can move",
    "advanced": "KYMA_BASE_URL to the one that has their graph, or CONTEXT_ENGINE=advanced",
}
_log = structlog.get_logger(__name__)


async def settle_engines(db: Database, settings: Settings, *, both: bool) -> list[UUID]:
    """Plan what ``CONTEXT_MIGRATION=auto`` asks for; returns the organisations that will move.

    An organisation that had a migration, however it ended, is left to its people. One that never
    published anything is simply put on the engine of the settings where there is only that one.

    Args:
        db: where organisations are.
        settings: of this install.
        both: whether it has a Basic and an Advanced engine.

    Raises:
        ConfigError: organisations have a graph on an engine that this install has not.
    """
    mine = settings.context_engine
    other = "basic" if mine == "advanced" else "advanced"
    async with db.system() as connection:
        if not both:
            await connection.execute(_EMPTY, other, mine)
        stranded = int(await connection.fetchval(_ON, other))
        rows = await connection.fetch(_WAITING)
    if stranded and not both:
        raise ConfigError(
            f"{stranded} organisations have their graph on the {other} engine, and this install "
            f"has none; set {_NEEDS[other]}"
        )
    if stranded and mine == "basic":
        _log.warning(
            "engine_one_way", organisations=stranded,
            hint="they stay on the Advanced engine whatever CONTEXT_ENGINE says",
        )  # fmt: skip
    if mine != "advanced" or settings.context_migration != "auto":
        return []
    requests = MigrationRequests(db, PostgresQueue(settings, db), both=both)
    planned: list[UUID] = []
    for row in rows:
        try:
            await requests.plan(row["id"])
        except ConflictError:  # another process was first
            continue
        planned.append(row["id"])
    return planned
