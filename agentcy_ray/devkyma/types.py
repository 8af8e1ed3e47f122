"""kyma's eight column types and their Arrow counterparts."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

import pyarrow as pa

VECTOR = re.compile(r"^vector\(([1-9][0-9]{0,4})\)$")

_ARROW: dict[str, pa.DataType] = {
    "bool": pa.bool_(),
    "int": pa.int32(),
    "long": pa.int64(),
    "real": pa.float64(),
    "string": pa.string(),
    "timestamp": pa.timestamp("ns"),
    "dynamic": pa.binary(),
}


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table; ``type`` is kyma's name of the type."""

    name: str
    type: str

    @property
    def nullable(self) -> bool:
        """Only vectors have to be there in every row."""
        return not self.type.startswith("vector")

    @property
    def arrow(self) -> pa.DataType:
        """The Arrow type of the column."""
        return arrow_type(self.type)


Columns = tuple[Column, ...]

DEFAULT_COLUMNS: Columns = (
    Column("at", "timestamp"),
    Column("label", "string"),
    Column("body", "string"),
    Column("props", "dynamic"),
)
"""The shape in which ingest creates a table."""


def arrow_type(name: str) -> pa.DataType:
    """The Arrow type of a kyma type.

    Raises:
        ValueError: there is no such type.
    """
    if (known := _ARROW.get(name)) is not None:
        return known
    if (vector := VECTOR.match(name)) is not None:
        item = pa.field("item", pa.float32(), nullable=False)
        return pa.list_(item, int(vector[1]))
    raise ValueError(
        f"unknown type {name!r}: bool int long real string timestamp dynamic vector(N)"
    )


def schema_of(columns: Columns) -> pa.Schema:
    """The Arrow schema of a table."""
    return pa.schema([pa.field(c.name, c.arrow, nullable=c.nullable) for c in columns])


def dump_columns(columns: Columns) -> str:
    """Columns as the catalog keeps them."""
    fields = [{"name": c.name, "type": c.type, "nullable": c.nullable} for c in columns]
    return json.dumps({"fields": fields})


def load_columns(text: str) -> Columns:
    """The reverse of ``dump_columns``."""
    return tuple(Column(f["name"], f["type"]) for f in json.loads(text)["fields"])
