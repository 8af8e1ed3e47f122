"""Embedded stores with schema and first rows, for benchmarks that need no cluster."""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from agentcy_ray.api.bootstrap import first_boot
from agentcy_ray.context.engine import ContextEngine
from agentcy_ray.context.factory import open_engine
from agentcy_ray.core.settings import Settings
from agentcy_ray.core.tenancy import Principal, Role
from agentcy_ray.stores.embedded import ensure_embedded, stop_embedded
from agentcy_ray.stores.endpoints import Endpoints
from agentcy_ray.stores.migrate import migrate
from agentcy_ray.stores.postgres import Database, open_database


@dataclass(frozen=True)
class Bench:
    """Open stores and the owner of the first organisation."""

    settings: Settings
    endpoints: Endpoints
    db: Database
    engine: ContextEngine
    owner: Principal
    folder: Path


@asynccontextmanager
async def fresh_stores() -> AsyncIterator[Bench]:
    """Stores from nothing; gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="agb-") as name:
        folder = Path(name)
        settings = Settings.load({}, agentcy_state_dir=folder / "s", source_file_roots=(name,))
        want = frozenset({"postgres", "redis", "graph"})
        endpoints = await ensure_embedded(settings, want, until_exit_of=os.getpid())
        await migrate(endpoints.database_url)
        db = await open_database(endpoints.database_url)
        engine = open_engine(settings, endpoints)
        try:
            await engine.prepare()
            boot = await first_boot(db, settings, "a password for benchmarks")
            async with db.tenant(boot.org_id) as connection:
                user_id = await connection.fetchval("SELECT id FROM users")
            owner = Principal(user_id=user_id, org_id=boot.org_id, role=Role.OWNER)
            yield Bench(settings, endpoints, db, engine, owner, folder)
        finally:
            await engine.close()
            await db.close()
            await stop_embedded(settings)
