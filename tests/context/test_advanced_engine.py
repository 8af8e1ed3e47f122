"""The Advanced engine over the embedded kyma: what only an append-only store can get wrong."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pyarrow as pa
import pytest

from agentcy_ray.context.advanced import AdvancedEngine
from agentcy_ray.context.advanced.databases import Databases
from agentcy_ray.context.advanced.query import Planners
from agentcy_ray.context.advanced.store import Store
from agentcy_ray.context.engine import Query, Scope, SearchQuery
from agentcy_ray.context.factory import open_kyma
from agentcy_ray.context.languages.planned import OutputColumn, Planned
from agentcy_ray.core.batches import EVENTS
from agentcy_ray.core.errors import (
    CapabilityError,
    InvalidError,
    QueryRejectedError,
    QueryTimeoutError,
)
from agentcy_ray.core.settings import Settings
from agentcy_ray.stores.embedded import ensure_embedded
from agentcy_ray.stores.endpoints import Endpoints
from tests.conformance.graphs import LATER, SEEN, Graph, small, write

FIRST = UUID(int=1)


@pytest.fixture(scope="session")
async def kyma(settings: Settings, endpoints: Endpoints) -> Endpoints:
    """The embedded engine of the session."""
    return await ensure_embedded(settings, frozenset({"kyma"}), until_exit_of=os.getpid())


def opened(settings: Settings, kyma: Endpoints, planners: Planners | None = None) -> AdvancedEngine:
    """An engine whose databases no other test has."""

    async def first() -> UUID:
        return FIRST

    store = Store(open_kyma(settings, kyma), Databases(f"t{uuid4().hex[:10]}", first))
    return AdvancedEngine(store, planners or {}, embedded=True, own_bucket=False)


@pytest.fixture
async def engine(settings: Settings, kyma: Endpoints) -> AsyncIterator[AdvancedEngine]:
    """An engine that reads over Flight."""
    engine = opened(settings, kyma, {"sql": native})
    yield engine
    await engine.close()


@pytest.fixture
async def without_flight(settings: Settings, kyma: Endpoints) -> AsyncIterator[AdvancedEngine]:
    """An engine that reads over HTTP, as it does from a kyma without Flight."""
    engine = opened(settings, replace(kyma, kyma_flight_url="off"))
    yield engine
    await engine.close()


def native(
    text: str, params: Mapping[str, Any], scope: Scope, *, row_limit: int, include_archived: bool
) -> Planned:
    """A planner that takes kyma's own SQL with one whole number as its column."""
    return Planned(f"{text} LIMIT {row_limit + 1}", (OutputColumn("n", "integer"),))


async def count(engine: AdvancedEngine, org: UUID, table: str) -> int:
    """Rows of a table that are not its founding row, superseded ones included."""
    shown = "event_id" if table == "context_events" else "id"
    text = f"SELECT count(*) AS c0 FROM {table} WHERE {shown} <> ''"
    answer = await engine.query(Scope(org_id=org), Query(language="sql", text=text))
    return int(answer.rows[0][0])


@pytest.mark.requirement("KYMA-07")
async def test_a_row_that_arrives_late_does_not_undo_a_later_one(engine: AdvancedEngine) -> None:
    graph = Graph(uuid4())
    id_ = graph.node("a", step="new")
    await write(engine, graph, LATER)
    graph.node("a", step="old")
    await write(engine, graph, SEEN)

    node = await engine.node(graph.scope, id_)

    assert node is not None
    assert (node.properties, node.first_seen, node.last_seen) == ({"step": "new"}, SEEN, LATER)


async def test_archiving_counts_after_what_it_hides_whatever_its_time(
    engine: AdvancedEngine,
) -> None:
    graph = Graph(uuid4())
    id_ = graph.node("a")
    await write(engine, graph, LATER)

    assert (await engine.archive(graph.org, "node", [id_], SEEN)).rows == 1

    assert await engine.node(graph.scope, id_) is None


async def test_a_batch_that_is_sent_again_is_stored_once(engine: AdvancedEngine) -> None:
    graph = small(uuid4())
    await write(engine, graph)
    await write(engine, graph)
    assert await count(engine, graph.org, "context_nodes") == 4
    assert await count(engine, graph.org, "context_edges") == 4
    await write(engine, graph, LATER)
    assert await count(engine, graph.org, "context_nodes") == 8
    assert (await engine.stats(graph.scope)).nodes == 4


async def test_each_organisation_has_a_database_and_the_first_the_plain_name() -> None:
    asked: list[None] = []

    async def first() -> UUID | None:
        asked.append(None)
        return FIRST if len(asked) > 1 else None

    databases = Databases("kyma", first)
    other = uuid4()
    assert await databases.of(other) == f"kyma_{other.hex}"
    assert await databases.of(FIRST) == "kyma"
    assert await databases.of(other) == f"kyma_{other.hex}"
    assert len(asked) == 2  # once known, it stays known


