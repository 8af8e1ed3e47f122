"""Events on the Basic engine: nodes that are written once and go after their time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pyarrow as pa
import pytest

from agentcy_ray.context.engine import ContextEngine, Query, Scope
from agentcy_ray.context.factory import open_engine
from agentcy_ray.core.batches import EVENTS
from agentcy_ray.core.settings import Settings
from agentcy_ray.stores.endpoints import Endpoints

PIPELINE = uuid4()


@pytest.fixture
async def engine(settings: Settings, endpoints: Endpoints) -> ContextEngine:
    return open_engine(settings, endpoints)


def batch(*ages: timedelta) -> pa.RecordBatch:
    """An event for each age."""
    now = datetime.now(UTC)
    rows = [
        {
            "event_id": f"event {age}", "at": now - age, "label": "span", "body": f"took {age}",
            "properties": '{"attributes":{"code":200}}', "realm": "data", "duration_ms": 1.5,
            "pipeline_id": PIPELINE.hex,
        }
        for age in ages
    ]  # fmt: skip
    return pa.RecordBatch.from_pylist(rows, schema=EVENTS)


async def bodies(engine: ContextEngine, org: UUID) -> list[str]:
    text = "MATCH (e:Event:span) WHERE e.duration_ms = 1.5 RETURN e.body ORDER BY e.at DESC"
    found = await engine.query(Scope(org_id=org, realms=("data",)), Query(text=text))
    return [row[0] for row in found.rows]


async def test_an_event_sent_twice_is_one_and_goes_after_fourteen_days(
    engine: ContextEngine,
) -> None:
    org, hour, old = uuid4(), timedelta(hours=1), timedelta(days=15)
    for _ in range(2):
        await engine.append_events(org, batch(hour, old))
    assert await bodies(engine, org) == [f"took {hour}", f"took {old}"]
    assert await engine.prune(org, uuid4(), datetime.now(UTC)) == 1
    assert await bodies(engine, org) == [f"took {hour}"]
    await engine.close()
