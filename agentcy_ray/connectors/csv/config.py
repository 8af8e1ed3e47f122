"""How a ``csv`` source is configured."""

from __future__ import annotations

import codecs

from pydantic import Field, field_validator

from agentcy_ray.connectors.config import ConnectorConfig
from agentcy_ray.connectors.rows import EDGE_TYPE, LABEL
from agentcy_ray.connectors.source_file import FileConfig


class RelationshipColumn(ConnectorConfig):
    """A column whose cells name another node."""

    column: str = Field(description="column that names the target")
    type: str = Field(pattern=EDGE_TYPE, description="edge type, for example WORKS_AT")
    label: str = Field(pattern=LABEL, description="label of the target")
    external_id: str | None = Field(
        None, description="column with the target's id; unset: the cell of column itself"
    )


class CsvConfig(FileConfig):
    """Config of a ``csv`` source (product specification, §16)."""

    node_label: str = Field(pattern=LABEL, description="label of the rows")
    delimiter: str = Field(",", description="one character, or \\t for a tab")
    has_header: bool = Field(True, description="false: columns are called column_1, column_2, …")
    id_column: str | None = Field(
        None, description="column with a row's id; unset: a hash of the row is its id"
    )
    encoding: str = Field("utf-8", description="text encoding, for example utf-8 or cp1252")
    skip_rows: int = Field(0, ge=0, description="lines to skip before the header")
    max_rows: int | None = Field(None, ge=1, description="read at most this many rows")
    column_mapping: dict[str, str | None] = Field(
        default_factory=dict[str, str | None],
        description="column → property name; null leaves the column out",
    )
    relationship_columns: tuple[RelationshipColumn, ...] = Field(
        (), description="columns that become edges"
    )

    @field_validator("delimiter")
    @classmethod
    def _one_character(cls, value: str) -> str:
        value = "\t" if value in {"\\t", "tab"} else value
        if len(value) != 1 or value in '"\r\n':
            raise ValueError("must be one character, and neither a quote nor a line end")
        return value

    @field_validator("encoding")
    @classmethod
    def _known_encoding(cls, value: str) -> str:
        try:
            "a".encode(value)
        except LookupError as error:
            raise ValueError("no such text encoding; try utf-8, cp1252 or utf-16") from error
        return value

    @property
    def codec(self) -> str:
        """The codec to decode with: UTF-8 may start with a byte order mark."""
        name = codecs.lookup(self.encoding).name
        return "utf-8-sig" if name == "utf-8" else name