async def test_events_are_added_once_and_counted_by_the_hour(engine: AdvancedEngine) -> None:
    org, at = uuid4(), datetime(2026, 6, 1, 10, 30, tzinfo=UTC)
    rows = [
        {
            "at": at + timedelta(minutes=20 * number), "label": "deploy", "body": f"no {number}",
            "properties": '{"ok": true}', "realm": "development", "pipeline_id": "0" * 32,
            "event_id": f"e{number}", "duration_ms": 1.5 if number else None,
        }
        for number in range(4)
    ]  # fmt: skip
    batch = pa.RecordBatch.from_pylist(rows, schema=EVENTS)

    assert (await engine.append_events(org, batch)).rows == 4
    await engine.append_events(org, batch)

    by_hour = (
        "SELECT count(*) AS c0 FROM context_events WHERE event_id <> ''"
        " GROUP BY date_trunc('hour', at) ORDER BY min(at)"
    )
    answer = await engine.query(Scope(org_id=org), Query(language="sql", text=by_hour))
    assert [row[0] for row in answer.rows] == [2, 2]
    malformed = batch.set_column(3, EVENTS.field(3), pa.array(["[]"] * 4))
    with pytest.raises(InvalidError):
        await engine.append_events(org, malformed)


@pytest.mark.requirement("CTX-10")
async def test_arrow_batches_have_one_schema_and_stop_at_the_limit(engine: AdvancedEngine) -> None:
    scope = Scope(org_id=uuid4())
    many = Query(
        language="sql", text="SELECT unnest(generate_series(1, 30000)) AS c0", limit=20_000
    )

    batches = [batch async for batch in engine.arrow(scope, many)]
    none = [batch async for batch in engine.arrow(scope, many.model_copy(update={"text":
        "SELECT unnest(generate_series(1, 0)) AS c0"}))]  # fmt: skip

    table = pa.Table.from_batches(batches)
    assert (table.num_rows, table.schema) == (20_000, batches[0].schema)
    assert [(batch.num_rows, batch.schema) for batch in none] == [(0, batches[0].schema)]


async def test_a_language_that_it_does_not_plan_and_a_limit_that_is_over(
    engine: AdvancedEngine,
) -> None:
    scope = Scope(org_id=uuid4())
    with pytest.raises(CapabilityError, match="kql"):
        await engine.query(scope, Query(language="kql", text="context_nodes"))
    endless = (
        "WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r WHERE n > 0)"
        " SELECT count(*) AS c0 FROM r"
    )
    with pytest.raises(QueryTimeoutError, match="timeout_ms"):
        await engine.query(scope, Query(language="sql", text=endless, timeout_ms=200))


@pytest.mark.requirement("KYMA-05")
async def test_everything_reads_alike_without_flight(without_flight: AdvancedEngine) -> None:
    engine, graph = without_flight, small(uuid4())
    graph.node("d", "Service", "Critical", text="Straße", deep={"a": [1, None]})
    await write(engine, graph)

    node = await engine.node(graph.scope, graph.id("d"))
    around = await engine.neighbors(graph.scope, graph.id("a"), depth=2)
    found = await engine.search(graph.scope, SearchQuery(text="strasse"))

    assert node is not None
    assert node.properties == {"text": "Straße", "deep": {"a": [1, None]}}
    assert (node.labels, node.first_seen, node.archived_at) == (("Service", "Critical"), SEEN, None)
    assert {each.name for each in around.nodes} == {"a", "b", "c", "team"}
    assert (len(around.edges), found.total, found.histogram[0].count) == (4, 1, 1)
    assert (await engine.stats(graph.scope)).labels == {"Service": 4, "Team": 1, "Critical": 1}
    assert (await engine.archive(graph.org, "node", [graph.id("d")], LATER)).rows == 1
    exported = [batch async for batch in engine.export_nodes(graph.org, graph.source)]
    assert sum(batch.num_rows for batch in exported) == 4


async def test_what_the_engine_refuses_in_a_planned_query_is_the_callers_to_change(
    engine: AdvancedEngine,
) -> None:
    with pytest.raises(QueryRejectedError, match="no_such_function"):
        await engine.query(
            Scope(org_id=uuid4()), Query(language="sql", text="SELECT no_such_function(1) AS c0")
        )


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("SELECT CAST('x' AS INT) AS c0", "Cannot cast string 'x'"),
        ("SELECT sqrt(-1) AS c0", "square root of a negative number"),
        ("SELECT regexp_replace('a', '(', '') AS c0", "unclosed group"),
    ],
)
async def test_a_value_that_an_expression_does_not_take_is_the_callers_to_guard(
    engine: AdvancedEngine, text: str, cause: str
) -> None:
    with pytest.raises(QueryRejectedError, match=cause):
        await engine.query(Scope(org_id=uuid4()), Query(language="sql", text=text))
