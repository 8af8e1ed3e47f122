"""The part of the object store that a tenant's sources may read: ``files/<org>/`` and no more."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Protocol
from uuid import UUID

from agentcy_ray.connectors.config import fault


class ObjectReads(Protocol):
    """What is read of an object store."""

    async def get(self, key: str) -> bytes:
        """The whole object."""
        ...

    async def list(self, prefix: str) -> list[str]:
        """Keys below a prefix."""
        ...

    def stream(self, key: str) -> AsyncIterator[bytes]:
        """The object in pieces."""
        ...

    def local_path(self, key: str) -> Path | None:
        """The file behind a key, where the store is a folder."""
        ...


class OrgObjects:
    """An object store cut to one organisation's files; keys are relative to ``files/<org>/``."""

    def __init__(self, store: ObjectReads, org_id: UUID) -> None:
        self._store = store
        self._root = f"files/{org_id.hex}/"

    async def get(self, key: str) -> bytes:
        """The whole object."""
        return await self._store.get(self._key(key))

    async def list(self, prefix: str = "") -> list[str]:
        """Keys below a prefix, relative to the organisation's files."""
        keys = await self._store.list(self._key(prefix) if prefix else self._root)
        return [key.removeprefix(self._root) for key in keys]

    def stream(self, key: str) -> AsyncIterator[bytes]:
        """The object in pieces."""
        return self._store.stream(self._key(key))

    def local_path(self, key: str) -> Path | None:
        """The file behind a key, where the store is a folder."""
        return self._store.local_path(self._key(key))

    def _key(self, key: str) -> str:
        parts = key.split("/")
        if key.startswith("/") or ".." in parts or "." in parts or "\x00" in key:
            raise fault("config", f"{key!r} is not an object key; write it like folder/name.csv")
        return self._root + key
