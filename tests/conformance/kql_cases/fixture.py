"""The graph and the events that the cases ask about, and engines that hold them.

What must never show is in there too: another realm, an archived node, an older version.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pyarrow as pa
import pyarrow.compute as pc
from datafusion import SessionContext

from agentcy_ray.context.advanced.layout import edge_rows, event_rows, hidden_rows, node_rows
from agentcy_ray.context.engine import Scope
from agentcy_ray.core.batches import EVENTS
from tests.conformance.graphs import LATER, SEEN, Graph

ORG = UUID(int=11)
REALMS = ("development", "crm")
OLDER = SEEN - timedelta(days=1)
NOW = datetime(2026, 6, 1, 5, tzinfo=UTC)
START = datetime(2026, 6, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Case:
    """A query with the rows that it gives, in this order or in any."""

    text: str
    rows: tuple[tuple[Any, ...], ...]
    ordered: bool = False
    params: dict[str, Any] = field(default_factory=dict)


def graph(org: UUID = ORG) -> Graph:
    """Two services, their database and team; a secret twin of each kind, and an archived one."""
    made = Graph(org)
    made.node(
        "a", "Service", "Backend", name="Checkout API", tier=1, lang="python", cost=1.5,
        tags=["web", "pay"], owner={"team": "core", "since": 2020},
    )  # fmt: skip
    made.node("b", "Service", name="Billing worker", tier=2, lang="Go", tags=["pay"],
              owner={"team": "money"}, quote="it's \"so\" 100%_\\")  # fmt: skip
    made.node("c", "Database", name="orders-db", tier=1, engine="postgres", tags=[])
    made.node("d", "Team", realm="crm", name="Core team", size=7)
    made.node("old", "Service", name="Old checkout", tier=9)
    made.node("secret", "Service", realm="secret", name="Secret API", tier=1, lang="python")
    for src, type_, dst, weight in (
        ("a", "CALLS", "b", 3), ("a", "READS", "c", 5), ("b", "READS", "c", 2),
        ("d", "OWNS", "a", 1), ("d", "OWNS", "b", 1),
        ("secret", "CALLS", "a", 9), ("old", "CALLS", "a", 8), ("a", "CALLS", "old", 7),
    ):  # fmt: skip
        made.edge(src, type_, dst, weight=weight)
    return made


def events() -> pa.RecordBatch:
    """Twelve events, 25 minutes apart, and a secret one."""
    rows = [
        {
            "at": START + timedelta(minutes=25 * number),
            "label": "request" if number % 3 else "error",
            "body": f"GET /orders/{number}" if number % 2 else "POST /pay",
            "properties": json.dumps({
                "status": 200 if number % 3 else 500,
                "user": {"id": f"u{number % 4}"}, "codes": [number, number + 1],
            }),
            "realm": "development",
            "pipeline_id": "0" * 32,
            "event_id": f"e{number:02}",
            "service": "api" if number % 2 else None,
            "severity": "info" if number % 3 else "error",
            "duration_ms": float(number * 10),
        }
        for number in range(12)
    ]  # fmt: skip
    rows.append(rows[0] | {"realm": "secret", "event_id": "secret", "label": "secret"})
    return pa.RecordBatch.from_pylist(rows, schema=EVENTS)


def scope(org: UUID = ORG) -> Scope:
    """Both realms, not the secret one."""
    return Scope(org_id=org, realms=REALMS)


def tables() -> SessionContext:
    """The rows as kyma holds them, older versions and an archiving among them."""
    made = graph()
    context = SessionContext()
    older = node_rows(made.node_batch(), OLDER)
    nodes = node_rows(made.node_batch(), SEEN)
    old = pa.Table.from_batches([nodes]).filter(pc.equal(nodes["id"], made.id("old")))
    gone = hidden_rows(old, LATER, "archive")
    context.register_record_batches("context_nodes", [[older, nodes, gone.cast(nodes.schema)]])
    context.register_record_batches("context_edges", [[edge_rows(made.edge_batch(), SEEN)]])
    context.register_record_batches("context_events", [[event_rows(events())]])
    return context
