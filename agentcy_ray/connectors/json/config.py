"""How a ``json`` source is configured."""

from __future__ import annotations

import re

from pydantic import Field, field_validator

from agentcy_ray.connectors.config import ConnectorConfig
from agentcy_ray.connectors.rows import EDGE_TYPE, LABEL
from agentcy_ray.connectors.source_file import FileConfig


def path_steps(path: str) -> tuple[str, ...]:
    """The keys of a dotted path; ``$.`` before it and ``[*]`` behind a key may stand or not."""
    body = re.sub(r"^\$\.?", "", path).replace("[*]", "")
    return tuple(step for step in body.split(".") if step)


class RelationshipPath(ConnectorConfig):
    """A path inside a record whose values name other nodes."""

    path: str = Field(
        min_length=1, description="dotted path to a value or object, or to a list of them"
    )
    type: str = Field(pattern=EDGE_TYPE, description="edge type, for example OWNED_BY")
    label: str = Field(pattern=LABEL, description="label of the target")
    external_id: str = Field("id", description="path to the id inside an object target")
    name: str = Field("name", description="path to the name inside an object target")


class JsonConfig(FileConfig):
    """Config of a ``json`` source (product specification, §16)."""

    node_label: str = Field(pattern=LABEL, description="label of the records")
    records_path: str = Field(
        "", description="dotted path to the records, for example data.items; empty: the top level"
    )
    id_path: str | None = Field(
        None, description="dotted path to a record's id; unset: a hash of the record is its id"
    )
    relationship_paths: tuple[RelationshipPath, ...] = Field(
        (), description="paths inside a record that become edges"
    )

    @field_validator("records_path")
    @classmethod
    def _plain_path(cls, value: str) -> str:
        if re.search(r"\[(?!\*\])|\?|\.\.", value):
            raise ValueError("write a dotted path such as data.items; filters are not supported")
        return value
