"""Records into the table of a segment, and what is said of those that do not fit."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pyarrow as pa

from agentcy_ray.ingest.continuous.body import BadLine
from agentcy_ray.ingest.continuous.ledger import Taken
from agentcy_ray.ingest.continuous.mapping import Row, RowError, RowMaker
from agentcy_ray.ingest.continuous.records import REJECTS_KEPT

Numbered = Iterable[tuple[int, dict[str, Any] | BadLine]]


def take(
    maker: RowMaker,
    records: Numbered,
    key: str | None = None,
    *,
    event_id: Callable[[int], str] | None = None,
) -> tuple[Taken, pa.Table | None]:
    """Records as a table of what is accepted (None: nothing), and what is said of the others.

    Args:
        maker: makes the rows.
        records: with their lines.
        key: the idempotency key of the request.
        event_id: line → id of an event that carries none; None = new ones.
    """
    rows: list[Row] = []
    errors: list[dict[str, Any]] = []
    rejected = 0
    for line, record in records:
        try:
            if isinstance(record, BadLine):
                raise RowError(str(record))
            rows.append(maker.row(record, None if event_id is None else event_id(line)))
        except RowError as error:
            rejected += 1
            if len(errors) < REJECTS_KEPT:
                errors.append({"line": line, "reason": str(error)})
    table = pa.Table.from_pylist(rows, schema=maker.schema) if rows else None
    return Taken(len(rows), rejected, tuple(errors), key), table
