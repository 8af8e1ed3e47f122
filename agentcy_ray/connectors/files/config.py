"""Config of the ``files`` connector: a folder of this server, or a prefix of the object store."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import Field, model_validator

from agentcy_ray.connectors.base import SessionContext
from agentcy_ray.connectors.config import ConnectorConfig, fault, file_within, read_config

IGNORED = (
    ".git", ".hg", ".svn", "node_modules", "__pycache__", ".venv", "venv", ".mypy_cache",
    ".pytest_cache", ".ruff_cache", ".DS_Store",
)  # fmt: skip
"""Names that hold nothing to read, in any folder."""


class FilesConfig(ConnectorConfig):
    """Which files are read."""

    root: str | None = Field(
        default=None,
        description="folder under SOURCE_FILE_ROOTS",
        min_length=1,
        max_length=4096,
    )
    object_prefix: str | None = Field(
        default=None,
        description="prefix in the organisation's part of the object store, instead of root",
        min_length=1,
        max_length=1024,
    )
    include_globs: tuple[str, ...] = Field(
        default=(),
        description="files to read, for example docs/** or *.md in any folder; empty = all",
        max_length=100,
    )
    exclude_globs: tuple[str, ...] = Field(
        default=IGNORED, description="files and whole folders to leave out", max_length=100
    )
    max_bytes: int = Field(
        default=2 * 1024 * 1024,
        description="larger files become nodes without text, and are never loaded",
        ge=1,
        le=64 * 1024 * 1024,
    )
    writable: bool = Field(default=False, description="offer the tool that writes files below root")

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.root is None) == (self.object_prefix is None):
            raise ValueError("give either root or object_prefix")
        if self.writable and self.root is None:
            raise ValueError("only a root can be writable; objects are never changed")
        return self


def read_files_config(config: Mapping[str, Any], context: SessionContext) -> FilesConfig:
    """The config, with its root checked against the file roots; touches no file.

    Raises:
        SourceConfigError: kind ``config``.
    """
    model = read_config(FilesConfig, config)
    if model.root is not None:
        file_within(model.root, context.file_roots, loc="root")
    elif ".." in (model.object_prefix or "").split("/"):
        raise fault("config", "a prefix cannot climb; write it like docs/", loc="object_prefix")
    return model
