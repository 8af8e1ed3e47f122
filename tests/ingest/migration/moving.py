"""One organisation on its way from Basic to Advanced, and what either engine shows of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from agentcy_ray.context.advanced.arriving import Arriving
from agentcy_ray.context.advanced.store import Store
from agentcy_ray.context.engine import ContextEngine, Query, Scope
from agentcy_ray.context.migration.records import Migration
from agentcy_ray.context.migration.router import EngineRouter
from agentcy_ray.context.migration.store import Migrations
from agentcy_ray.ingest.migration.requests import MigrationRequests
from agentcy_ray.ingest.migration.runner import MigrationRunner, no_probe
from agentcy_ray.jobs.postgres_queue import PostgresQueue
from agentcy_ray.jobs.worker import Beat
from agentcy_ray.stores.endpoints import Endpoints
from tests.ingest.harness import House

Shown = dict[str, tuple[Any, ...]]


@dataclass
class Moving:
    """A house over both engines, and its migration."""

    house: House
    router: EngineRouter
    endpoints: Endpoints

    def hooked(self, arriving: Arriving) -> Moving:
        """The same house with another way into Advanced."""
        engines = replace(self.router.engines, arriving=arriving)
        router = EngineRouter(engines, self.house.db, default="basic")
        self.house.stores = replace(self.house.stores, engine=router)
        return Moving(self.house, router, self.endpoints)

    @property
    def store(self) -> Store:
        """Where Advanced reads and appends."""
        engine: Any = self.router.engines.advanced
        return engine.store

    @property
    def requests(self) -> MigrationRequests:
        queue = PostgresQueue(self.house.settings, self.house.db)
        return MigrationRequests(self.house.db, queue, both=True)

    def runner(self, probe: Callable[[str], None] = no_probe) -> MigrationRunner:
        house = self.house
        return MigrationRunner(
            house.db, self.router, house.objects, house.settings, probe=probe, grace_secs=0.05
        )

    async def plan(self) -> Migration:
        return (await self.requests.start(self.house.principal)).migration

    async def carry_out(
        self, migration: Migration, *, probe: Callable[[str], None] = no_probe,
        beat: Beat | None = None,
    ) -> Migration:  # fmt: skip
        await self.runner(probe).run(migration.org_id, migration.id, beat or Beat(1))
        return await self.now(migration)

    async def now(self, migration: Migration) -> Migration:
        return await Migrations(self.house.db).get(migration.org_id, migration.id)

    async def move(self) -> Migration:
        return await self.carry_out(await self.plan())

    async def both(self) -> tuple[Shown, Shown]:
        """What Basic and Advanced show."""
        engines = self.router.engines
        return await self.shown(engines.basic), await self.shown(engines.advanced)

    async def engine_named(self) -> str:
        """What the organisation's row says."""
        async with self.house.db.tenant(self.house.org_id) as connection:
            return await connection.fetchval("SELECT context_engine FROM organizations")

    async def shown(self, engine: ContextEngine) -> Shown:
        """Everything that an engine shows: nodes with all their fields, edges with their ends."""
        scope = Scope(org_id=self.house.org_id)
        picture = await engine.overview(scope, 2_000)
        assert not picture.truncated
        found: Shown = {
            node.id: (node.model_dump(exclude={"degree", "labels"}), sorted(node.labels))
            for node in picture.nodes
        }
        return found | {edge.id: (edge.model_dump(),) for edge in picture.edges}

    async def answered_by(self) -> str:
        """The engine that answers a query of the organisation now."""
        query = Query(text="MATCH (n) RETURN count(n) AS n")
        return (await self.router.query(Scope(org_id=self.house.org_id), query)).engine
