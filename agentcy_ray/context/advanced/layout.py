"""How entities lie in kyma: one row for each change, newest version last.

Every column but ``at`` and ``props`` is text. A column that no row ever had does not exist, and a
query that names it is refused; so the first row of a table has all of them (``founding_row``).
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, cast

import pyarrow as pa

from agentcy_ray.context.basic.layout import MAX_ROW_BYTES, name_of, read_json, search_text, stamp
from agentcy_ray.context.engine import EntityKind
from agentcy_ray.context.kyma.arrow import pc
from agentcy_ray.context.languages import facts
from agentcy_ray.context.languages.current import EDGE_COLUMNS, EVENT_COLUMNS, NODE_COLUMNS, Table
from agentcy_ray.core.errors import InvalidError

VERSION_DIGITS = 20
SEPARATOR = "\x1f"
_TEXT = pa.string()
_BEFORE_ALL = datetime(1970, 1, 1, tzinfo=UTC)

TABLES: dict[EntityKind, Table] = {"node": "context_nodes", "edge": "context_edges"}
STORED: dict[Table, tuple[str, ...]] = {
    "context_nodes": ("at", *NODE_COLUMNS, "search_text", "version", "op"),
    "context_edges": ("at", *EDGE_COLUMNS, "version", "op"),
    "context_events": EVENT_COLUMNS,
}
"""The columns of each table, as rows have them."""


def version_of(moment: datetime) -> str:
    """The version of what is seen at a time: its microseconds since 1970, sorting as text."""
    since = moment.astimezone(UTC) - _BEFORE_ALL
    micros = (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
    return f"{micros:0{VERSION_DIGITS}d}"


def node_rows(batch: pa.RecordBatch, seen_at: datetime) -> pa.RecordBatch:
    """Rows of ``context_nodes`` for a ``NODES`` batch; a later row wins over one of the same id.

    Raises:
        InvalidError: a label or the properties of a row cannot be stored.
    """
    batch = _each_once(batch)
    labels = batch.column("labels")
    for label in pc.unique(labels.flatten()).to_pylist():
        name_of("label", label)
    if batch.num_rows and pc.min(pc.list_value_length(labels)).as_py() < 1:
        raise InvalidError("a node has no label; give each at least one")
    joined = pc.binary_join(labels, SEPARATOR)
    columns = {
        "labels": pc.list_element(labels, 0) if batch.num_rows else pa.array([], _TEXT),
        "label_set": pc.binary_join_element_wise("", joined, "", SEPARATOR),
        **{name: batch.column(name) for name in ("name", "realm", "connector", "external_id")},
        "search_text": _search_texts(batch),
    }
    return _rows("context_nodes", batch, columns, seen_at)


def edge_rows(batch: pa.RecordBatch, seen_at: datetime) -> pa.RecordBatch:
    """Rows of ``context_edges`` for an ``EDGES`` batch; a later row wins over one of the same id.

    Raises:
        InvalidError: a type or the properties of a row cannot be stored.
    """
    batch = _each_once(batch)
    for type_ in pc.unique(batch.column("type")).to_pylist():
        name_of("type", type_)
    for id_, text in zip(*(batch.column(n).to_pylist() for n in ("id", "properties")), strict=True):
        if text != "{}":
            read_json(id_, _bounded(id_, text))
    columns = {name: batch.column(name) for name in ("src", "dst", "type", "realm")}
    return _rows("context_edges", batch, columns, seen_at)


def event_rows(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Rows of ``context_events`` for an ``EVENTS`` batch.

    Raises:
        InvalidError: the properties of an event are no JSON object.
    """
    own = {
        "at": batch.column("at"),
        "props": batch.column("properties"),
        "facts": facts.encode(batch.column("properties")),
        "duration_ms": pc.cast(batch.column("duration_ms"), _TEXT),
    }
    columns = {name: own[name] if name in own else batch.column(name) for name in EVENT_COLUMNS}
    return pa.RecordBatch.from_pydict(columns)


