"""The columns of a table: their names and types, and how a row becomes a record."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from typing import Any

from agentcy_ray.connectors.base import Rejected
from agentcy_ray.connectors.config import fault
from agentcy_ray.connectors.csv.config import CsvConfig
from agentcy_ray.connectors.inference import ColumnType, convert, infer
from agentcy_ray.connectors.rows import Link, Record, content_id

Row = tuple[int, list[str]]
"""The line that a row starts at, and its cells."""

_NAME_PROPERTIES = ("name", "title")


class Table:
    """Columns of one file under one config.

    Raises:
        SourceConfigError: the config speaks of a column that the file does not have.
    """

    def __init__(self, config: CsvConfig, first: Row, sample: Sequence[Row]) -> None:
        self.names = _column_names(first[1], header=config.has_header)
        whole = [cells for _, cells in sample if len(cells) == len(self.names)]
        columns: list[Sequence[str]] = list(zip(*whole, strict=True)) or [()] * len(self.names)
        self.types: list[ColumnType] = [infer(column) for column in columns]
        self._properties = [config.column_mapping.get(name, name) for name in self.names]
        self._id = self._index(config.id_column, "id_column") if config.id_column else None
        for name in config.column_mapping:
            self._index(name, "column_mapping")
        self._links = [
            (link, self._index(link.column, "relationship_columns.column"),
             self._index(link.external_id or link.column, "relationship_columns.external_id"))
            for link in config.relationship_columns
        ]  # fmt: skip
        self._name = self._name_column()

    def record(self, row: Row) -> Record | Rejected:
        """A row as a record, or why it cannot be one."""
        line, cells = row
        if len(cells) != len(self.names):
            return Rejected(
                f"line {line}",
                f"it has {len(cells)} cells where there are {len(self.names)} columns",
            )
        properties: dict[str, Any] = {}
        for name, kind, cell in zip(self._properties, self.types, cells, strict=True):
            if name and (value := convert(cell, kind)) is not None:
                properties[name] = value
        if self._id is None:
            external_id = content_id(dict(zip(self.names, cells, strict=True)))
        else:
            external_id = cells[self._id].strip()
        if not external_id:
            return Rejected(f"line {line}", f"its {self.names[self._id or 0]!r} is empty")
        name = None if self._name is None else cells[self._name].strip()
        return Record(external_id, name, properties, tuple(self._targets(cells)))

    def _targets(self, cells: Sequence[str]) -> Iterator[Link]:
        for link, name, external_id in self._links:
            if target := cells[external_id].strip():
                yield Link(link.type, link.label, target, cells[name].strip())

    def _name_column(self) -> int | None:
        lowered = [(name or "").lower() for name in self._properties]
        return next((lowered.index(name) for name in _NAME_PROPERTIES if name in lowered), None)

    def _index(self, name: str, loc: str) -> int:
        if name in self.names:
            return self.names.index(name)
        near = get_close_matches(name, self.names, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"columns: {', '.join(self.names[:50])}"
        raise fault("config", f"the file has no column {name!r}; {hint}", loc=loc)


def _column_names(cells: Sequence[str], *, header: bool) -> list[str]:
    """Header cells, or ``column_1`` … where there is none or it is blank; repeats get a suffix."""
    names: list[str] = []
    for position, cell in enumerate(cells, 1):
        name = (cell.strip() if header else "") or f"column_{position}"
        suffix = 2
        unique = name
        while unique in names:
            unique, suffix = f"{name}_{suffix}", suffix + 1
        names.append(unique)
    return names
