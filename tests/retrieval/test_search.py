"""Search: what it finds, what it must never find, and how it orders what it found."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from agentcy_ray.core.errors import (
    ConflictError,
    EmbedderUnavailableError,
    InvalidError,
    NotFoundError,
)
from agentcy_ray.core.ids import encode, new_id
from agentcy_ray.core.settings import Settings
from agentcy_ray.retrieval.local_embedder import LocalEmbedder
from agentcy_ray.retrieval.one_embedder import OneEmbedder
from agentcy_ray.retrieval.pgvector import PgVectorIndex
from agentcy_ray.retrieval.queries import Filters, HybridQuery, RagQuery, SearchHits
from agentcy_ray.retrieval.search import SearchService
from agentcy_ray.retrieval.spaces import SpaceStore
from agentcy_ray.stores.postgres import Database
from tests.retrieval.chunks import SOURCE, ChosenEmbedder, batch, chunk
from tests.retrieval.conftest import MakeOrg

DIM = 4
EAST, NORTH = [1.0, 0, 0, 0], [0, 1.0, 0, 0]


class Shelf:
    """An organisation with a search over rows that a test puts in."""

    def __init__(
        self, org: UUID, db: Database, embedder: Any, spaces: SpaceStore, settings: Settings
    ) -> None:
        self.org = org
        self._embedder = embedder
        self._spaces = spaces
        self._index = PgVectorIndex(db, settings)
        self.service = SearchService(db, OneEmbedder(embedder), spaces, settings)

    async def put(self, *rows: dict[str, Any]) -> None:
        space = await self._spaces.ensure_active(self.org, self._embedder.info)
        vectors = await self._embedder.embed([row["text"] for row in rows])
        await self._index.upsert(space, batch(rows), vectors)

    async def hybrid(self, query: str, allowed: Any = None, **fields: Any) -> SearchHits:
        return await self.service.hybrid(self.org, allowed, HybridQuery(query=query, **fields))

    async def search(self, query: str, allowed: Any = None, **fields: Any) -> SearchHits:
        return await self.service.search(self.org, allowed, RagQuery(query=query, **fields))


@pytest.fixture
def chosen() -> ChosenEmbedder:
    return ChosenEmbedder(DIM, {"east": EAST, "north": NORTH})


@pytest.fixture
def shelf(
    org: UUID, db: Database, chosen: ChosenEmbedder, spaces: SpaceStore, settings: Settings
) -> Shelf:
    return Shelf(org, db, chosen, spaces, settings)


@pytest.fixture
def real_shelf(
    org: UUID, db: Database, embedder: LocalEmbedder, spaces: SpaceStore, settings: Settings
) -> Shelf:
    return Shelf(org, db, embedder, spaces, settings)


def nodes(found: SearchHits) -> list[str]:
    return [hit.node_id for hit in found.hits]


@pytest.mark.parametrize("way", ["hybrid", "search"])
async def test_a_question_finds_what_it_means_in_other_words(real_shelf: Shelf, way: str) -> None:
    await real_shelf.put(
        chunk("n_cat", "The feline slept on the warm windowsill."),
        chunk("n_db", "Connections to the database are pooled and recycled every hour."),
        chunk("n_tax", "Quarterly tax filings are due in April."),
    )
    found = await getattr(real_shelf, way)("where did the kitten take a nap?")
    assert nodes(found)[0] == "n_cat"
    assert len(found.hits) == 3
    assert found.space is not None
    assert found.took_ms > 0


@pytest.mark.requirement("RAG-02")
async def test_hybrid_finds_a_word_that_the_vectors_know_nothing_of(
    shelf: Shelf, chosen: ChosenEmbedder
) -> None:
    far = [chunk(f"n_{i}", f"filler number {i}") for i in range(300)]
    chosen.chosen |= {row["text"]: EAST for row in far}
    chosen.chosen |= {"notes on zyzzyva handling": [-1.0, 0, 0, 0], "zyzzyva": EAST}
    await shelf.put(*far, chunk("n_word", "notes on zyzzyva handling"))
    found = await shelf.hybrid("zyzzyva", text_weight=1.0, vector_weight=0.0)
    assert nodes(found)[0] == "n_word"
    assert found.hits[0].scores["text"] == pytest.approx(1.0)
    assert found.hits[0].scores["vector"] == 0.0
    assert len(found.hits) == 10


async def test_hybrid_forgives_a_misspelt_name(shelf: Shelf) -> None:
    await shelf.put(
        *[chunk(f"n_{i}", f"row {i}", name=f"unrelated-{i}") for i in range(80)],
        chunk("n_hit", "a table of numbers", name="kubernetes-cluster"),
    )
    found = await shelf.hybrid("kubernets", text_weight=1.0, vector_weight=0.0)
    assert nodes(found)[0] == "n_hit"


@pytest.mark.parametrize("way", ["hybrid", "search"])
async def test_an_entity_is_one_hit_with_the_chunk_that_fits_best(
    shelf: Shelf, chosen: ChosenEmbedder, way: str
) -> None:
    chosen.chosen |= {"close": EAST, "closer": [1.0, 0.1, 0, 0], "far": NORTH}
    await shelf.put(chunk("n_a", "far"), chunk("n_a", "close", ordinal=1), chunk("n_b", "closer"))
    found = await getattr(shelf, way)("east")
    assert nodes(found) == ["n_a", "n_b"]
    assert found.hits[0].snippet == "close"


@pytest.mark.parametrize("way", ["hybrid", "search"])
async def test_entities_behind_one_with_hundreds_of_near_chunks_are_still_found(
    shelf: Shelf, chosen: ChosenEmbedder, way: str
) -> None:
    book = [chunk("n_book", f"page {i}", ordinal=i) for i in range(400)]
    others = [chunk(f"n_{i:02}", f"leaf {i}") for i in range(20)]
    chosen.chosen |= {row["text"]: EAST for row in book}
    await shelf.put(*book, *others)
    found = await getattr(shelf, way)("east", top_k=10)
    assert nodes(found)[0] == "n_book"
    assert len(set(nodes(found))) == 10


@pytest.mark.parametrize("way", ["hybrid", "search"])
async def test_a_newer_entity_goes_before_an_equal_older_one(
    shelf: Shelf, chosen: ChosenEmbedder, way: str
) -> None:
    now = datetime.now(UTC)
    chosen.chosen |= {"same text": EAST}
    await shelf.put(
        chunk("n_1old", "same text", seen_at=now - timedelta(days=60)),
        chunk("n_2new", "same text", seen_at=now),
        chunk("n_3undated", "same text"),
    )
    found = await getattr(shelf, way)("east")
    assert nodes(found) == ["n_2new", "n_1old", "n_3undated"]
    factors = [hit.scores["recency"] for hit in found.hits]
    assert factors == pytest.approx([1.1, 1.025, 1.0], abs=1e-3)


async def test_hybrid_scores_are_the_weighted_sum_of_their_parts(
    shelf: Shelf, chosen: ChosenEmbedder
) -> None:
    chosen.chosen |= {"east wind": EAST}
    await shelf.put(chunk("n_a", "east wind"))
    hit = (await shelf.hybrid("east", text_weight=0.25, vector_weight=0.5)).hits[0]
    assert hit.scores == pytest.approx({"vector": 1.0, "text": 1.0, "recency": 1.0}, abs=1e-3)
    assert hit.score == pytest.approx(0.75, abs=1e-3)


async def test_search_orders_equal_vectors_by_the_words_of_name_title_and_description(
    shelf: Shelf, chosen: ChosenEmbedder
) -> None:
    chosen.chosen |= {"a": EAST, "b": EAST, "c": EAST, "billing export": EAST}
    await shelf.put(
        chunk("n_a", "a", name="something else"),
        chunk("n_b", "b", name="job", properties={"title": "Export", "description": "billing"}),
        chunk("n_c", "c", name="export"),
    )
    found = await shelf.search("billing export")
    assert nodes(found) == ["n_b", "n_c", "n_a"]
    assert [round(hit.scores["bm25"], 1) for hit in found.hits][::2] == [1.0, 0.0]


@pytest.mark.requirement("RAG-04")
@pytest.mark.parametrize("way", ["hybrid", "search"])
@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"realms": ("crm",)}, {"n_crm"}),
        ({"filters": Filters(labels=("Commit", "Person"))}, {"n_commit"}),
        ({"filters": Filters(sources=(encode("src", UUID(int=9)),))}, {"n_other_source"}),
        ({"filters": Filters(sources=("unheard of",))}, set()),
        ({"filters": Filters(after=datetime(2031, 1, 1, tzinfo=UTC))}, {"n_future"}),
        ({"filters": Filters(before=datetime(2001, 1, 1, tzinfo=UTC))}, {"n_past"}),
        (
            {"filters": Filters(labels=("Issue",), exclude={"state": ["closed", "void"]})},
            {"n_open"},
        ),
        ({"filters": Filters(labels=("Issue",), exclude={"size": 3})}, {"n_closed"}),
    ],
)
async def test_filters_decide_before_anything_is_scored(
    shelf: Shelf, chosen: ChosenEmbedder, way: str, fields: dict[str, Any], expected: set[str]
) -> None:
    # Everything that does not pass lies nearer and reads better than what does.
    near = [chunk(f"n_near{i}", f"east east {i}") for i in range(120)]
    few = [
        chunk("n_crm", "t1", realm="crm"),
        chunk("n_commit", "t2", labels=["Commit"]),
        chunk("n_other_source", "t3", source_id=UUID(int=9).hex),
        chunk("n_future", "t4", seen_at=datetime(2031, 6, 1, tzinfo=UTC)),
        chunk("n_past", "t5", seen_at=datetime(2000, 6, 1, tzinfo=UTC)),
        chunk("n_open", "t6", labels=["Issue"], properties={"state": "open", "size": 3}),
        chunk("n_closed", "t7", labels=["Issue"], properties={"state": "closed"}),
    ]
    chosen.chosen |= {row["text"]: EAST for row in near}
    chosen.chosen |= {row["text"]: NORTH for row in few}
    await shelf.put(*near, *few)
    assert set(nodes(await getattr(shelf, way)("east", **fields))) == expected


async def test_a_source_filter_takes_the_name_of_a_source(
    shelf: Shelf, db: Database, chosen: ChosenEmbedder
) -> None:
    await shelf.put(chunk("n_a", "one"), chunk("n_b", "two", source_id=UUID(int=9).hex))
    async with db.tenant(shelf.org) as connection:
        await connection.execute(
            "INSERT INTO realms (org_id, name) VALUES ($1, 'development')", shelf.org
        )
        await connection.execute(
            "INSERT INTO sources (id, org_id, name, connector, realm) "
            "VALUES ($1, $2, 'my repo', 'git', 'development')",
            UUID(int=9),
            shelf.org,
        )
    found = await shelf.hybrid("east", filters=Filters(sources=("my repo",)))
    assert nodes(found) == ["n_b"]


@pytest.mark.requirement("RBAC-04")
@pytest.mark.parametrize("way", ["hybrid", "search"])
@pytest.mark.parametrize(
    ("allowed", "asked", "expected"),
    [
        (None, (), {"n_crm", "n_dev", "n_data"}),
        (("crm", "development"), (), {"n_crm", "n_dev"}),
        (("crm", "development"), ("development", "data"), {"n_dev"}),
        (("crm",), ("data",), set()),
        ((), (), set()),
    ],
)
async def test_a_query_narrows_the_callers_realms_and_never_widens_them(
    shelf: Shelf, way: str, allowed: Any, asked: tuple[str, ...], expected: set[str]
) -> None:
    await shelf.put(
        chunk("n_crm", "a", realm="crm"), chunk("n_dev", "b"), chunk("n_data", "c", realm="data")
    )
    assert set(nodes(await getattr(shelf, way)("east", allowed, realms=asked))) == expected


@pytest.mark.requirement("TEN-06")
@pytest.mark.parametrize("way", ["hybrid", "search"])
async def test_no_search_returns_an_entity_of_another_organisation(
    shelf: Shelf, db: Database, chosen: ChosenEmbedder, spaces: SpaceStore, settings: Settings,
    make_org: MakeOrg, way: str,
) -> None:  # fmt: skip
    other = Shelf(await make_org(), db, chosen, spaces, settings)
    await shelf.put(chunk("n_ours", "shared words"))
    await other.put(chunk("n_theirs", "shared words"))
    assert nodes(await getattr(shelf, way)("shared words")) == ["n_ours"]
    assert nodes(await getattr(other, way)("shared words")) == ["n_theirs"]
    theirs = await spaces.active(other.org)
    assert theirs is not None
    with pytest.raises(NotFoundError):
        await getattr(shelf, way)("shared words", space=theirs.id)


@pytest.mark.parametrize("way", ["hybrid", "search"])
async def test_before_anything_is_embedded_there_are_no_hits_and_no_space(
    shelf: Shelf, way: str
) -> None:
    found = await getattr(shelf, way)("anything")
    assert found.hits == ()
    assert found.space is None


@pytest.mark.parametrize("way", ["hybrid", "search"])
async def test_a_hit_tells_where_it_came_from(shelf: Shelf, way: str) -> None:
    await shelf.put(
        chunk(
            "n_a", "one", url="https://example.org/a", properties={"state": "open"},
            labels=["Issue", "Bug"], external_id="a/7", name="Issue 7",
        )
    )  # fmt: skip
    hit = (await getattr(shelf, way)("east")).hits[0]
    assert hit.labels == ("Issue", "Bug")
    assert (hit.name, hit.url, hit.realm) == ("Issue 7", "https://example.org/a", "development")
    assert hit.properties == {"state": "open"}
    assert hit.source.model_dump() == {
        "connector": "git", "source_id": SOURCE, "external_id": "a/7",
    }  # fmt: skip


ODD_QUERIES = [
    "x",
    "%",
    "_",
    "\\",
    "'; DROP TABLE users; --",
    "100% of a_b\\c",
    "a" * 60_000,
    "word " * 13_000,
    "数据库连接池",
    "naïve café",
    "👩‍🚀🚀",
    "\x00nul\x00",
    "   \t who   ",
    "the of and",
    "\u202ertl\u202c",
]


async def test_odd_queries_are_answered(real_shelf: Shelf) -> None:
    await real_shelf.put(chunk("n_a", "naïve café 数据库连接池"), chunk("n_b", "100% of a_b\\c"))
    for query in ODD_QUERIES:
        for way in (real_shelf.hybrid, real_shelf.search):
            assert len((await way(query)).hits) == 2, query[:40]


@pytest.mark.parametrize("way", ["hybrid", "search"])
@pytest.mark.parametrize("query", ["", "  \n\t", "\x00"])
async def test_a_blank_query_is_refused_with_the_next_step(
    shelf: Shelf, way: str, query: str
) -> None:
    with pytest.raises(InvalidError, match="say what to look for"):
        await getattr(shelf, way)(query)


async def test_hybrid_without_any_weight_is_refused(shelf: Shelf) -> None:
    with pytest.raises(InvalidError, match="above 0"):
        await shelf.hybrid("east", text_weight=0, vector_weight=0)


async def test_a_search_by_another_embedder_than_the_spaces_says_what_to_set(
    shelf: Shelf, db: Database, spaces: SpaceStore, settings: Settings
) -> None:
    await shelf.put(chunk("n_a", "one"))
    other = Shelf(shelf.org, db, ChosenEmbedder(DIM + 1), spaces, settings)
    with pytest.raises(EmbedderUnavailableError, match="EMBEDDING_MODEL=local:chosen"):
        await other.hybrid("east")


async def test_an_unknown_space_is_not_found_and_one_that_is_not_filled_answers_nothing(
    shelf: Shelf, chosen: ChosenEmbedder, spaces: SpaceStore
) -> None:
    with pytest.raises(NotFoundError):
        await shelf.search("east", space=new_id())
    empty = await spaces.create(shelf.org, chosen.info)
    with pytest.raises(ConflictError, match="is building and answers nothing"):
        await shelf.hybrid("east", space=empty.id)


async def test_a_long_chunk_is_shown_around_the_word_that_was_asked_for(shelf: Shelf) -> None:
    text = "lorem ipsum " * 400 + "needle here" + " dolor sit" * 400
    await shelf.put(chunk("n_a", text))
    hit = (await shelf.hybrid("needle")).hits[0]
    assert "needle here" in hit.snippet
    assert len(hit.snippet) < 1_700


async def test_an_archived_entity_is_not_found(
    shelf: Shelf, index: PgVectorIndex, spaces: SpaceStore
) -> None:
    await shelf.put(chunk("n_a", "one"), chunk("n_b", "two"))
    space = await spaces.active(shelf.org)
    assert space is not None
    await index.archive_nodes(space, ["n_a"], datetime.now(UTC))
    assert nodes(await shelf.hybrid("one")) == ["n_b"]
