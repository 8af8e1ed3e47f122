"""Events of continuous pipelines as nodes: the Basic engine has no table for them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import orjson
import pyarrow as pa
from neo4j import AsyncManagedTransaction

from agentcy_ray.context.basic.bolt import Bolt, run
from agentcy_ray.context.basic.layout import stamp
from agentcy_ray.core.batches import NODES
from agentcy_ray.core.errors import InvalidError
from agentcy_ray.core.ids import node_id

EVENT = "Event"
KEPT = timedelta(days=14)
_BESIDE = ("body", "service", "severity", "trace_id", "span_id", "duration_ms")

_EXPIRE_ROWS = 1_000
# Entities of a sync have a content hash, whatever somebody called them.
_EXPIRE = """
MATCH (n:Event) WHERE n.org = $org AND n.content_hash = '' AND n.last_seen < $before
WITH n LIMIT $many DETACH DELETE n RETURN count(*) AS changed
"""


def event_nodes(org_id: UUID, batch: pa.RecordBatch) -> list[tuple[datetime, pa.RecordBatch]]:
    """``NODES`` batches of an ``EVENTS`` batch, one for each hour that events happened in.

    A node is seen when its event happened, to the hour; ``at`` keeps the exact time.

    Raises:
        InvalidError: the properties of an event are no JSON object.
    """
    hours: dict[datetime, list[dict[str, Any]]] = {}
    for row in batch.to_pylist():
        hour = row["at"].replace(minute=0, second=0, microsecond=0)
        hours.setdefault(hour, []).append(_node(org_id, row))
    return list(_batches(hours))


def _batches(hours: dict[datetime, list[dict[str, Any]]]) -> Iterator[tuple[datetime, Any]]:
    for hour, rows in sorted(hours.items()):
        yield hour, pa.RecordBatch.from_pylist(rows, schema=NODES)


def _node(org_id: UUID, row: dict[str, Any]) -> dict[str, Any]:
    try:
        given = orjson.loads(row["properties"])
    except orjson.JSONDecodeError as error:
        raise InvalidError(f"the properties of event {row['event_id']} are not JSON") from error
    if not isinstance(given, dict):
        raise InvalidError(f"the properties of event {row['event_id']} are not a JSON object")
    own = {name: row[name] for name in _BESIDE if row[name] is not None}
    source, label = UUID(hex=row["pipeline_id"]), row["label"]
    at = row["at"].strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return {
        "id": node_id(org_id, row["realm"], source, EVENT, row["event_id"]),
        "labels": [EVENT] if label == EVENT else [EVENT, label],
        "realm": row["realm"],
        "name": row["body"] or label,
        "properties": orjson.dumps({**given, **own, "at": at}).decode(),
        "connector": "pipeline",
        "source_id": row["pipeline_id"],
        "external_id": row["event_id"],
        "content_hash": "",
    }


async def expire(bolt: Bolt, org_id: UUID, now: datetime) -> int:
    """Delete an organisation's events of more than ``KEPT`` ago; returns their number."""
    params = {"org": org_id.hex, "before": stamp(now - KEPT), "many": _EXPIRE_ROWS}
    total, changed = 0, _EXPIRE_ROWS

    async def work(transaction: AsyncManagedTransaction) -> int:
        result = await run(transaction, _EXPIRE, params)
        return sum([record["changed"] async for record in result])

    while changed == _EXPIRE_ROWS:
        changed = await bolt.write(work)
        total += changed
    return total
