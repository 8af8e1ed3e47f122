"""The ``json`` connector: records of a JSON document or of NDJSON as nodes of one label."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentcy_ray.connectors.base import ConnectorSpec, Session, SessionContext
from agentcy_ray.connectors.config import read_config
from agentcy_ray.connectors.file_session import FileSession
from agentcy_ray.connectors.json.config import JsonConfig
from agentcy_ray.connectors.json.reader import read_json
from agentcy_ray.connectors.source_file import check_place
from agentcy_ray.core.tools import ToolSpec


class JsonConnector:
    """Records become nodes with their fields as properties; chosen paths become edges."""

    spec = ConnectorSpec(
        name="json",
        title="JSON file",
        description="A JSON document or NDJSON: records become nodes, chosen paths become edges.",
        version="1",
        config_model=JsonConfig,
        default_realm="data",
        incremental=True,
        reports_deletions=True,  # a changed file is read in full
    )

    def validate(self, config: Mapping[str, Any], context: SessionContext) -> JsonConfig:
        """Read a config without touching the file.

        Raises:
            SourceConfigError: kind ``config``.
        """
        parsed = read_config(JsonConfig, config)
        check_place(parsed, context)
        return parsed

    def tools(self, config: Any) -> list[ToolSpec]:
        """None: a document has no tools."""
        return []

    async def open(self, config: Any, context: SessionContext) -> Session:
        """A session on the file."""
        return FileSession(config, context, read_json)


__all__ = ["JsonConfig", "JsonConnector"]
