"""The ``files`` connector and its sessions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from agentcy_ray.connectors.base import ConnectorSpec, Cursors, ExtractItem, SessionContext
from agentcy_ray.connectors.config import fault, file_within
from agentcy_ray.connectors.conversion import Conversion
from agentcy_ray.connectors.files.config import FilesConfig, read_files_config
from agentcy_ray.connectors.files.extract import STREAM, Extraction
from agentcy_ray.connectors.files.places import FolderPlace, ObjectPlace
from agentcy_ray.connectors.files.rows import EDGE_TYPES, LABELS
from agentcy_ray.connectors.files.tool_specs import READ_TOOLS, WRITE_FILE
from agentcy_ray.connectors.files.tools import Tools
from agentcy_ray.connectors.threads import pull
from agentcy_ray.core.errors import ToolNotFoundError
from agentcy_ray.core.tools import ToolSpec

SPEC = ConnectorSpec(
    name="files",
    title="Files",
    description="Folders, files and documents with their text: Markdown, code, HTML, PDF, Office.",
    version="1",
    config_model=FilesConfig,
    default_realm="knowledge",
    labels=LABELS,
    edge_types=EDGE_TYPES,
    incremental=True,
    reports_deletions=True,
)


class FilesConnector:
    """Files of a folder or of the object store."""

    @property
    def spec(self) -> ConnectorSpec:
        """What it is."""
        return SPEC

    def validate(self, config: Mapping[str, Any], context: SessionContext) -> BaseModel:
        """Read a config without touching a file."""
        return read_files_config(config, context)

    def tools(self, config: BaseModel) -> list[ToolSpec]:
        """Reading tools; the writing one only when the config allows it."""
        assert isinstance(config, FilesConfig)
        return [*READ_TOOLS, *([WRITE_FILE] if config.writable else [])]

    async def open(self, config: BaseModel, context: SessionContext) -> FilesSession:
        """A session; looks at the place when it is first asked something."""
        assert isinstance(config, FilesConfig)
        return FilesSession(config, context)


class FilesSession:
    """One folder or prefix; only a process that converts files stays open between calls."""

    def __init__(self, config: FilesConfig, context: SessionContext) -> None:
        self._config = config
        self._context = context
        self._conversion = Conversion()

    async def check(self) -> None:
        """List the place.

        Raises:
            SourceConfigError: the folder is not there or not to be read, or there is no object
                store.
        """
        place, _ = self._place()
        if isinstance(place, FolderPlace):
            await asyncio.to_thread(place.check)
        else:
            await self._context.objects.list(self._config.object_prefix)

    async def extract(self, cursors: Cursors, *, full: bool) -> AsyncIterator[ExtractItem]:
        """Everything, or what changed since the cursor; see ``Extraction``."""
        place, _ = self._place()
        if isinstance(place, FolderPlace):
            await asyncio.to_thread(place.check)
        cursor = None if full else cursors.get(STREAM)
        manifests = self._context.work_dir / "manifests"
        known = dict(cursor) if cursor else None
        async for item in pull(
            Extraction(place, self._config, manifests, known, self._conversion).run()
        ):
            yield item

    async def call(
        self, tool: str, args: Mapping[str, Any], *, idempotency_key: str | None = None
    ) -> Any:
        """Execute one tool on a thread. Writing the same text again is the same as writing it."""
        place, root = self._place()
        tools = Tools(place, self._config, root, self._conversion)
        if tool not in tools.names:
            raise ToolNotFoundError(
                f"files offers no tool {tool!r}; its tools are {', '.join(tools.names)}"
            )
        return await asyncio.to_thread(tools.call, tool, args)

    def _place(self) -> tuple[FolderPlace | ObjectPlace, Path | None]:
        config, context = self._config, self._context
        if config.root is not None:
            root = file_within(config.root, context.file_roots, loc="root")
            return FolderPlace(root), root
        if context.objects is None or config.object_prefix is None:
            raise fault("config", "there is no object store here; name a root", loc="object_prefix")
        loop = asyncio.get_running_loop()
        return ObjectPlace(context.objects, config.object_prefix, loop), None

    async def close(self) -> None:
        """End the process that converts."""
        self._conversion.close()
