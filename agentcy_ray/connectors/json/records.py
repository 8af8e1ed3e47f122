"""A JSON value as a record: its id, name, typed properties and links."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, cast

from agentcy_ray.connectors.base import Rejected
from agentcy_ray.connectors.inference import infer, read_datetime
from agentcy_ray.connectors.json.config import JsonConfig, path_steps
from agentcy_ray.connectors.rows import Link, Record, content_id

Item = tuple[str, Any]
"""Where a value stands in the file, and the value."""


class RecordReader:
    """Reads values under one config; text fields that hold times in the sample become times."""

    def __init__(self, config: JsonConfig, sample: Sequence[Item]) -> None:
        self._id = path_steps(config.id_path) if config.id_path else None
        self._id_path = config.id_path
        self._links = [
            (link, path_steps(link.path), path_steps(link.external_id), path_steps(link.name))
            for link in config.relationship_paths
        ]
        texts: dict[str, list[str]] = {}
        for _, value in sample:
            if isinstance(value, Mapping):
                for name, field in cast("Mapping[str, Any]", value).items():
                    if isinstance(field, str):
                        texts.setdefault(name, []).append(field)
        self._times = {name for name, values in texts.items() if infer(values) == "datetime"}

    def record(self, item: Item) -> Record | Rejected:
        """A value as a record, or why it cannot be one."""
        where, value = item
        if not isinstance(value, Mapping):
            return Rejected(where, f"it is {_kind(value)}, not an object")
        fields = cast("Mapping[str, Any]", value)
        if self._id is None:
            external_id = content_id(fields)
        elif (external_id := _text(next(_values(fields, self._id), None))) is None:
            return Rejected(where, f"it has no id at {self._id_path!r}")
        properties = {name: self._property(name, field) for name, field in fields.items()}
        name = _text(fields.get("name")) or _text(fields.get("title"))
        return Record(external_id, name, properties, tuple(self._targets(fields)))

    def _property(self, name: str, value: Any) -> Any:
        if name in self._times and isinstance(value, str):
            return read_datetime(value.strip()) or value
        return value

    def _targets(self, fields: Mapping[str, Any]) -> Iterator[Link]:
        for link, path, id_path, name_path in self._links:
            for target in _values(fields, path):
                if isinstance(target, Mapping):
                    external_id = _text(next(_values(target, id_path), None))
                    name = _text(next(_values(target, name_path), None))
                else:
                    external_id = name = _text(target)
                if external_id:
                    yield Link(link.type, link.label, external_id, name)


def _values(value: Any, steps: tuple[str, ...]) -> Iterator[Any]:
    """Every value that a path leads to; lists on the way are walked through."""
    if isinstance(value, list):
        for item in cast("list[Any]", value):
            yield from _values(item, steps)
    elif not steps:
        yield value
    elif isinstance(value, Mapping) and steps[0] in value:
        yield from _values(cast("Mapping[str, Any]", value)[steps[0]], steps[1:])


def _text(value: Any) -> str | None:
    """A text or number as an id or name; None for what can be neither."""
    if isinstance(value, str):
        return value.strip() or None
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        return str(value)
    return None


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a truth value"
    return "a list" if isinstance(value, list) else "text" if isinstance(value, str) else "a number"
