"""One contract for vectors in Postgres, in Qdrant and in Pinecone: written, changed, hidden, found.

Qdrant is the server of ``QDRANT_TEST_URL`` where that is set, else its client's own engine;
Pinecone is its client over a loopback server that is as strict as the service.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from qdrant_client import AsyncQdrantClient

from agentcy_ray.core.errors import ConfigError, InvalidError, StoreUnavailableError
from agentcy_ray.core.ids import encode, new_id
from agentcy_ray.core.settings import Settings
from agentcy_ray.retrieval.backed_index import BackedIndex
from agentcy_ray.retrieval.embedder import Vectors, metered, no_vectors, vectors_of
from agentcy_ray.retrieval.one_embedder import OneEmbedder
from agentcy_ray.retrieval.pinecone_store import PineconeStore
from agentcy_ray.retrieval.qdrant_store import QdrantStore
from agentcy_ray.retrieval.queries import Filters, HybridQuery, RagQuery
from agentcy_ray.retrieval.recall import recall_at
from agentcy_ray.retrieval.search import SearchService
from agentcy_ray.retrieval.spaces import Space, SpaceStore
from agentcy_ray.retrieval.vector_backends import VectorBackends
from agentcy_ray.retrieval.vector_store import VectorStore
from agentcy_ray.stores.migrate import migrate
from agentcy_ray.stores.postgres import Database, open_database
from tests.conformance.pinecone_double import KEY, PineconeDouble
from tests.conftest import MakeDatabase
from tests.retrieval.chunks import SOURCE, ChosenEmbedder, at, batch, chunk, units

pytestmark = pytest.mark.requirement("RAG-03")

DIM = 8
EAST = np.eye(DIM, dtype=np.float32)[0]
ANYTHING = Filters()


def near(share: float) -> list[float]:
    """A direction whose cosine to ``EAST`` is ``share``."""
    return [share, (1 - share * share) ** 0.5, *[0.0] * (DIM - 2)]


@dataclass
class Shelf:
    """A backend with what a test needs of it."""

    backend: str
    db: Database
    settings: Settings
    backends: VectorBackends
    embedder: ChosenEmbedder = field(default_factory=lambda: ChosenEmbedder(DIM))

    def __post_init__(self) -> None:
        self.spaces = SpaceStore(self.db, self.settings)
        self.index = BackedIndex(self.db, self.settings, self.backends)
        self.search = SearchService(
            self.db,
            OneEmbedder(metered(self.embedder)),
            self.spaces,
            self.settings,
            backends=self.backends,
        )

    @property
    def remote(self) -> VectorStore | None:
        return None if self.backend == "pgvector" else self.backends.of(self.backend)

    async def space(self) -> Space:
        """The space of a new organisation."""
        org = new_id()
        async with self.db.system() as connection:
            await connection.execute(
                "INSERT INTO organizations (id, name, display_name) VALUES ($1, $2, 'Acme')",
                org,
                f"org-{org.hex}",
            )
        return await self.spaces.ensure_active(org, self.embedder.info)

    async def put(self, space: Space, *rows: dict[str, Any]) -> int:
        vectors = await self.embedder.embed([row["text"] for row in rows])
        return await self.index.upsert(space, batch(rows), vectors)

    async def found(
        self, space: Space, realms: Sequence[str] | None = None, limit: int = 10, **filters: Any
    ) -> list[str]:
        """Texts nearest to ``EAST``, by way of their keys."""
        hits = await self.index.nearest(space, EAST, realms, Filters(**filters), limit)
        async with self.db.tenant(space.org_id) as connection:
            rows = await connection.fetch(f"SELECT chunk_key, text FROM {space.table_name}")
        texts = {row["chunk_key"]: row["text"] for row in rows}
        assert [near for _, near in hits] == sorted((near for _, near in hits), reverse=True)
        return [texts[key] for key, _ in hits]


@pytest.fixture(scope="module")
async def db(make_database: MakeDatabase) -> AsyncIterator[Database]:
    url = await make_database()
    await migrate(url)
    database = await open_database(url, pool_max=6)
    yield database
    await database.close()


@pytest.fixture(scope="module")
async def pinecone() -> AsyncIterator[PineconeDouble]:
    double = PineconeDouble(DIM)
    yield double
    await double.close()


@pytest.fixture(scope="module")
async def stores(pinecone: PineconeDouble) -> AsyncIterator[dict[str, VectorStore]]:
    settings = Settings.load({})
    url = os.environ.get("QDRANT_TEST_URL")
    client = AsyncQdrantClient(url=url) if url else AsyncQdrantClient(":memory:")
    made: dict[str, VectorStore] = {
        "qdrant": QdrantStore(client, settings),
        "pinecone": PineconeStore(KEY, pinecone.host, None),
    }
    yield made
    for store in made.values():
        await store.close()


@pytest.fixture(params=["pgvector", "qdrant", "pinecone"])
def shelf(request: pytest.FixtureRequest, db: Database, stores: dict[str, VectorStore]) -> Shelf:
    settings = Settings.load({}, vector_backend=request.param)
    return Shelf(request.param, db, settings, VectorBackends(settings, stores))


async def test_the_same_chunks_written_twice_are_there_once(shelf: Shelf) -> None:
    space = await shelf.space()
    rows = [chunk(f"n_{i}", f"text {i}") for i in range(30)]
    assert space.backend == shelf.backend
    assert await shelf.put(space, *rows, rows[0]) == 30
    assert await shelf.put(space, *rows) == 0
    assert await shelf.index.count(space) == 30
    assert await shelf.index.count(space, SOURCE) == 30
    assert await shelf.index.count(space, UUID(int=1)) == 0
    if shelf.remote is not None:
        assert await shelf.remote.count(space) == 30
    assert len(await shelf.found(space, limit=50)) == 30


async def test_the_nearest_come_first_with_their_cosine(shelf: Shelf) -> None:
    space = await shelf.space()
    shares = {"far": -0.5, "fair": 0.5, "good": 0.9, "same": 1.0}
    shelf.embedder.chosen |= {text: near(share) for text, share in shares.items()}
    await shelf.put(space, *[chunk(f"n_{text}", text) for text in shares])
    hits = await shelf.index.nearest(space, EAST, None, ANYTHING, 10)
    assert [value for _, value in hits] == pytest.approx([1.0, 0.9, 0.5, 0.0], abs=1e-3)
    assert await shelf.found(space, limit=2) == ["same", "good"]


async def test_an_empty_space_finds_nothing(shelf: Shelf) -> None:
    space = await shelf.space()
    assert await shelf.found(space) == []
    assert await shelf.index.count(space) == 0
    assert await shelf.index.upsert(space, batch([]), no_vectors(DIM)) == 0
    assert await shelf.index.replace_node_chunks(space, ["n_1"], []) == 0
    assert await shelf.index.archive_nodes(space, ["n_1"], at("2026-01-01")) == 0


async def test_known_chunks_need_no_vector(shelf: Shelf) -> None:
    space = await shelf.space()
    kept, other = chunk("n_1", "one"), chunk("n_2", "two")
    await shelf.put(space, kept, other)
    assert await shelf.index.existing_keys(space, ["n_1", "n_9"]) == {kept["chunk_key"]}


async def test_a_refresh_brings_what_a_search_narrows_by_up_to_date(shelf: Shelf) -> None:
    space = await shelf.space()
    await shelf.put(space, chunk("n_1", "one"), chunk("n_2", "two"))
    moved = chunk(
        "n_1", "one", realm="finance", labels=["Page"], seen_at=at("2026-05-01"),
        properties={"state": "closed"},
    )  # fmt: skip
    assert await shelf.index.refresh(space, batch([moved, chunk("n_2", "two")])) == 1
    assert await shelf.index.refresh(space, batch([moved])) == 0
    assert await shelf.found(space, ["finance"]) == ["one"]
    assert await shelf.found(space, ["development"]) == ["two"]
    assert await shelf.found(space, labels=("Page",), after=at("2026-04-01")) == ["one"]
    assert await shelf.found(space, exclude={"state": "closed"}) == ["two"]


async def test_new_properties_of_a_node_reach_all_its_chunks(shelf: Shelf) -> None:
    space = await shelf.space()
    await shelf.put(space, chunk("n_1", "one"), chunk("n_1", "more", ordinal=1), chunk("n_2", "x"))
    told = batch([chunk("n_1", "whatever", properties={"size": 3.0})])
    assert await shelf.index.refresh_nodes(space, told) == 2
    assert await shelf.index.refresh_nodes(space, told) == 0
    assert await shelf.found(space, exclude={"size": 3}) == ["x"]


async def test_chunks_that_a_node_no_longer_has_are_gone(shelf: Shelf) -> None:
    space = await shelf.space()
    kept = chunk("n_1", "kept")
    await shelf.put(space, kept, chunk("n_1", "stale", ordinal=1), chunk("n_2", "other"))
    assert await shelf.index.replace_node_chunks(space, ["n_1"], [kept["chunk_key"]]) == 1
    assert sorted(await shelf.found(space)) == ["kept", "other"]
    if shelf.remote is not None:
        assert await shelf.remote.count(space) == 2


async def test_an_archived_node_is_hidden_until_it_comes_again(shelf: Shelf) -> None:
    space = await shelf.space()
    row = chunk("n_1", "one")
    await shelf.put(space, row, chunk("n_2", "two"))
    assert await shelf.index.archive_nodes(space, ["n_1"], at("2026-01-01")) == 1
    assert await shelf.index.archive_nodes(space, ["n_1"], at("2026-01-02")) == 0
    assert await shelf.found(space) == ["two"]
    assert await shelf.index.count(space) == 1
    assert await shelf.index.existing_keys(space, ["n_1"]) == set()
    assert await shelf.index.refresh(space, batch([row])) == 1
    assert sorted(await shelf.found(space)) == ["one", "two"]


async def test_pruning_takes_what_was_archived_before_a_time(shelf: Shelf) -> None:
    space = await shelf.space()
    await shelf.put(space, *[chunk(f"n_{i}", f"text {i}") for i in range(3)])
    await shelf.index.archive_nodes(space, ["n_0"], at("2026-01-01"))
    await shelf.index.archive_nodes(space, ["n_1"], at("2026-03-01"))
    assert await shelf.index.prune(space, UUID(int=1), at("2026-02-01")) == 0
    assert await shelf.index.prune(space, SOURCE, at("2026-02-01")) == 1
    if shelf.remote is not None:
        assert await shelf.remote.count(space) == 2


@pytest.mark.requirement("RAG-04")
async def test_filters_come_before_the_limit(shelf: Shelf) -> None:
    space = await shelf.space()
    crowd = [chunk(f"n_{i}", f"crowd {i}", realm="public") for i in range(120)]
    wanted = [
        chunk(
            f"n_w{i}", f"wanted {i}", realm="finance", labels=["Page"], seen_at=at("2026-05-01"),
            source_id=UUID(int=7).hex, properties={"state": "open", "rank": i},
        )
        for i in range(12)
    ]  # fmt: skip
    shelf.embedder.chosen |= {row["text"]: EAST for row in crowd}
    shelf.embedder.chosen |= {row["text"]: near(-0.5) for row in wanted}
    await shelf.put(space, *crowd, *wanted)
    texts = sorted(row["text"] for row in wanted)
    assert sorted(await shelf.found(space, ["finance"], 12)) == texts
    assert sorted(await shelf.found(space, limit=12, labels=("Page",))) == texts
    source = encode("src", UUID(int=7))
    assert sorted(await shelf.found(space, limit=12, sources=(source,))) == texts
    assert await shelf.found(space, sources=("no such source",)) == []
    early, late = at("2026-04-30"), at("2026-05-02")
    assert sorted(await shelf.found(space, limit=12, after=early, before=late)) == texts
    assert await shelf.found(space, before=at("2026-04-30")) == []
    assert await shelf.found(space, after=at("2026-05-02")) == []
    assert await shelf.found(space, []) == []
    others = await shelf.found(space, ["finance"], 12, exclude={"rank": [0, 1, 2]})
    assert sorted(others) == sorted(f"wanted {i}" for i in range(3, 12))


async def test_no_organisation_meets_the_vectors_of_another(shelf: Shelf) -> None:
    mine, theirs = await shelf.space(), await shelf.space()
    row = chunk("n_1", "the same text, and so the same key")
    await shelf.put(mine, row)
    await shelf.put(theirs, row, chunk("n_2", "theirs alone"))
    assert await shelf.found(mine) == [row["text"]]
    await shelf.index.archive_nodes(theirs, ["n_1"], at("2026-01-01"))
    await shelf.index.replace_node_chunks(theirs, ["n_1"], [])
    assert await shelf.found(mine) == [row["text"]]
    assert await shelf.found(theirs) == ["theirs alone"]


async def test_vectors_of_the_wrong_length_are_refused_before_anything_is_written(
    shelf: Shelf,
) -> None:
    space = await shelf.space()
    short: Vectors = vectors_of(units(np.ones((1, DIM - 1))))
    with pytest.raises(InvalidError, match="embedder"):
        await shelf.index.upsert(space, batch([chunk("n_1", "one")]), short)
    assert await shelf.index.count(space) == 0


async def test_a_dropped_space_leaves_nothing_behind(shelf: Shelf) -> None:
    space, other = await shelf.space(), await shelf.space()
    for each in (space, other):
        await shelf.put(each, chunk("n_1", "one"))
    async with shelf.db.system() as connection:  # with its organisation
        await connection.execute("DELETE FROM organizations WHERE id = $1", space.org_id)
    gone = await shelf.backends.drop_gone(shelf.db)
    assert gone == (0 if shelf.remote is None else 1)
    if shelf.remote is not None:
        assert await shelf.remote.count(space) == 0
        assert await shelf.remote.count(other) == 1
    assert await shelf.backends.drop_gone(shelf.db) == 0


async def test_hybrid_and_vector_search_give_every_backend_the_same_scores(shelf: Shelf) -> None:
    space = await shelf.space()
    shelf.embedder.chosen |= {
        "east": EAST, "zyzzyva": EAST, "notes on zyzzyva": near(0.2), "close": near(0.9),
    }  # fmt: skip
    rows = [chunk(f"n_{i}", f"filler {i}") for i in range(60)]
    # No two alike: a graph of copies is one that a walk does not get through.
    shelf.embedder.chosen |= {row["text"]: near(0.2 + i / 200) for i, row in enumerate(rows)}
    await shelf.put(space, *rows, chunk("n_word", "notes on zyzzyva"), chunk("n_near", "close"))
    asked = HybridQuery(query="zyzzyva", vector_weight=0.5, text_weight=0.5)
    hits = (await shelf.search.hybrid(space.org_id, None, asked)).hits
    assert len(hits) == 10
    assert [hit.node_id for hit in hits[:2]] == ["n_word", "n_near"]
    assert hits[0].scores == pytest.approx({"vector": 0.2, "text": 1.0, "recency": 1.0}, abs=1e-3)
    assert hits[0].score == pytest.approx(0.6, abs=1e-3)
    assert hits[1].scores["vector"] == pytest.approx(0.9, abs=1e-3)
    found = (await shelf.search.search(space.org_id, None, RagQuery(query="east", top_k=5))).hits
    assert found[0].node_id == "n_near"
    assert found[0].score == pytest.approx(0.7 * 0.9, abs=1e-3)
    assert len(found) == 5


async def test_what_postgres_hides_is_not_shown_though_a_store_has_not_heard_of_it(
    shelf: Shelf,
) -> None:
    space = await shelf.space()
    await shelf.put(space, chunk("n_1", "one"), chunk("n_2", "two"), chunk("n_3", "three"))
    async with shelf.db.tenant(space.org_id) as connection:
        await connection.execute(
            f"UPDATE {space.table_name} SET archived_at = now() WHERE node_id = 'n_1'"
        )
        await connection.execute(
            f"UPDATE {space.table_name} SET realm = 'secret' WHERE node_id = 'n_2'"
        )
    seen = ["development"]
    hybrid = await shelf.search.hybrid(space.org_id, seen, HybridQuery(query="one"))
    search = await shelf.search.search(space.org_id, seen, RagQuery(query="one"))
    assert [hit.node_id for hit in hybrid.hits] == ["n_3"]
    assert [hit.node_id for hit in search.hits] == ["n_3"]


async def test_recall_of_an_index_is_measured_against_all_vectors(shelf: Shelf) -> None:
    space = await shelf.space()
    await shelf.put(space, *[chunk(f"n_{i}", f"text {i}") for i in range(150)])
    recall = await recall_at(
        shelf.db, shelf.spaces, shelf.settings, space, sample=15, backends=shelf.backends
    )
    assert recall.sampled == 15
    assert recall.mean >= 0.95
    assert (await shelf.spaces.get(space.org_id, space.id)).recall == recall.record()


async def test_a_pinecone_write_stays_within_its_limits(
    pinecone: PineconeDouble, stores: dict[str, VectorStore], db: Database
) -> None:
    settings = Settings.load({}, vector_backend="pinecone")
    shelf = Shelf("pinecone", db, settings, VectorBackends(settings, stores))
    space = await shelf.space()
    pinecone.writes.clear()
    many = {f"property_{i}": i for i in range(120)}
    await shelf.put(space, *[chunk(f"n_{i}", f"text {i}", properties=many) for i in range(1500)])
    assert sum(rows for rows, _ in pinecone.writes) == 1500
    assert len(pinecone.writes) > 2  # bytes are the tighter limit here
    assert await shelf.index.count(space) == 1500


async def test_a_pinecone_index_of_another_length_is_refused_by_name(
    pinecone: PineconeDouble, db: Database
) -> None:
    settings = Settings.load({}, vector_backend="pinecone")
    stores: dict[str, VectorStore] = {"pinecone": PineconeStore(KEY, pinecone.host, None)}
    backends = VectorBackends(settings, stores)
    shelf = Shelf("pinecone", db, settings, backends, ChosenEmbedder(DIM + 1))
    space = await shelf.space()
    with pytest.raises(ConfigError, match="PINECONE_INDEX"):
        await shelf.put(space, chunk("n_1", "one"))
    await stores["pinecone"].close()


@pytest.mark.parametrize(
    ("backend", "named"), [("qdrant", "QDRANT_URL"), ("pinecone", "PINECONE_API_KEY")]
)
def test_a_backend_without_an_address_says_what_to_set(backend: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        VectorBackends(Settings.load({})).of(backend)


@pytest.mark.parametrize("backend", ["qdrant", "pinecone"])
def test_a_client_that_is_not_installed_is_named(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, f"agentcy_ray.retrieval.{backend}_store", None)
    with pytest.raises(ConfigError, match=rf"agentcy-ray\[{backend}\]"):
        VectorBackends(Settings.load({})).of(backend)


async def test_a_store_that_is_away_is_told_as_such_and_nothing_is_committed(
    db: Database, unused_tcp_port: int
) -> None:
    settings = Settings.load(
        {}, vector_backend="qdrant", qdrant_url=f"http://127.0.0.1:{unused_tcp_port}"
    )
    backends = VectorBackends(settings)
    shelf = Shelf("qdrant", db, settings, backends)
    space = await shelf.space()
    with pytest.raises(StoreUnavailableError, match="QDRANT_URL"):
        await shelf.put(space, chunk("n_1", "one"))
    assert await shelf.index.count(space) == 0
    await backends.close()
