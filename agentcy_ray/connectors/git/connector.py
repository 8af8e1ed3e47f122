"""The ``git`` connector and its sessions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Generator, Mapping
from typing import Any

import pygit2
from pydantic import BaseModel

from agentcy_ray.connectors.base import (
    ConnectorSpec,
    Cursors,
    ExtractItem,
    Mode,
    SessionContext,
)
from agentcy_ray.connectors.config import read_config
from agentcy_ray.connectors.conversion import Conversion
from agentcy_ray.connectors.git.config import GitConfig, Local, locate
from agentcy_ray.connectors.git.extract import FIRST, STREAM, Extraction
from agentcy_ray.connectors.git.mirror import Mirror, open_local
from agentcy_ray.connectors.git.read_tools import ReadTools
from agentcy_ray.connectors.git.rows import EDGE_TYPES, LABELS
from agentcy_ray.connectors.git.snapshot import Snapshot, take_snapshot
from agentcy_ray.connectors.git.tool_specs import TOOLS
from agentcy_ray.connectors.git.write_tools import WriteTools
from agentcy_ray.connectors.threads import pull
from agentcy_ray.core.errors import ToolNotFoundError
from agentcy_ray.core.tools import ToolSpec

FRESH_SECS = 60.0
"""Read tools use a mirror of this age without asking the server again."""
CALL_SECS = 120.0
"""How long a tool call may keep a thread waiting for the server."""

SPEC = ConnectorSpec(
    name="git",
    title="Git",
    description="Commits, branches, tags, authors and files of a git repository.",
    version="1",
    config_model=GitConfig,
    default_realm="development",
    labels=LABELS,
    edge_types=EDGE_TYPES,
    incremental=True,
    reports_deletions=True,
)


class GitConnector:
    """Git repositories, by libgit2; no git binary is needed."""

    @property
    def spec(self) -> ConnectorSpec:
        """What it is."""
        return SPEC

    def validate(self, config: Mapping[str, Any], context: SessionContext) -> BaseModel:
        """Read a config without touching the repository."""
        model = read_config(GitConfig, config)
        locate(model, context)
        return model

    def tools(self, config: BaseModel) -> list[ToolSpec]:
        """The same tools for every repository."""
        return list(TOOLS)

    async def open(self, config: BaseModel, context: SessionContext) -> GitSession:
        """A session; opens the repository when it is first asked something."""
        assert isinstance(config, GitConfig)
        return GitSession(config, context)


class GitSession:
    """One repository. Every call opens it anew: libgit2 repositories are not for many threads."""

    def __init__(self, config: GitConfig, context: SessionContext) -> None:
        self._config = config
        self._context = context
        self._conversion = Conversion()
        self._place = locate(config, context)
        self._mirror = (
            None
            if isinstance(self._place, Local)
            else Mirror(self._place, config, context.work_dir, context.guard)
        )

    async def check(self) -> None:
        """Open the folder, or ask the server for its refs.

        Raises:
            SourceConfigError: it is not there, cannot be reached, or refuses.
        """
        if self._mirror is not None:
            await asyncio.to_thread(self._mirror.check)
        else:
            await asyncio.to_thread(lambda: take_snapshot(self._open(), self._config))

    async def extract(self, cursors: Cursors, *, full: bool) -> AsyncIterator[ExtractItem]:
        """Everything, or what changed since the cursor; see ``Extraction``."""
        async for item in pull(self._extract(cursors, full=full)):
            yield item

    def _extract(self, cursors: Cursors, *, full: bool) -> Generator[ExtractItem, None, None]:
        cursor = None if full else cursors.get(STREAM)
        before = Snapshot.from_cursor(cursor) if cursor else None
        if before is None:
            # The first fetch is the long one: say the mode before it, so that it shows progress.
            yield Mode(full=True, note=FIRST)
        if self._mirror is not None:
            for progress in self._mirror.fetch():
                if before is None:
                    yield progress
        repo = self._open()
        now = take_snapshot(repo, self._config)
        name = self._config.url.strip().rstrip("/")
        globs, counts = self._config.include_path_globs, self._config.line_counts
        yield from Extraction(
            repo, name, now, before, globs, self._conversion, line_counts=counts
        ).run()

    async def call(
        self, tool: str, args: Mapping[str, Any], *, idempotency_key: str | None = None
    ) -> Any:
        """Execute one tool on a thread."""
        return await asyncio.to_thread(self._call, tool, dict(args), idempotency_key)

    def _call(self, tool: str, args: dict[str, Any], key: str | None) -> Any:
        if self._mirror is not None and self._mirror.age_secs() > FRESH_SECS:
            for _ in self._mirror.fetch(CALL_SECS):
                pass
        repo = self._open()
        writes = WriteTools(
            repo, self._config, self._place, self._context.work_dir, self._context.guard
        )
        if tool in WriteTools.NAMES:
            return writes.call(tool, args, key)
        if tool in ReadTools.NAMES:
            return ReadTools(repo, writes.existing(), self._config).call(tool, args)
        raise ToolNotFoundError(
            f"git offers no tool {tool!r}; its tools are {', '.join(spec.name for spec in TOOLS)}"
        )

    def _open(self) -> pygit2.Repository:
        if self._mirror is not None:
            return self._mirror.repository()
        assert isinstance(self._place, Local)
        return open_local(self._place.path, self._context.file_roots)

    async def close(self) -> None:
        """End the process that converts pages."""
        self._conversion.close()
