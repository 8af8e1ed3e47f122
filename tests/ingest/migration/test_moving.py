"""An organisation moves from Basic to Advanced while its sources go on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pyarrow as pa
import pytest

from agentcy_ray.context.advanced.arriving import Arriving
from agentcy_ray.context.advanced.store import Store
from agentcy_ray.context.engine import EntityKind, Query, Scope
from agentcy_ray.context.migration.entities import Entities
from agentcy_ray.core.batches import EDGES, EVENTS
from agentcy_ray.core.ids import edge_id, new_id
from agentcy_ray.jobs.worker import Beat
from tests.ingest.memory_source import MemorySource, chain
from tests.ingest.migration.conftest import MakeMoving
from tests.ingest.migration.moving import Moving


class Paused(Arriving):
    """Does something else first, once, when entities are to arrive."""

    def __init__(self, store: Store, first: Callable[[], Awaitable[None]]) -> None:
        super().__init__(store)
        self._first: Callable[[], Awaitable[None]] | None = first

    async def adopt(
        self, org_id: UUID, kind: EntityKind, entities: Entities, *, over_all: bool = False
    ) -> int:
        first, self._first = self._first, None
        if first is not None:
            await first()
        return await super().adopt(org_id, kind, entities, over_all=over_all)


async def changed(moving: Moving) -> None:
    """Sync a state with new, other and fewer entities."""
    graph = moving.house.source.graph
    graph.nodes["Item", "new"] = {"name": "new", "n": 1}
    graph.edges[("Item", "i1"), "NEXT", ("Item", "new")] = {"step": 99}
    graph.nodes["Item", "i7"]["name"] = "seven again"
    graph.drop(("Item", "i20"))
    del graph.edges[("Item", "i3"), "NEXT", ("Item", "i4")]
    await moving.house.sync()


async def test_after_the_move_advanced_shows_what_basic_showed_with_its_times(
    make_moving: MakeMoving,
):
    moving = await make_moving(MemorySource(graph=chain(120)))
    house = moving.house
    await house.sync()
    house.source.graph.nodes["Item", "i7"]["name"] = "seven"
    house.source.graph.drop(("Item", "i30"))
    await house.sync()
    before = await moving.shown(moving.router.engines.basic)
    done = await moving.move()
    assert done.status == "done"
    assert await moving.engine_named() == "advanced"
    assert await moving.shown(moving.router.engines.advanced) == before
    assert await moving.shown(moving.router) == before
    assert await moving.answered_by() == "advanced"
    assert done.counts["rows"] == done.counts["total"] == len(before)
    assert done.checksums["nodes"]["count"] == 119
    assert done.checksums["same"]
    assert done.differences == []


async def test_what_was_archived_before_the_move_is_archived_after_it(make_moving: MakeMoving):
    moving = await make_moving(MemorySource(graph=chain(20)))
    await moving.house.sync()
    moving.house.source.graph.drop(("Item", "i7"))
    await moving.house.sync()
    assert (await moving.move()).status == "done"
    engines, scope = moving.router.engines, Scope(org_id=moving.house.org_id)
    for text, hidden in (
        ("MATCH (n) RETURN n.id, n.name, n.first_seen, n.archived_at ORDER BY n.id", 1),
        ("MATCH ()-[r]->() RETURN r.id, r.step, r.last_seen, r.archived_at ORDER BY r.id", 2),
    ):
        asked = Query(language="cypher", text=text, limit=100, include_archived=True)
        basic, advanced = [
            (await engine.query(scope, asked)).rows for engine in (engines.basic, engines.advanced)
        ]
        assert advanced == basic
        assert len([row for row in advanced if row[-1] is not None]) == hidden


@pytest.mark.requirement("MIG-02")
@pytest.mark.requirement("MIG-04")
async def test_what_is_published_during_the_backfill_is_on_both_and_basic_answers_until_the_end(
    make_moving: MakeMoving,
):
    moving = await make_moving(MemorySource(graph=chain(60)))
    await moving.house.sync()
    answered: list[str] = []

    async def meanwhile() -> None:
        await changed(moving)  # before the first row of the old package arrives
        answered.append(await moving.answered_by())

    moving = moving.hooked(Paused(moving.store, meanwhile))
    done = await moving.carry_out(await moving.plan())
    assert done.status == "done"
    assert done.counts.get("repaired", 0) == done.checksums["repaired"] == 0
    basic, advanced = await moving.both()
    assert advanced == basic
    answered.append(await moving.answered_by())
    assert answered == ["basic", "advanced"]
    await moving.house.assert_holds(moving.house.source.graph)

    moving.house.source.graph.nodes["Item", "later"] = {"name": "later", "n": 2}
    await moving.house.sync()
    left, now = await moving.both()
    assert left == basic, "after the move nothing is written to Basic"
    assert len(now) == len(basic) + 1


async def test_links_events_and_what_a_removed_source_left_move_along(make_moving: MakeMoving):
    moving = await make_moving(MemorySource(graph=chain(10)))
    house, router = moving.house, moving.router
    await house.sync()
    src, dst = house.node_id(("Item", "i0")), house.node_id(("Item", "i9"))
    link = {
        "id": edge_id(src, "LINKED", dst, house.source_id), "src": src, "dst": dst,
        "type": "LINKED", "realm": "development", "properties": '{"linked":true}',
        "source_id": house.source_id.hex, "content_hash": "ab" * 16,
    }  # fmt: skip
    edges = pa.RecordBatch.from_pylist([link], schema=EDGES)
    await router.upsert_edges(house.org_id, edges, datetime.now(UTC))
    await router.append_events(house.org_id, events(3))
    async with house.db.tenant(house.org_id) as connection:
        await connection.execute("DELETE FROM sources WHERE id = $1", house.source_id)
    done = await moving.move()
    assert done.status == "done"
    shown = await moving.shown(router)
    assert link["id"] in shown
    assert done.checksums["nodes"]["count"] == 10
    query = Query(
        language="kql", text="context_events | project event_id, body | order by event_id asc"
    )
    found = await router.query(Scope(org_id=house.org_id), query)
    assert [tuple(row) for row in found.rows] == [(f"e{n}", f"event {n}") for n in range(3)]


async def test_basic_is_emptied_of_an_organisation_that_has_left_it(make_moving: MakeMoving):
    moving, other = await make_moving(MemorySource(graph=chain(5))), await make_moving()
    other.house.source.graph = chain(3)
    await moving.house.sync()
    await other.house.sync()
    done = await moving.move()
    async with moving.house.db.tenant(moving.house.org_id) as connection:
        job = await connection.fetchrow(
            "SELECT payload, run_after - created_at AS delay FROM jobs"
            " WHERE payload ->> 'step' = 'prune'"
        )
    assert job is not None
    assert timedelta(days=6, hours=23) < job["delay"] <= timedelta(days=7, minutes=1)
    assert await moving.runner().prune(moving.house.org_id, done.id, Beat(1)) == 5
    assert (await moving.now(done)).pruned_at is not None
    basic, advanced = await moving.both()
    assert (len(basic), len(advanced)) == (0, 5 + 4)
    assert len((await other.both())[0]) == 3 + 2


def events(count: int) -> pa.RecordBatch:
    """Some events of one pipeline."""
    pipeline = new_id().hex
    rows: list[dict[str, Any]] = [
        {
            "at": datetime.now(UTC) - timedelta(hours=n), "label": "Deploy", "body": f"event {n}",
            "properties": '{"n": 1}', "realm": "development", "pipeline_id": pipeline,
            "event_id": f"e{n}", "service": "api", "duration_ms": 1.5,
        }
        for n in range(count)
    ]  # fmt: skip
    return pa.RecordBatch.from_pylist(rows, schema=EVENTS)
