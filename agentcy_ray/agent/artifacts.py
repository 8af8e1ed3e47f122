"""Artifacts: named, immutable bytes of an organisation, kept on the object store."""

from __future__ import annotations

from datetime import datetime
from hashlib import sha256
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from agentcy_ray.core.errors import NotFoundError
from agentcy_ray.core.ids import ArtifactId, RunId, UserId, encode, new_id
from agentcy_ray.core.tenancy import Principal, Role
from agentcy_ray.stores.objects import ObjectStore
from agentcy_ray.stores.postgres import Database

_COLUMNS = "id, name, media_type, kind, bytes, sha256, run_id, created_by, expires_at, created_at"
_INSERT = f"""
INSERT INTO artifacts (id, org_id, name, media_type, kind, bytes, sha256, run_id, created_by)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (id) DO NOTHING RETURNING {_COLUMNS}
"""
_GET = f"""
SELECT {_COLUMNS} FROM artifacts
WHERE id = $1 AND ($2::uuid IS NULL OR kind = 'published' OR created_by = $2)
"""
_LIST = f"""
SELECT {_COLUMNS} FROM artifacts
WHERE ($1::uuid IS NULL OR id < $1)
  AND ($3::uuid IS NULL OR kind = 'published' OR created_by = $3)
ORDER BY id DESC LIMIT $2
"""


class Artifact(BaseModel):
    """What is known of an artifact without reading it."""

    model_config = ConfigDict(frozen=True)

    id: ArtifactId
    name: str
    media_type: str
    kind: str
    """``tool_result`` or ``published``."""
    bytes: int
    sha256: str
    run_id: RunId | None
    created_by: UserId | None
    expires_at: datetime | None
    created_at: datetime


class Artifacts:
    """Rows of ``artifacts`` and their objects; the row is written last, so it never dangles."""

    def __init__(self, db: Database, objects: ObjectStore) -> None:
        self._db = db
        self._objects = objects

    async def store(
        self,
        org_id: UUID,
        name: str,
        data: bytes,
        *,
        media_type: str,
        kind: str,
        run_id: UUID | None = None,
        created_by: UUID | None = None,
        artifact_id: UUID | None = None,
    ) -> Artifact:
        """Keep ``data``.

        Args:
            org_id: whose artifact.
            name: what people call it, for example ``report.md``.
            data: the bytes.
            media_type: of the bytes.
            kind: ``tool_result`` or ``published``.
            run_id: the run that made it.
            created_by: the person for whom.
            artifact_id: given by a caller that may repeat itself: storing again changes nothing.

        Raises:
            StoreUnavailableError, StorageFullError: it is not kept.
        """
        artifact_id = artifact_id or new_id()
        async with self._db.tenant(org_id) as connection:
            row = await connection.fetchrow(_GET, artifact_id, None)
        if row is None:
            await self._objects.put_new(_key(org_id, artifact_id), data)
            async with self._db.tenant(org_id) as connection:
                row = await connection.fetchrow(
                    _INSERT, artifact_id, org_id, name, media_type, kind, len(data),
                    sha256(data).hexdigest(), run_id, created_by,
                ) or await connection.fetchrow(_GET, artifact_id, None)  # fmt: skip
        assert row is not None
        return Artifact(**dict(row))

    async def get(
        self, org_id: UUID, artifact_id: UUID, *, reader: Principal | None = None
    ) -> Artifact:
        """One artifact; None as ``reader`` is the platform itself.

        Raises:
            NotFoundError: the organisation has none with this id that ``reader`` may read.
        """
        async with self._db.tenant(org_id) as connection:
            row = await connection.fetchrow(_GET, artifact_id, _limit(reader))
        if row is None:
            raise NotFoundError(f"no artifact {encode('art', artifact_id)}")
        return Artifact(**dict(row))

    async def list(
        self,
        org_id: UUID,
        *,
        reader: Principal | None = None,
        limit: int = 50,
        before: UUID | None = None,
    ) -> tuple[Artifact, ...]:
        """Artifacts that ``reader`` may read, newest first, those made before ``before`` only."""
        async with self._db.tenant(org_id) as connection:
            rows = await connection.fetch(_LIST, before, limit, _limit(reader))
        return tuple(Artifact(**dict(row)) for row in rows)

    async def read(self, org_id: UUID, artifact_id: UUID) -> bytes:
        """The bytes of an artifact.

        Raises:
            NotFoundError: the organisation has none with this id.
        """
        await self.get(org_id, artifact_id)
        return await self._objects.get(_key(org_id, artifact_id))


def _limit(reader: Principal | None) -> UUID | None:
    """Whose results alone may be read: they hold what that person's call was let see."""
    if reader is None or reader.role in (Role.OWNER, Role.ADMIN):
        return None
    return reader.user_id


def _key(org_id: UUID, artifact_id: UUID) -> str:
    return f"artifacts/{org_id.hex}/{artifact_id.hex}"
