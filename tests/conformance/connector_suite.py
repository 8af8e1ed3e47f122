"""What the connector conformance suite asks of a connector, and how a connector hands it a case."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from agentcy_ray.connectors.base import (
    Batch,
    Checkpoint,
    Connector,
    Cursors,
    Mode,
    Rejected,
    Session,
    SessionContext,
)
from agentcy_ray.core.tools import Effect
from tests.egress import loopback_guard

KEYS = {
    "nodes": ("realm", "labels", "external_id"),
    "edges": (
        "src_realm", "src_label", "src_external_id", "type",
        "dst_realm", "dst_label", "dst_external_id",
    ),
    "documents": ("realm", "label", "external_id"),
}  # fmt: skip

SPECIFIED: Mapping[str, Mapping[str, Effect]] = {
    "csv": {},
    "json": {},
    "files": {
        "list_files": Effect.READ,
        "read_file": Effect.READ,
        "search_text": Effect.READ,
        "write_file": Effect.WRITE,
    },
    "git": {
        "log": Effect.READ,
        "show": Effect.READ,
        "file": Effect.READ,
        "grep": Effect.READ,
        "diff": Effect.READ,
        "branch": Effect.WRITE,
        "commit": Effect.WRITE,
        "push": Effect.WRITE,
    },
    "demo": {
        "lookup": Effect.READ,
        "restart_service": Effect.WRITE,
        "delete_record": Effect.DESTRUCTIVE,
    },
}
"""The tool table of the product specification, §16, for every connector that is shipped."""


@dataclass(frozen=True)
class Prepared:
    """A source that exists, and a config that reads it."""

    config: Mapping[str, Any]
    file_roots: tuple[Path, ...] = ()
    objects: Any = None
    reads: Sequence[tuple[str, Mapping[str, Any]]] = ()
    """Calls of ``read`` tools that must answer with JSON."""
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ConnectorCase:
    """One connector with one config. ``id`` names the case in the test report."""

    id: str
    connector: Callable[[], Connector]
    prepare: Callable[[Path], Prepared]
    """Make the source in an empty folder."""
    effects: Mapping[str, Effect]
    """Every tool that this config offers, with its effect."""


def all_cases() -> list[ConnectorCase]:
    """The cases of every module in ``connector_cases``."""
    package = importlib.import_module("tests.conformance.connector_cases")
    names = sorted(module.name for module in pkgutil.iter_modules(package.__path__))
    modules = [importlib.import_module(f"{package.__name__}.{name}") for name in names]
    return [case for module in modules for case in module.CASES]


@dataclass
class Extract:
    """Everything that one extract yielded."""

    items: list[Any] = field(default_factory=list)

    @property
    def mode(self) -> Mode:
        assert isinstance(self.items[0], Mode), "the first item is a Mode"
        return self.items[0]

    @property
    def batches(self) -> list[Batch]:
        return [item for item in self.items if isinstance(item, Batch)]

    @property
    def rejected(self) -> list[Rejected]:
        return [item for item in self.items if isinstance(item, Rejected)]

    @property
    def cursors(self) -> Cursors:
        """The last cursor of each stream, as a store gives it back: through JSON."""
        marks = [item for item in self.items if isinstance(item, Checkpoint)]
        return orjson.loads(orjson.dumps({mark.stream: dict(mark.cursor) for mark in marks}))

    def rows(self, kind: str) -> list[dict[str, Any]]:
        return [
            row for batch in self.batches if batch.kind == kind for row in batch.rows.to_pylist()
        ]

    def state(self, kind: str) -> dict[str, dict[str, Any]]:
        """Rows by key, last one wins: what a package makes of them."""
        return {repr([row[name] for name in KEYS[kind]]): row for row in self.rows(kind)}


@dataclass
class Opened:
    """A session with what made it."""

    case: ConnectorCase
    connector: Connector
    prepared: Prepared
    context: SessionContext
    config: Any
    session: Session

    async def extract(self, cursors: Cursors | None = None, *, full: bool = True) -> Extract:
        items = [item async for item in self.session.extract(cursors or {}, full=full)]
        return Extract(items)


async def open_case(case: ConnectorCase, folder: Path) -> Opened:
    """Prepare the source of a case and open a session on it."""
    origin, work = folder / "origin", folder / "work"
    for path in (origin, work):
        path.mkdir()
    prepared = case.prepare(origin)
    context = SessionContext(
        source_id="0" * 32,
        work_dir=work,
        file_roots=prepared.file_roots,
        objects=prepared.objects,
        extra=prepared.extra,
        guard=loopback_guard(),
    )
    connector = case.connector()
    config = connector.validate(prepared.config, context)
    session = await connector.open(config, context)
    return Opened(case, connector, prepared, context, config, session)
