"""Embedding spaces: which embedder made an organisation's vectors, and where they lie."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import asyncpg
from pydantic import BaseModel, ConfigDict

from agentcy_ray.core.errors import EmbedderUnavailableError, InvalidError, NotFoundError
from agentcy_ray.core.ids import OrgId, SpaceId, encode, new_id
from agentcy_ray.core.settings import Settings
from agentcy_ray.core.states import EMBEDDING_SPACE, sources_of
from agentcy_ray.retrieval.embedder import EmbedderInfo
from agentcy_ray.stores.postgres import Database

MAX_DIM = {"halfvec": 4000, "vector": 2000}
"""Longest vector that an HNSW index of pgvector takes, by storage type."""

_COLUMNS = "id, org_id, embedder, signature, dim, storage, table_name, status"
_ACTIVE = f"SELECT {_COLUMNS} FROM embedding_spaces WHERE org_id = $1 AND status = 'active'"
_BY_ID = f"SELECT {_COLUMNS} FROM embedding_spaces WHERE org_id = $1 AND id = $2"
_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('embedding_spaces/' || $1::uuid::text, 0))"
# A first space has nothing to fill and nothing to compare with, so it is active from its start.
_INSERT = f"""
INSERT INTO embedding_spaces AS s
  (id, org_id, embedder, signature, dim, storage, table_name, status)
VALUES ($1, $2, $3, $4, $5, $6, $7, 'active')
ON CONFLICT (org_id, signature) DO UPDATE SET status = 'active' WHERE s.status = ANY($8)
RETURNING {_COLUMNS}
"""
_CREATE_TABLE = "SELECT create_vector_table($1, $2, $3, $4, $5)"
_VERSION = "SELECT extversion FROM pg_extension WHERE extname = 'vector'"


class Space(BaseModel):
    """A row of ``embedding_spaces``."""

    model_config = ConfigDict(frozen=True)

    id: SpaceId
    org_id: OrgId
    embedder: str
    signature: str
    dim: int
    storage: str
    """Column type of the vectors: ``halfvec`` (16 bits a number) or ``vector`` (32)."""
    table_name: str
    status: str

    def require(self, info: EmbedderInfo) -> None:
        """Check that vectors of ``info`` may be compared with those of this space.

        Raises:
            EmbedderUnavailableError: another embedder made the space.
        """
        if info.signature != self.signature:
            raise EmbedderUnavailableError(
                f"the vectors were made by {self.signature!r} and this process embeds with "
                f"{info.signature!r}; set EMBEDDING_MODEL={self.embedder}",
                space=encode("spc", self.id),
                expected=self.signature,
                found=info.signature,
            )


class SpaceStore:
    """Rows of ``embedding_spaces`` and their vector tables."""

    def __init__(self, db: Database, settings: Settings) -> None:
        self._db = db
        self._settings = settings
        self._version: tuple[int, int] | None = None

    async def active(self, org_id: UUID) -> Space | None:
        """The space that is searched and written, None before anything was embedded."""
        async with self._db.tenant(org_id) as connection:
            return _space(await connection.fetchrow(_ACTIVE, org_id))

    async def get(self, org_id: UUID, space_id: UUID) -> Space:
        """One space.

        Raises:
            NotFoundError: absent, or another organisation's.
        """
        async with self._db.tenant(org_id) as connection:
            space = _space(await connection.fetchrow(_BY_ID, org_id, space_id))
        if space is None:
            raise NotFoundError(f"no embedding space {encode('spc', space_id)}; list the spaces")
        return space

    async def ensure_active(self, org_id: UUID, info: EmbedderInfo) -> Space:
        """The active space, made with its table when the organisation has none.

        Safe to call from several processes at once.

        Raises:
            EmbedderUnavailableError: the active space was made by another embedder.
            InvalidError: no index takes vectors this long.
        """
        space = await self.active(org_id) or await self._create(org_id, info)
        space.require(info)
        return space

    async def vector_version(self) -> tuple[int, int]:
        """Major and minor version of pgvector."""
        if self._version is None:
            async with self._db.system() as connection:
                text = str(await connection.fetchval(_VERSION))
            major, minor = text.split(".")[:2]
            self._version = int(major), int(minor)
        return self._version

    async def _create(self, org_id: UUID, info: EmbedderInfo) -> Space:
        storage = "halfvec" if await self.vector_version() >= (0, 7) else "vector"
        if info.dim > MAX_DIM[storage]:
            raise InvalidError(
                f"{info.reference} makes vectors of {info.dim} numbers and an index over {storage} "
                f"takes {MAX_DIM[storage]}; choose a smaller model or a newer pgvector"
            )
        async with self._db.system() as connection:
            await connection.execute(_LOCK, org_id)
            space = _space(await connection.fetchrow(_ACTIVE, org_id))
            if space is not None:
                return space
            made = new_id()
            row = await connection.fetchrow(
                _INSERT,
                made,
                org_id,
                info.reference,
                info.signature,
                info.dim,
                storage,
                f"vec_{made.hex}",
                sources_of(EMBEDDING_SPACE, "active"),
            )
            space = _space(row)
            if space is None:
                raise EmbedderUnavailableError(
                    f"the space of {info.reference} is not ready to be active; see its status"
                )
            s = self._settings
            await connection.execute(
                _CREATE_TABLE, space.id, info.dim, storage, s.hnsw_m, s.hnsw_ef_construction
            )
        return space


def _space(row: asyncpg.Record | None) -> Space | None:
    return None if row is None else Space(**_plain(row))


def _plain(row: asyncpg.Record) -> dict[str, Any]:
    return dict(row.items())
