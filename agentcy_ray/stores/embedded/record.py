"""``embedded.json``: what the supervisor runs, for every process that wants to use it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from agentcy_ray.stores.embedded.layout import Layout, write_private
from agentcy_ray.stores.embedded.processes import Identity

ServerState = Literal["starting", "healthy", "restarting", "failed", "stopped"]


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a server does not run: the class of the error to raise, its message, Unix time."""

    error: str
    message: str
    at: float


@dataclass(frozen=True, slots=True)
class ServerRecord:
    """One server. ``endpoints`` holds fields of `Endpoints`, passwords included."""

    name: str
    state: ServerState
    pid: int | None = None
    version: str | None = None
    started_at: str | None = None
    restarts: int = 0
    ports: dict[str, int] = field(default_factory=dict)
    endpoints: dict[str, str] = field(default_factory=dict, repr=False)
    fault: Fault | None = None


@dataclass(frozen=True, slots=True)
class Record:
    """The whole file."""

    supervisor: Identity
    started_at: str
    run_dir: str
    servers: dict[str, ServerRecord]

    def write(self, layout: Layout) -> None:
        """Replace the file, mode 0600."""
        write_private(layout.record, json.dumps(asdict(self), indent=1))


def read(layout: Layout) -> Record | None:
    """The file's content, or None when there is none that can be used."""
    try:
        raw = json.loads(layout.record.read_text())
        return Record(
            supervisor=Identity(**raw["supervisor"]),
            started_at=raw["started_at"],
            run_dir=raw["run_dir"],
            servers={name: _server(row) for name, row in raw["servers"].items()},
        )
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        # absent, cut short, or of another version: it is rebuilt from the data folders
        return None


def _server(row: dict[str, Any]) -> ServerRecord:
    fault = row.pop("fault")
    return ServerRecord(**row, fault=Fault(**fault) if fault else None)
