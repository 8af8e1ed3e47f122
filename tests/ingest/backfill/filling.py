"""A house with a second space to fill, and a look at what a backfill left in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from agentcy_ray.core.batches import DOCUMENTS, NODES
from agentcy_ray.core.errors import EmbedderRefusedError
from agentcy_ray.ingest.backfill.reading import one
from agentcy_ray.ingest.backfill.records import Backfill, BackfillOptions, Engine
from agentcy_ray.ingest.backfill.runner import Backfiller
from agentcy_ray.ingest.backfill.store import BackfillStore
from agentcy_ray.ingest.chains import load_state
from agentcy_ray.jobs.postgres_queue import PostgresQueue
from agentcy_ray.jobs.records import Job
from agentcy_ray.jobs.worker import Beat
from agentcy_ray.retrieval.embedder import Embedded, Embedder, EmbedderInfo, Vectors
from agentcy_ray.retrieval.passages import chunk_batch
from agentcy_ray.retrieval.scripted_embedder import Script, ScriptedEmbedder
from agentcy_ray.retrieval.space import Space
from agentcy_ray.stores.postgres import Database
from tests.ingest.harness import House

MODEL = "dim=16,seed=1"
Hook = Callable[[Sequence[str]], Awaitable[None]]


@dataclass
class HookedEmbedder:
    """The scripted model; a test may look at each call, hold it up, or have texts refused."""

    inner: ScriptedEmbedder = field(default_factory=lambda: ScriptedEmbedder(Script.read(MODEL)))
    texts: list[str] = field(default_factory=list)
    hook: Hook | None = None
    refused: str = ""
    """Texts that hold this word are refused."""

    @property
    def info(self) -> EmbedderInfo:
        return self.inner.info

    async def embed(self, texts: Sequence[str]) -> Vectors:
        return (await self.embed_metered(texts)).vectors

    async def embed_metered(self, texts: Sequence[str]) -> Embedded:
        self.texts += texts
        if self.hook is not None and texts:
            await self.hook(texts)
        if self.refused and any(self.refused in text for text in texts):
            raise EmbedderRefusedError("one of the texts is refused", texts=True)
        return await self.inner.embed_metered(texts)


def slow_model() -> HookedEmbedder:
    """One that takes its time: a pipeline of another process is met while it works."""
    return HookedEmbedder(ScriptedEmbedder(Script.read(f"{MODEL},ms=50")))


@dataclass
class Models:
    """The embedder of each space."""

    known: Mapping[str, Embedder]

    async def of(self, reference: str) -> Embedder:
        return self.known[reference]


class PlainFinisher:
    """All indexes in one transaction, and a recall that was looked at by nobody."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def index(self, space: Space, tell: Callable[[str], None]) -> None:
        async with self._db.system() as connection:
            await connection.execute(
                "SELECT build_vector_indexes($1, $2, $3, 16, 64)",
                space.id, space.storage, space.distance,
            )  # fmt: skip

    async def recall(self, space: Space) -> Mapping[str, Any]:
        return {"mean": 1.0}


@dataclass
class Filling:
    """A house, the space that is to be filled, and who fills it."""

    house: House
    space: Space
    model: HookedEmbedder
    claims: int = 0

    @classmethod
    async def of(cls, house: House, model: HookedEmbedder | None = None, **how: Any) -> Filling:
        """A space that is being built, beside the one that syncs made."""
        model = model or HookedEmbedder()
        models = Models({"words": house.embedder, model.info.reference: model})
        house.settings = house.settings.model_copy(update={"embedding_model": "words"})
        house.stores = replace(house.stores, embedders=models, model="words")
        await house.sync()
        space = await house.stores.spaces.create(house.org_id, model.info, storage="vector", **how)
        return cls(house, space, model)

    @property
    def store(self) -> BackfillStore:
        house = self.house
        return BackfillStore(house.db, PostgresQueue(house.settings, house.db), house.stores.spaces)

    def filler(self, **how: Any) -> Backfiller:
        house = self.house
        given: dict[str, Any] = {
            "db": house.db, "objects": house.objects, "spaces": house.stores.spaces,
            "embedders": house.stores.embedders, "chunkers": house.stores.chunkers,
            "finisher": PlainFinisher(house.db), "settings": house.settings, "drivers": {},
        }  # fmt: skip
        return Backfiller(**{**given, **how})

    async def start(self, engine: Engine = "coordinator", **options: Any) -> Backfill:
        chosen = BackfillOptions(**{"block_chunks": 16, **options})
        return await self.store.start(
            self.house.org_id, self.space.id, engine=engine, options=chosen
        )

    async def attempt(
        self, backfill: Backfill, *, beat: Beat | None = None, last: bool = True, **how: Any
    ) -> Backfill:
        """One attempt at a backfill, as a worker would make it."""
        self.claims += 1
        job = await self.job(backfill)
        await self.filler(**how).handle(job, beat or Beat(self.claims, last_attempt=last))
        return await self.get(backfill)

    async def get(self, backfill: Backfill) -> Backfill:
        return await self.store.get(self.house.org_id, backfill.id)

    async def job(self, backfill: Backfill) -> Job:
        assert backfill.job_id is not None
        queue = PostgresQueue(self.house.settings, self.house.db)
        return await queue.store.get(self.house.org_id, backfill.job_id)

    # -- what is in the space -------------------------------------------------------------

    async def held(self) -> Counter[tuple[str, str]]:
        """(node id, text) of the live chunks of the space."""
        async with self.house.db.tenant(self.house.org_id) as connection:
            rows = await connection.fetch(
                f"SELECT node_id, text FROM {self.space.table_name} WHERE archived_at IS NULL"
            )
        return Counter((row["node_id"], row["text"]) for row in rows)

    async def wanted(self) -> Counter[tuple[str, str]]:
        """What the current package of the source cuts into."""
        house = self.house
        current: UUID | None = (await house.row())["current_package_id"]
        state = await load_state(house.db, house.objects, house.org_id, current, Path("unused"))
        nodes = one(list(state.stream("nodes", NODES.names)), NODES)
        documents = one(list(state.stream("documents", DOCUMENTS.names)), DOCUMENTS)
        chunker = house.stores.chunkers.of(self.space.chunking)
        chunks = chunk_batch(nodes, documents, chunker, seen_at=datetime.now(UTC))
        return Counter(zip(chunks["node_id"].to_pylist(), chunks["text"].to_pylist(), strict=True))

    async def assert_complete(self) -> None:
        """The space holds each chunk of the current package once, and nothing else."""
        held, wanted = await self.held(), await self.wanted()
        assert not wanted - held, f"{(wanted - held).total()} chunks are lost"
        assert not held - wanted, f"{(held - wanted).total()} chunks are too many"

    async def status(self) -> str:
        return (await self.house.stores.spaces.get(self.house.org_id, self.space.id)).status
