"""Rows of kyma as the records that callers get."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import orjson
import pyarrow as pa

from agentcy_ray.context.advanced.layout import SEPARATOR
from agentcy_ray.context.engine import Edge, Node, SourceRef


def properties_of(text: str | None) -> dict[str, Any]:
    """Properties from their JSON text; nulls are absent."""
    found = cast("dict[str, Any]", orjson.loads(text)) if text else {}
    return {key: value for key, value in found.items() if value is not None}


def labels_of(label_set: str) -> tuple[str, ...]:
    """The labels, the primary one first."""
    return tuple(label_set.strip(SEPARATOR).split(SEPARATOR))


def nodes_of(rows: pa.Table, degrees: Iterable[int] | None = None) -> list[Node]:
    """Nodes from columns of ``sql.NODE``; ``degrees`` in the order of the rows."""
    found = rows.to_pylist()
    counts: list[int | None] = [None] * len(found) if degrees is None else list(degrees)
    return [_node(row, degree) for row, degree in zip(found, counts, strict=True)]


def edges_of(rows: pa.Table) -> list[Edge]:
    """Edges from columns of ``sql.EDGE``."""
    return [
        Edge(
            id=row["id"],
            src=row["src"],
            dst=row["dst"],
            type=row["type"],
            realm=row["realm"],
            properties=properties_of(row["props"]),
        )
        for row in rows.to_pylist()
    ]


def _node(row: dict[str, Any], degree: int | None) -> Node:
    return Node(
        id=row["id"],
        labels=labels_of(row["label_set"]),
        realm=row["realm"],
        name=row["name"],
        properties=properties_of(row["props"]),
        source=SourceRef(
            connector=row["connector"],
            source_id=row["source_id"],
            external_id=row["external_id"],
        ),
        first_seen=row["first_seen"],
        last_seen=row["last_seen"],
        archived_at=row["archived_at"],
        content_hash=row["content_hash"],
        degree=degree,
    )
