"""A house whose organisation changes its embedding model, and a look at what each space holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

from agentcy_ray.core.errors import AgentcyError
from agentcy_ray.ingest.backfill.finish import IndexFinisher
from agentcy_ray.ingest.backfill.runner import Backfiller
from agentcy_ray.ingest.backfill.store import BackfillStore
from agentcy_ray.ingest.swap.desk import EmbeddingDesk
from agentcy_ray.ingest.swap.opening import open_desk, open_swap_runner
from agentcy_ray.ingest.swap.records import Swap, SwapOptions
from agentcy_ray.ingest.swap.runner import SwapRunner, no_probe
from agentcy_ray.ingest.swap.store import Swaps
from agentcy_ray.jobs.postgres_queue import PostgresQueue
from agentcy_ray.jobs.worker import Beat
from agentcy_ray.retrieval.queries import HybridQuery, SearchHits
from agentcy_ray.retrieval.scripted_embedder import Script, ScriptedEmbedder
from agentcy_ray.retrieval.search import SearchService
from agentcy_ray.retrieval.space import Space
from agentcy_ray.stores.bell import Bell
from tests.ingest.backfill.filling import HookedEmbedder, Models
from tests.ingest.harness import House
from tests.ingest.memory_source import Graph

OLD, NEW = "dim=192,seed=1", "dim=256,seed=2"
_WORDS = """
amber basalt cedar delta ember fjord garnet harbour indigo juniper kelp lichen marble nectar opal
pewter quartz russet sable tundra umber velvet walnut xenon yarrow zephyr
"""
WORDS = _WORDS.split()
Probe = Callable[[str], None]


def library(size: int) -> Graph:
    """``size`` nodes about 26 matters; those of one share its words, and any model finds them."""
    graph = Graph()
    for n in range(size):
        matter = WORDS[n % len(WORDS)]
        about = f"{matter} {matter}stone {matter}work of {matter}land"
        graph.nodes["Item", f"i{n}"] = {"name": f"{about} {n}", "n": n}
    return graph


def scripted(script: str) -> HookedEmbedder:
    return HookedEmbedder(ScriptedEmbedder(Script.read(script)))


def carriers(
    house: House, bell: Bell, models: Models, probe: Probe = no_probe
) -> tuple[SwapRunner, Backfiller]:
    """What carries out swaps, and the backfills that they wait for."""
    queue = PostgresQueue(house.settings, house.db)
    stores = house.stores
    runner = open_swap_runner(house.db, queue, stores.index, models, bell, house.settings)
    filler = Backfiller(
        house.db, house.objects, stores.spaces, models, stores.chunkers,
        IndexFinisher(house.db, stores.spaces, house.settings), house.settings, {}, bell,
    )  # fmt: skip
    return replace(runner, probe=probe), filler


async def carried_out(
    runner: SwapRunner, filler: Backfiller, swap: Swap, beat: Beat | None = None
) -> None:
    """Turns of a swap's job until it needs no other; its space is filled when it waits for that."""
    beat = beat or Beat(1)
    while True:
        beat.again_in = None
        await runner.run(swap.org_id, swap.id, beat)
        if beat.again_in is None:
            return
        await filled(runner, filler, swap)


async def filled(runner: SwapRunner, filler: Backfiller, swap: Swap) -> None:
    """Do the backfill that a swap waits for; what it meets is kept with its row."""
    current = await Swaps(filler.db).get(swap.org_id, swap.id)
    backfills = await runner.backfills.list(swap.org_id, space_id=current.to_space, limit=1)
    assert backfills[0].job_id is not None
    job = await PostgresQueue(filler.settings, filler.db).store.get(
        swap.org_id, backfills[0].job_id
    )
    with suppress(AgentcyError):
        await filler.handle(job, Beat(1, last_attempt=True))


@dataclass
class Swapping:
    """One organisation, its former model and the one that it goes to."""

    house: House
    bell: Bell
    old: HookedEmbedder
    new: HookedEmbedder
    desk: EmbeddingDesk
    search: SearchService
    probes: list[str] = field(default_factory=list)

    @classmethod
    async def of(cls, house: House, bell: Bell, script: str = NEW) -> Swapping:
        old, new = scripted(OLD), scripted(script)
        models = Models({old.info.reference: old, new.info.reference: new})
        house.settings = house.settings.model_copy(update={"embedding_model": old.info.reference})
        house.stores = replace(house.stores, embedders=models, model=old.info.reference)
        search = SearchService(house.db, models, house.stores.spaces, house.settings, bell=bell)
        queue = PostgresQueue(house.settings, house.db)
        desk = open_desk(house.db, queue, models, search.routes, bell, house.settings)
        await house.sync()
        return cls(house, bell, old, new, desk, search)

    @property
    def models(self) -> Models:
        embedders: Any = self.house.stores.embedders
        return embedders

    @property
    def org_id(self) -> UUID:
        return self.house.org_id

    async def plan(self, **options: Any) -> Swap:
        state = await self.desk.swaps.start(
            self.house.principal, self.new.info.reference, SwapOptions(**options)
        )
        return state.swap

    async def carry_out(self, swap: Swap, probe: Probe = no_probe, **how: Any) -> Swap:
        runner, filler = carriers(self.house, self.bell, self.models, probe)
        await carried_out(runner, filler, swap, **how)
        return await self.now(swap)

    async def swap(self, **options: Any) -> Swap:
        return await self.carry_out(await self.plan(**options))

    async def now(self, swap: Swap) -> Swap:
        return (await self.desk.swaps.get(self.org_id, swap.id)).swap

    async def check(self, swap: Swap) -> Swap:
        """Take the figures of a swap that waits anew."""
        await self.desk.swaps.check(self.house.principal, swap.id)
        return await self.carry_out(swap)

    async def ask(self, query: str, **how: Any) -> SearchHits:
        return await self.search.hybrid(self.org_id, None, HybridQuery(query=query, **how))

    async def active(self) -> Space:
        space = await self.house.stores.spaces.active(self.org_id)
        assert space is not None
        return space

    async def statuses(self) -> Mapping[str, str]:
        """Model → status of its space."""
        return {
            space.embedder: space.status
            for space in await self.house.stores.spaces.list(self.org_id)
        }

    async def texts(self, space_id: UUID | None) -> set[tuple[str, str]]:
        """(node, text) of the live chunks of a space."""
        assert space_id is not None
        space = await self.house.stores.spaces.get(self.org_id, space_id)
        async with self.house.db.tenant(self.org_id) as connection:
            rows = await connection.fetch(f"SELECT node_id, text FROM live.{space.table_name}")
        return {(row["node_id"], row["text"]) for row in rows}

    @property
    def backfills(self) -> BackfillStore:
        return self.desk.backfills
