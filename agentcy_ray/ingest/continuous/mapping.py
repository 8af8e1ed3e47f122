"""From a record as it was sent to a row of its pipeline's table.

Each field of the table is read from its own name in the record, or from where the pipeline's
mapping says: a dotted path, or a constant. What of the record's top level is not used that way
becomes a property.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, cast
from uuid import UUID

import orjson
import pyarrow as pa

from agentcy_ray.connectors.records import clean_text, json_object
from agentcy_ray.connectors.rows import EDGE_TYPE, LABEL
from agentcy_ray.core.batches import EVENTS, SOURCE_EDGES, SOURCE_NODES
from agentcy_ray.core.clock import Clock, SystemClock
from agentcy_ray.core.errors import InvalidError
from agentcy_ray.core.ids import new_id

Row = dict[str, Any]
Record = Mapping[str, Any]

SCHEMAS: dict[str, pa.Schema] = {
    "context_nodes": SOURCE_NODES,
    "context_edges": SOURCE_EDGES,
    "context_events": EVENTS,
}
"""What the segments of a pipeline hold, by its table."""
FIELDS: dict[str, tuple[str, ...]] = {
    "context_nodes": ("label", "labels", "external_id", "name", "properties"),
    "context_edges": (
        "type", "src.label", "src.external_id", "dst.label", "dst.external_id", "properties",
    ),
    "context_events": (
        "at", "label", "body", "event_id", "service", "severity", "trace_id", "span_id",
        "duration_ms", "properties",
    ),
}  # fmt: skip
"""Fields of a record, by table; each may be mapped."""
EVENT_LABEL = "Event"
"""Label of an event that names none."""
ID_CHARS = 1_024

_LABEL, _TYPE = re.compile(LABEL), re.compile(EDGE_TYPE)
_EVENT_TEXTS = ("service", "severity", "trace_id", "span_id")
_MILLIS, _MICROS, _NANOS = 1e11, 1e14, 1e17
"""Numbers above are not seconds (the year 5138), not milliseconds, not microseconds."""


class RowError(ValueError):
    """A record that cannot become a row; the text is the reason that the sender is told."""


class RowMaker:
    """Makes rows of one pipeline; the ids and times of events that carry none are made up here."""

    def __init__(
        self,
        table: str,
        mapping: Mapping[str, Any],
        *,
        realm: str,
        pipeline_id: UUID,
        clock: Clock | None = None,
    ) -> None:
        """Read the mapping.

        Raises:
            InvalidError: a field is unknown, or neither a path nor a constant is given for it.
        """
        self._picks = {field: _picker(field, how, table) for field, how in mapping.items()}
        tops = {how.split(".")[0] for how in mapping.values() if isinstance(how, str)}
        self._used = tops | {field.split(".")[0] for field in FIELDS[table] if field not in mapping}
        self._realm = realm
        self._pipeline = pipeline_id.hex
        self._clock = clock or SystemClock()
        self.schema = SCHEMAS[table]
        makers: dict[str, Callable[[Record, str | None], Row]] = {
            "context_nodes": self._node,
            "context_edges": self._edge,
            "context_events": self._event,
        }
        self._make = makers[table]

    def row(self, record: Record, event_id: str | None = None) -> Row:
        """The row of a record.

        Args:
            record: as it was sent.
            event_id: the id of an event that carries none; None = a new one.

        Raises:
            RowError: it lacks what the table needs, or holds what cannot be stored.
        """
        try:
            return self._make(record, event_id)
        except (TypeError, OverflowError) as error:
            raise RowError(f"it cannot be stored: {error}") from error

    def _node(self, record: Record, _: str | None) -> Row:
        label = _matching(_LABEL, self._get(record, "label"), "label")
        others = self._get(record, "labels") or []
        if not isinstance(others, list):
            raise RowError("labels must be a list")
        labels = [label]
        for other in cast("list[Any]", others):
            text = _matching(_LABEL, other, "labels")
            if text not in labels:
                labels.append(text)
        external = _identity(self._get(record, "external_id"), "external_id")
        name = self._get(record, "name")
        return {
            "labels": labels,
            "external_id": external,
            "name": None if name is None else _text(name, "name"),
            "properties": self._properties(record),
        }

    def _edge(self, record: Record, _: str | None) -> Row:
        row: Row = {"type": _matching(_TYPE, self._get(record, "type"), "type")}
        for end in ("src", "dst"):
            label = self._get(record, f"{end}.label")
            row[f"{end}_label"] = _matching(_LABEL, label, f"{end}.label")
            external = self._get(record, f"{end}.external_id")
            row[f"{end}_external_id"] = _identity(external, f"{end}.external_id")
        return row | {"properties": self._properties(record)}

    def _event(self, record: Record, event_id: str | None) -> Row:
        label, body = self._get(record, "label"), self._get(record, "body")
        given = self._get(record, "event_id")
        duration = self._get(record, "duration_ms")
        if duration is not None and (
            isinstance(duration, bool) or not isinstance(duration, int | float)
        ):
            raise RowError("duration_ms must be a number")
        row: Row = {
            "at": self._moment(self._get(record, "at")),
            "label": EVENT_LABEL if label is None else _matching(_LABEL, label, "label"),
            "body": None if body is None else _body(body),
            "properties": self._properties(record),
            "realm": self._realm,
            "pipeline_id": self._pipeline,
            "event_id": (event_id or new_id().hex)
            if given is None
            else _identity(given, "event_id"),
            "duration_ms": None if duration is None else float(duration),
        }
        for name in _EVENT_TEXTS:
            value = self._get(record, name)
            row[name] = None if value is None else _text(value, name)
        return row

    def _get(self, record: Record, field: str) -> Any:
        pick = self._picks.get(field)
        return pick(record) if pick is not None else _follow(record, field)

    def _properties(self, record: Record) -> str:
        given = self._get(record, "properties")
        if given is None:
            given = {}
        if not isinstance(given, dict):
            raise RowError("properties must be an object")
        rest = {name: value for name, value in record.items() if name not in self._used}
        return json_object({**rest, **cast("dict[str, Any]", given)})

    def _moment(self, value: Any) -> datetime:
        if value is None:
            return self._clock.now()
        if isinstance(value, datetime):
            return _utc(value)
        try:
            if isinstance(value, str):
                return _utc(datetime.fromisoformat(value))
            if isinstance(value, int | float) and not isinstance(value, bool):
                return datetime.fromtimestamp(_seconds(value), UTC)
        except (ValueError, OverflowError, OSError) as error:
            raise RowError(f"at is no time: {error}") from error
        raise RowError("at must be RFC 3339 text or a number of seconds since 1970")


def check_mapping(table: str, mapping: Mapping[str, Any]) -> None:
    """Refuse a mapping that could not be used.

    Raises:
        InvalidError: a field is unknown, or neither a path nor a constant is given for it.
    """
    for field, how in mapping.items():
        _picker(field, how, table)


def _picker(field: str, how: Any, table: str) -> Callable[[Record], Any]:
    if field not in FIELDS[table]:
        known = ", ".join(FIELDS[table])
        message = f"{table} has no field {field!r}; there are: {known}"
        raise InvalidError(message, errors=[{"loc": f"mapping.{field}", "message": message}])
    if isinstance(how, str) and how and all(how.split(".")):
        path = how
        return lambda record: _follow(record, path)
    if isinstance(how, dict) and list(cast("dict[str, Any]", how)) == ["const"]:
        value = cast("dict[str, Any]", how)["const"]
        return lambda _: value
    message = 'give a dotted path such as "payload.id", or {"const": value}'
    raise InvalidError(
        f"mapping.{field}: {message}", errors=[{"loc": f"mapping.{field}", "message": message}]
    )


def _follow(record: Any, path: str) -> Any:
    found: Any = record
    for part in path.split("."):
        if not isinstance(found, dict):
            return None
        found = cast("dict[str, Any]", found).get(part)
    return found


def _matching(pattern: re.Pattern[str], value: Any, field: str) -> str:
    if value is None:
        raise RowError(f"{field} is missing")
    if not isinstance(value, str) or not pattern.match(value):
        raise RowError(f"{field} {_shown(value)} does not match {pattern.pattern}")
    return value


def _identity(value: Any, field: str) -> str:
    if value is None or value == "":
        raise RowError(f"{field} is missing")
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or len(value) > ID_CHARS:
        raise RowError(f"{field} must be text of {ID_CHARS} characters at most, or a whole number")
    return clean_text(value)


def _text(value: Any, field: str) -> str:
    if isinstance(value, bool | int | float):
        return orjson.dumps(value).decode()
    if not isinstance(value, str):
        raise RowError(f"{field} must be text")
    return clean_text(value)


def _body(value: Any) -> str:
    return clean_text(value) if isinstance(value, str) else orjson.dumps(value).decode()


def _shown(value: Any) -> str:
    return repr(value)[:60]


def _utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _seconds(value: float) -> float:
    for bound, unit in ((_NANOS, 1e9), (_MICROS, 1e6), (_MILLIS, 1e3)):
        if abs(value) > bound:
            return value / unit
    return value
