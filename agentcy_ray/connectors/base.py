"""The connector protocol.

A connector plays two roles over one session: it yields what it knows as Arrow batches, and it
offers tools. It never writes to a store and knows no tenant; the platform addresses what it yields
and gates what it executes.

Sessions live on session hosts. ``extract`` is an async iterator that must not hold the source in
memory: a batch holds ``BATCH_ROWS`` rows or ``BATCH_BYTES`` bytes, whichever comes first. Work that
blocks (libgit2, parsing) belongs on a thread.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import pyarrow as pa
from pydantic import BaseModel

from agentcy_ray.connectors.limits import Limits
from agentcy_ray.core.access_settings import AccessSettings
from agentcy_ray.core.tools import Probe, ToolSpec
from agentcy_ray.stores.egress import Egress, Guard

BATCH_ROWS = 5_000
BATCH_BYTES = 8 * 1024 * 1024

BatchKind = Literal[
    "nodes", "edges", "documents", "tombstones", "edge_tombstones", "document_tombstones"
]
"""Keys of ``core.batches.SOURCE_SCHEMAS``. Tombstones come only in incremental extracts: a gone
node takes its edges and its document along; the other two name what went while its node stayed."""

Cursors = Mapping[str, Mapping[str, Any]]
"""Stream name → the cursor that the last published sync left, a JSON object."""


@dataclass(frozen=True)
class ConnectorSpec:
    """What a connector is, for the catalog and for ``validate``."""

    name: str
    title: str
    description: str
    version: str
    config_model: type[BaseModel]
    """Config as a pydantic model; its JSON Schema draws the form. Secrets are ``SecretStr``."""
    default_realm: str
    labels: tuple[str, ...] = ()
    edge_types: tuple[str, ...] = ()
    incremental: bool = False
    reports_deletions: bool = False
    """Whether an incremental extract names all that is gone: nodes, edges and documents."""
    internal: bool = False
    """Whether the platform itself makes sources of it, and nobody else."""
    limits: Limits = field(default_factory=Limits)
    """How hard one session may be used; a source's own ``limits`` say otherwise."""


@dataclass(frozen=True)
class Batch:
    """A bounded piece of an extract: rows of one of the ``SOURCE_*`` schemas."""

    kind: BatchKind
    rows: pa.RecordBatch


@dataclass(frozen=True)
class Checkpoint:
    """The stream's cursor after everything yielded so far; kept only if the sync publishes."""

    stream: str
    cursor: Mapping[str, Any]


@dataclass(frozen=True)
class Rejected:
    """A row that could not be read; the extract goes on."""

    where: str
    reason: str


@dataclass(frozen=True)
class Mode:
    """What the extract really is: an incremental request may turn out to need a full one."""

    full: bool
    note: str = ""


@dataclass(frozen=True)
class Progress:
    """How far an extract is; ``total`` None = not known yet."""

    done: int
    total: int | None
    unit: str
    note: str = ""


ExtractItem = Batch | Checkpoint | Rejected | Mode | Progress
"""What ``extract`` yields. The first item is always a ``Mode``."""


def _public_only() -> Guard:
    return Egress(AccessSettings()).guard("tenant")


@dataclass(frozen=True)
class SessionContext:
    """What a session may use of its surroundings."""

    source_id: str
    work_dir: Path
    """A folder of this source alone, kept between sessions (clones, caches)."""
    file_roots: tuple[Path, ...] = ()
    """Server folders that a config may name; empty = none."""
    objects: Any = None
    """Object store for ``object_key`` configs; None when there is none."""
    guard: Guard = field(default_factory=_public_only)
    """Says where the session may connect to. Clients are made of it by ``open_http``; what opens
    sockets by itself asks its ``addresses``. Unset = any public host."""
    extra: Mapping[str, Any] = field(default_factory=dict[str, Any])


class Session(Protocol):
    """A live connection to one source."""

    async def check(self) -> None:
        """Reach the source with the credentials at hand.

        Raises:
            SourceConfigError: with kind ``credentials``, ``scope``, ``unreachable`` or ``config``.
        """
        ...

    def extract(self, cursors: Cursors, *, full: bool) -> AsyncIterator[ExtractItem]:
        """Everything that the source knows, or what changed since ``cursors``.

        Raises:
            SourceConfigError: the source cannot be read as configured.
            ConnectorError: it failed while being read.
        """
        ...

    async def call(
        self, tool: str, args: Mapping[str, Any], *, idempotency_key: str | None = None
    ) -> Any:
        """Execute one tool; returns a JSON value. Arguments were checked against the schema.

        Raises:
            ConnectorError: the source refused or failed.
        """
        ...

    async def close(self) -> None:
        """Let go of files, processes and sockets."""
        ...


class ProbingSession(Session, Protocol):
    """A session of a connector whose specs say ``probe`` of some tool."""

    async def probe(self, tool: str, args: Mapping[str, Any], *, idempotency_key: str) -> Probe:
        """What became of the call with this key, asked after its answer was lost; changes nothing.

        ``not_done`` says that no call with this key has had its effect by now. One that is still
        under way may have it later, so ``call`` has to answer a key that it has carried out from
        its record and not carry it out again.

        Raises:
            ConnectorError: the source could not be asked.
        """
        ...


class Connector(Protocol):
    """A kind of source. Stateless; all state is in its sessions."""

    @property
    def spec(self) -> ConnectorSpec:
        """What it is."""
        ...

    def validate(self, config: Mapping[str, Any], context: SessionContext) -> BaseModel:
        """Read a config without touching the source.

        Raises:
            SourceConfigError: kind ``config``; ``details["errors"]`` lists ``{loc, message}``.
        """
        ...

    def tools(self, config: BaseModel) -> list[ToolSpec]:
        """Tools that a source with this config offers."""
        ...

    async def open(self, config: BaseModel, context: SessionContext) -> Session:
        """A session; cheap, does not reach out before it is asked something."""
        ...
