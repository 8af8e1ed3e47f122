"""The stores of vectors that a process uses beside Postgres, each opened when first needed."""

from __future__ import annotations

from collections.abc import Mapping

from agentcy_ray.core.errors import ConfigError
from agentcy_ray.core.settings import Settings
from agentcy_ray.retrieval.vector_store import VectorStore
from agentcy_ray.stores.postgres import Database

_GONE = "SELECT space_id, backend FROM dropped_vectors ORDER BY dropped_at, space_id LIMIT 100"
_FORGET = "DELETE FROM dropped_vectors WHERE space_id = $1"


class VectorBackends:
    """Stores by the name of their backend."""

    def __init__(self, settings: Settings, stores: Mapping[str, VectorStore] | None = None) -> None:
        """``stores`` are there already, and stay the caller's to close."""
        self._settings = settings
        self._given = dict(stores or {})
        self._opened: dict[str, VectorStore] = {}

    def of(self, backend: str) -> VectorStore:
        """The store of a backend.

        Raises:
            ConfigError: its address or key is not set, or its client is not installed.
        """
        known = self._given.get(backend) or self._opened.get(backend)
        if known is None:
            known = self._opened[backend] = self._open(backend)
        return known

    async def drop_gone(self, db: Database) -> int:
        """Delete what the stores still have of spaces that were dropped; returns of how many.

        Raises:
            ConfigError, StoreUnavailableError: a store cannot be asked; the next round goes on.
        """
        async with db.system() as connection:
            gone = await connection.fetch(_GONE)
        for row in gone:
            await self.of(row["backend"]).drop(row["space_id"])
            async with db.system() as connection:
                await connection.execute(_FORGET, row["space_id"])
        return len(gone)

    async def close(self) -> None:
        """Give the connections of what was opened here back."""
        opened, self._opened = self._opened, {}
        for store in opened.values():
            await store.close()

    def _open(self, backend: str) -> VectorStore:
        try:
            match backend:
                case "qdrant":
                    from agentcy_ray.retrieval.qdrant_store import QdrantStore

                    return QdrantStore.open(self._settings)
                case "pinecone":
                    from agentcy_ray.retrieval.pinecone_store import PineconeStore

                    return PineconeStore.open(self._settings)
                case _:
                    raise ConfigError(
                        f"vectors lie in {backend!r}, which this version does not know; upgrade it"
                    )
        except ImportError as error:
            raise ConfigError(
                f"the client of {backend} is not installed; run "
                f"`pip install 'agentcy-ray[{backend}]'` and start again"
            ) from error
