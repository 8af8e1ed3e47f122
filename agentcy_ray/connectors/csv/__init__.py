"""The ``csv`` connector: a table in a text file as nodes of one label."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentcy_ray.connectors.base import ConnectorSpec, Session, SessionContext
from agentcy_ray.connectors.config import read_config
from agentcy_ray.connectors.csv.config import CsvConfig
from agentcy_ray.connectors.csv.reader import read_csv
from agentcy_ray.connectors.file_session import FileSession
from agentcy_ray.connectors.source_file import check_place
from agentcy_ray.core.tools import ToolSpec


class CsvConnector:
    """Rows become nodes with typed properties; chosen columns become edges."""

    spec = ConnectorSpec(
        name="csv",
        title="CSV file",
        description="A delimited text file: rows become nodes, chosen columns become edges.",
        version="1",
        config_model=CsvConfig,
        default_realm="data",
        incremental=True,
        reports_deletions=True,  # a changed file is read in full
    )

    def validate(self, config: Mapping[str, Any], context: SessionContext) -> CsvConfig:
        """Read a config without touching the file.

        Raises:
            SourceConfigError: kind ``config``.
        """
        parsed = read_config(CsvConfig, config)
        check_place(parsed, context)
        return parsed

    def tools(self, config: Any) -> list[ToolSpec]:
        """None: a table has no tools."""
        return []

    async def open(self, config: Any, context: SessionContext) -> Session:
        """A session on the file."""
        return FileSession(config, context, read_csv)


__all__ = ["CsvConfig", "CsvConnector"]
