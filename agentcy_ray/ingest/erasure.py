"""Deleting an organisation: rows, graph, vectors and objects go, its audit log stays.

The organisation is closed first, by whoever asks: nobody is let in any more. The job takes its
rows, which ends whatever works for it elsewhere, and then what lies in the other stores. Its own
row stays as the head of the audit log, without a name that says who it was.
"""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import asyncpg

from agentcy_ray.audit.entry import AuditEntry
from agentcy_ray.core.errors import ConflictError, StoreUnavailableError
from agentcy_ray.core.ids import encode
from agentcy_ray.jobs.records import NewJob, Progress

if TYPE_CHECKING:
    from agentcy_ray.audit.log import AuditLog
    from agentcy_ray.context.engine import ContextEngine
    from agentcy_ray.ingest.progress import Beats
    from agentcy_ray.jobs.records import Job
    from agentcy_ray.retrieval.vector_backends import VectorBackends
    from agentcy_ray.stores.objects import ObjectStore
    from agentcy_ray.stores.postgres import Database

KIND = "org_erase"
PRIORITY = 8
PREFIXES = ("artifacts", "files", "packages", "pipelines")
"""Folders of the object store; each has a folder for every organisation."""
KEPT = frozenset({"audit_log", "audit_anchors", "jobs"})
"""Tables that keep rows: the log that witnesses the deletion, and the job that does it."""
ROWS = 5_000
"""Deleted in one transaction, with what hangs on them."""
LOCK_WAIT = "SET LOCAL lock_timeout = '5s'"
"""The tables of vectors go with their space, once nobody reads them."""

_CLOSED = "SELECT deleted_at IS NOT NULL FROM organizations WHERE id = $1"
_SOURCES = "SELECT id FROM sources WHERE org_id = $1"
# Tables of vectors belong to one space each and go with its row, which is among the first.
_TABLES = """
SELECT c.relname AS name, has_table_privilege(c.oid, 'DELETE') AS ours
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'org_id'
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p')
  AND NOT c.relispartition AND NOT a.attisdropped
  AND NOT EXISTS (SELECT 1 FROM embedding_spaces s WHERE s.table_name = c.relname)
ORDER BY c.relname <> 'jobs', c.relname <> 'embedding_spaces', c.relname
"""
# An address of a row is unique in its partition alone, so the organisation is asked for twice.
_DELETE = """
DELETE FROM {table} WHERE org_id = $1 AND ctid = ANY(ARRAY(
  SELECT ctid FROM {table} WHERE org_id = $1 LIMIT $2))
"""
_OTHER_JOBS = "DELETE FROM jobs WHERE org_id = $1 AND id <> $2"
_ANY = "SELECT EXISTS (SELECT 1 FROM {table} WHERE org_id = $1)"
_FORGET = """
UPDATE organizations SET name = 'deleted-' || replace(id::text, '-', ''), display_name = '',
  settings = '{}' WHERE id = $1
"""


def erase_job(org_id: UUID) -> NewJob:
    """The job that deletes a closed organisation."""
    return NewJob(org_id=org_id, kind=KIND, priority=PRIORITY, dedupe_key=KIND)


class Erasure:
    """Carries the job out. It may run twice: what is gone stays so."""

    def __init__(
        self,
        db: Database,
        engine: ContextEngine,
        objects: ObjectStore,
        backends: VectorBackends,
        audit: AuditLog,
        state_dir: Path,
    ) -> None:
        self._db = db
        self._engine = engine
        self._objects = objects
        self._backends = backends
        self._audit = audit
        self._state_dir = state_dir

    async def run(self, job: Job, beat: Beats) -> None:
        """Delete everything of the job's organisation.

        Raises:
            ConflictError: it is not closed, so somebody may be working in it.
            StoreUnavailableError: a store does not answer, or its rows are held; the next attempt
                goes on.
        """
        org_id = job.org_id
        async with self._db.system() as connection:
            if not await connection.fetchval(_CLOSED, org_id):
                raise ConflictError("the organisation is not closed; DELETE /api/v1/org does that")
            sources = [row["id"] for row in await connection.fetch(_SOURCES, org_id)]
        await asyncio.to_thread(self._remove_folders, sources)
        rows = await self._delete_rows(job, beat)
        await self._backends.drop_gone(self._db)
        objects = await self._delete_objects(org_id, beat)
        entities = 0
        async for gone in self._engine.erase(org_id):
            entities += gone
            beat.progress(Progress(done=entities, unit="entities", note="deleting the graph"))
        async with self._db.system() as connection:
            await connection.execute(_FORGET, org_id)
        await self._audit.append(
            AuditEntry(
                org_id=org_id,
                category="admin",
                action="org.erase",
                decision="allow",
                resource={"type": "org", "id": encode("org", org_id)},
                context={"rows": rows, "objects": objects, "entities": entities},
            )
        )

    async def _delete_rows(self, job: Job, beat: Beats) -> int:
        """Delete the rows of every table but the kept ones; returns how many were named."""
        async with self._db.system() as connection:
            # First, so that workers lose the jobs that they have, and nothing new begins.
            await connection.execute(_OTHER_JOBS, job.org_id, job.id)
            tables = [row for row in await connection.fetch(_TABLES) if row["name"] not in KEPT]
        waiting, total = [row["name"] for row in tables if row["ours"]], 0
        while waiting:
            held: list[str] = []
            for table in waiting:
                try:
                    total += await self._empty(table, job.org_id, beat, total)
                except asyncpg.ForeignKeyViolationError:
                    held.append(table)  # rows of a later table point here
            if len(held) == len(waiting):
                raise StoreUnavailableError(f"rows of {', '.join(held)} are pointed at by others")
            waiting = held
        async with self._db.system() as connection:
            left = [
                row["name"]
                for row in tables
                if await connection.fetchval(_ANY.format(table=f'"{row["name"]}"'), job.org_id)
            ]
        if left:  # written meanwhile by what had not heard of its end yet
            raise StoreUnavailableError(f"there are rows in {', '.join(left)} again")
        return total

    async def _empty(self, table: str, org_id: UUID, beat: Beats, before: int) -> int:
        statement, total = _DELETE.format(table=f'"{table}"'), 0
        while True:
            try:
                async with self._db.system() as connection:
                    await connection.execute(LOCK_WAIT)
                    gone = _count(await connection.execute(statement, org_id, ROWS))
            except asyncpg.LockNotAvailableError as error:
                raise StoreUnavailableError(f"{table} is still in use: {error}") from error
            total += gone
            beat.progress(Progress(done=before + total, unit="rows", note=f"deleting {table}"))
            if gone < ROWS:
                return total

    async def _delete_objects(self, org_id: UUID, beat: Beats) -> int:
        total = 0
        for prefix in PREFIXES:
            async for found in self._objects.scan(f"{prefix}/{org_id.hex}/"):
                await self._objects.delete(found.key)
                total += 1
                beat.progress(Progress(done=total, unit="objects", note="deleting objects"))
        return total

    def _remove_folders(self, sources: list[UUID]) -> None:
        """Working copies of sources, on this machine; on others they go with their state folder."""
        for source in sources:
            shutil.rmtree(self._state_dir / "sources" / source.hex, ignore_errors=True)


def _count(tag: Any) -> int:
    return int(str(tag).rpartition(" ")[2])
