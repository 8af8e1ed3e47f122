"""A continuous pipeline as rows and callers see it."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from agentcy_ray.connectors.source_records import NAME
from agentcy_ray.core.ids import IngestTokenId, OrgId, PipelineId, PipelineRunId, SourceId

Kind = Literal["webhook", "file_drop", "connector", "otlp", "kafka"]
Target = Literal["context_nodes", "context_edges", "context_events"]
Format = Literal["ndjson", "json", "csv", "parquet"]

REJECTS_KEPT = 100

Mapping = dict[str, Any]
"""Target field → dotted path into the record, or ``{"const": value}``."""


class FileDrop(BaseModel):
    """``config`` of kind ``file_drop``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prefix: str = Field(description="Folder below the organisation's files.", max_length=512)
    format: Format
    bucket: str | None = Field(default=None, description="Not supported; the install's own store.")

    @field_validator("prefix")
    @classmethod
    def _is_folder(cls, value: str) -> str:
        parts = value.strip("/").split("/")
        if any(part in ("", ".", "..") for part in parts) or "\x00" in value:
            raise ValueError("must be a folder such as drops/orders")
        return "/".join(parts)


class ConnectorRuns(BaseModel):
    """``config`` of kind ``connector``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source_id: SourceId


class Nothing(BaseModel):
    """``config`` of the other kinds."""

    model_config = ConfigDict(frozen=True, extra="forbid")


CONFIGS: dict[str, type[BaseModel]] = {
    "webhook": Nothing,
    "otlp": Nothing,
    "file_drop": FileDrop,
    "connector": ConnectorRuns,
}


class NewPipeline(BaseModel):
    """What makes a pipeline."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(pattern=NAME)
    kind: Kind
    target_table: Target = "context_events"
    realm: str = "default"
    config: dict[str, Any] = Field(default_factory=dict)
    mapping: Mapping = Field(default_factory=dict)
    require_signature: bool = False
    enabled: bool = True


class PipelineChange(BaseModel):
    """What to change of a pipeline; absent fields stay. Kind, table and realm are for good."""

    model_config = ConfigDict(extra="forbid")

    name: str | None = Field(None, pattern=NAME)
    config: dict[str, Any] | None = None
    mapping: Mapping | None = None
    require_signature: bool | None = None
    enabled: bool | None = None


class Pipeline(BaseModel):
    """A continuous pipeline."""

    model_config = ConfigDict(frozen=True)

    id: PipelineId
    org_id: OrgId
    name: str
    kind: Kind
    target_table: Target
    realm: str
    source_id: SourceId
    """The source that its records belong to."""
    config: dict[str, Any]
    mapping: Mapping
    require_signature: bool
    enabled: bool
    created_at: datetime
    updated_at: datetime


class NewToken(BaseModel):
    """A token to make."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(default="token", min_length=1, max_length=100)
    with_secret: bool = False


class IngestToken(BaseModel):
    """A token as lists show it."""

    model_config = ConfigDict(frozen=True)

    id: IngestTokenId
    name: str
    signed: bool
    """Whether it has a signing secret."""
    last_used_at: datetime | None
    revoked_at: datetime | None
    created_at: datetime


class MadeToken(BaseModel):
    """A token as it is shown once."""

    id: IngestTokenId
    token: str = Field(repr=False)
    secret: str | None = Field(default=None, repr=False)
    url: str = Field(repr=False)
    """Where records are posted."""


class PipelineRun(BaseModel):
    """What a pipeline took between two seals, or one sync of its connector's source."""

    model_config = ConfigDict(frozen=True)

    id: str
    status: str
    """``open`` or ``sealed``; a sync's own status for kind ``connector``."""
    requests: int = 0
    accepted: int = 0
    rejected: int = 0
    segments: int = 0
    published: int = 0
    """Segments that readers see."""
    bytes: int = 0
    rejects: list[dict[str, Any]] = Field(default_factory=list)
    """The first hundred."""
    counts: dict[str, Any] = Field(default_factory=dict)
    """Of a sync."""
    started_at: datetime | None
    sealed_at: datetime | None


class Reject(BaseModel):
    """A record that was not taken."""

    line: int
    reason: str


class IngestAnswer(BaseModel):
    """What became of the records of one request."""

    accepted: int
    rejected: int
    errors: list[Reject]
    run_id: PipelineRunId
