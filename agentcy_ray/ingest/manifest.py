"""What a package is: the manifest, the layout of its keys, and its segments.

``packages/<org>/<source>/<package>/manifest.json`` beside ``nodes/``, ``edges/``, ``documents/``
and ``tombstones/`` segments in Parquet. Create-only: nothing in it ever changes.
"""

from __future__ import annotations

from datetime import datetime
from hashlib import sha256
from typing import Any, Literal
from uuid import UUID

import orjson
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from agentcy_ray.core.batches import DOCUMENTS, EDGES, TOMBSTONES
from agentcy_ray.ingest.addressing import PACKAGE_NODES

SCHEMA_VERSION = 1

Kind = Literal["nodes", "edges", "documents"]
KINDS: tuple[Kind, ...] = ("nodes", "edges", "documents")
KEYS: dict[Kind, str] = {"nodes": "id", "edges": "id", "documents": "node_id"}
"""The column that a kind is sorted by and compared on."""
SCHEMAS: dict[str, pa.Schema] = {
    "nodes": PACKAGE_NODES,
    "edges": EDGES,
    "documents": DOCUMENTS,
    "tombstones": TOMBSTONES,
}
TOMBSTONE_KINDS: dict[Kind, str] = {"nodes": "node", "edges": "edge", "documents": "document"}


class Segment(BaseModel):
    """One Parquet file of a package; ``path`` is relative to the package."""

    model_config = ConfigDict(frozen=True)

    path: str
    rows: int
    bytes: int
    sha256: str

    @property
    def kind(self) -> str:
        """Its folder: a kind, or ``tombstones``."""
        return self.path.partition("/")[0]


class Manifest(BaseModel):
    """The description of a package; its JSON is stored with it and in its row."""

    model_config = ConfigDict(frozen=True)

    package_id: UUID
    org_id: UUID
    source_id: UUID
    connector: str
    connector_version: str
    schema_version: int = SCHEMA_VERSION
    state: Literal["full", "delta"]
    base: UUID | None = None
    """The package that a delta continues."""
    cursors: dict[str, dict[str, Any]] = Field(default_factory=dict)
    counts: dict[str, int] = Field(default_factory=dict)
    segments: tuple[Segment, ...] = ()
    created_at: datetime
    digest: str = ""

    @property
    def prefix(self) -> str:
        """Where its objects lie, with a final slash."""
        return package_prefix(self.org_id, self.source_id, self.package_id)

    @property
    def bytes(self) -> int:
        """Size of its segments."""
        return sum(segment.bytes for segment in self.segments)

    def sealed(self) -> Manifest:
        """The same with its digest: SHA-256 over the rest as sorted JSON."""
        body = self.model_dump(mode="json", exclude={"digest"})
        digest = sha256(orjson.dumps(body, option=orjson.OPT_SORT_KEYS)).hexdigest()
        return self.model_copy(update={"digest": digest})


def package_prefix(org_id: UUID, source_id: UUID, package_id: UUID) -> str:
    """Key prefix of a package on the object store."""
    return f"packages/{org_id.hex}/{source_id.hex}/{package_id.hex}/"