def hidden_rows(rows: pa.Table, at: datetime, op: str) -> pa.RecordBatch:
    """Rows that hide the given newest rows: later than each of them, and otherwise the same.

    Args:
        rows: columns of ``STORED``, ``props`` as JSON text; ``first_seen`` and the like as text.
        at: when they were hidden.
        op: ``archive``, or ``purge`` for ones that are gone for good.
    """
    # A purge is of what was long hidden: it is not to hide what is seen again meanwhile.
    stamped = version_of(at) if op == "archive" else ""
    versions = [max(stamped, _after(each)) for each in rows["version"].to_pylist()]
    same = {name: rows[name].combine_chunks() for name in rows.column_names}
    count = rows.num_rows
    same |= {
        "at": _constant(at.astimezone(UTC), count, pa.timestamp("us", tz="UTC")),
        "version": pa.array(versions, _TEXT),
        "op": _constant(op, count),
    }
    if op == "archive":
        same["archived_at"] = _constant(stamp(at), count)
    return pa.RecordBatch.from_pydict(same)


def founding_row(table: Table) -> pa.RecordBatch:
    """A row that no query shows; sent first, it makes a table with all of its columns."""
    row: dict[str, Any] = dict.fromkeys(STORED[table], "") | {"at": _BEFORE_ALL, "props": "{}"}
    if "op" in row:
        row |= {"op": "purge", "version": "0" * VERSION_DIGITS}
    batch = pa.RecordBatch.from_pylist([row])
    place = batch.schema.get_field_index("at")
    return batch.set_column(place, "at", batch.column(place).cast(pa.timestamp("us", tz="UTC")))


def _rows(
    table: Table, batch: pa.RecordBatch, columns: dict[str, Any], seen_at: datetime
) -> pa.RecordBatch:
    count, seen = batch.num_rows, stamp(seen_at)
    columns |= {
        "at": _constant(seen_at.astimezone(UTC), count, pa.timestamp("us", tz="UTC")),
        "id": batch.column("id"),
        "source_id": batch.column("source_id"),
        "facts": facts.encode(batch.column("properties")),
        "props": batch.column("properties"),
        "first_seen": _constant(seen, count),
        "last_seen": _constant(seen, count),
        "archived_at": _constant("", count),
        "content_hash": batch.column("content_hash"),
        "version": _constant(version_of(seen_at), count),
        "op": _constant("upsert", count),
    }
    return pa.RecordBatch.from_pydict({name: columns[name] for name in STORED[table]})


def _search_texts(batch: pa.RecordBatch) -> pa.Array:
    ids, names, texts = (batch.column(n).to_pylist() for n in ("id", "name", "properties"))
    return pa.array(
        [
            search_text(name, read_json(id_, _bounded(id_, text)))
            for id_, name, text in zip(ids, names, texts, strict=True)
        ],
        _TEXT,
    )


def _bounded(id_: str, text: str) -> str:
    if len(text) > MAX_ROW_BYTES // 4 and len(text.encode()) > MAX_ROW_BYTES:
        raise InvalidError(
            f"the properties of {id_} are larger than {MAX_ROW_BYTES >> 20} MiB; "
            "shorten them, or give the text as a document instead"
        )
    return text


def _each_once(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The batch with the last row of each id."""
    ids = batch.column("id")
    if pc.count_distinct(ids).as_py() == batch.num_rows:
        return batch
    last = {id_: place for place, id_ in enumerate(ids.to_pylist())}
    return cast("pa.RecordBatch", batch.take(pa.array(sorted(last.values()), pa.int64())))


def _constant(value: Any, count: int, kind: pa.DataType = _TEXT) -> pa.Array:
    return pa.repeat(pa.scalar(value, kind), count)


def _after(version: str) -> str:
    return f"{int(version) + 1:0{VERSION_DIGITS}d}"
