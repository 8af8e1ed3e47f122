"""Package rows: the chain that makes a state, and what may be deleted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import asyncpg

from agentcy_ray.core.errors import ConflictError, PackageCorruptError
from agentcy_ray.core.ids import encode
from agentcy_ray.ingest.manifest import Manifest, package_prefix
from agentcy_ray.ingest.packages import delete_package, localize
from agentcy_ray.ingest.state import State

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

    from agentcy_ray.stores.objects import ObjectStore
    from agentcy_ray.stores.postgres import Database

_CHAIN = """
WITH RECURSIVE chain AS (
  SELECT p.id, p.base_id, p.state, p.manifest, 0 AS depth FROM packages p WHERE p.id = $1
  UNION ALL
  SELECT p.id, p.base_id, p.state, p.manifest, c.depth + 1 FROM packages p
  JOIN chain c ON p.id = c.base_id WHERE c.state = 'delta')
SELECT id, state, manifest FROM chain ORDER BY depth DESC
"""
_TOTALS = "SELECT counts FROM packages WHERE id = $1"
_INSERT = """
INSERT INTO packages (id, org_id, source_id, state, base_id, manifest, digest, counts)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
"""
_ROWS = "SELECT id, state, base_id, published_at FROM packages WHERE source_id = $1"
_HALF_PUBLISHED = """
SELECT DISTINCT r.package_id FROM sync_runs r
WHERE r.source_id = $1 AND r.id <> $2 AND r.status = 'failed' AND r.publish_cursor IS NOT NULL
  AND EXISTS (SELECT 1 FROM packages p WHERE p.id = r.package_id)
  AND r.created_at > coalesce((SELECT max(s.created_at) FROM sync_runs s
    WHERE s.source_id = $1 AND s.status = 'synced'), '-infinity')
"""
_ORPHANS = """
SELECT r.id, r.package_id FROM sync_runs r
WHERE r.source_id = $1 AND r.kind = 'sync' AND r.package_id IS NOT NULL
  AND (r.status IN ('failed', 'cancelled') OR r.id = $2)
  AND NOT EXISTS (SELECT 1 FROM packages p WHERE p.id = r.package_id)
"""
_FORGET = "UPDATE sync_runs SET package_id = NULL WHERE id = ANY($1)"
_DELETE = "DELETE FROM packages WHERE id = $1"


@dataclass(frozen=True)
class Totals:
    """Live rows of a state, by kind."""

    nodes: int = 0
    edges: int = 0
    documents: int = 0


async def load_state(
    db: Database, objects: ObjectStore, org_id: UUID, package_id: UUID | None, cache: Path
) -> State:
    """The state after a package, its segments on this machine and checked.

    Raises:
        ConflictError: ``package_gone``, the package was deleted meanwhile.
        PackageCorruptError: a package of the chain is missing or damaged.
    """
    if package_id is None:
        return State()
    async with db.tenant(org_id) as connection:
        rows = await connection.fetch(_CHAIN, package_id)
    if not rows:
        raise ConflictError(
            f"package {encode('pkg', package_id)} is gone; list the packages and choose another",
            code="package_gone",
        )
    if rows[0]["state"] != "full":
        raise PackageCorruptError(
            f"the full package below {encode('pkg', package_id)} is missing; restore the database "
            "and the object store from one backup"
        )
    manifests = [Manifest(**row["manifest"]) for row in rows]
    return State([await localize(objects, manifest, cache) for manifest in manifests])


async def totals(
    connection: PoolConnectionProxy[asyncpg.Record], package_id: UUID | None
) -> Totals:
    """Live rows after a package; zeros without one."""
    counts = await connection.fetchval(_TOTALS, package_id) if package_id else None
    return (
        Totals(**{kind: counts[kind] for kind in ("nodes", "edges", "documents")})
        if (counts)
        else Totals()
    )


async def insert_package(
    connection: PoolConnectionProxy[asyncpg.Record], manifest: Manifest, live: Totals
) -> None:
    """Add the row of a package; it is not current and not published yet."""
    counts = {
        "nodes": live.nodes,
        "edges": live.edges,
        "documents": live.documents,
        "rows": dict(manifest.counts),
        "bytes": manifest.bytes,
    }
    await connection.execute(
        _INSERT,
        manifest.package_id,
        manifest.org_id,
        manifest.source_id,
        manifest.state,
        manifest.base,
        manifest.model_dump(mode="json"),
        manifest.digest,
        counts,
    )


async def half_published(
    connection: PoolConnectionProxy[asyncpg.Record], source_id: UUID, run_id: UUID
) -> list[UUID]:
    """Packages whose publish failed part-way since the last that succeeded."""
    return [row[0] for row in await connection.fetch(_HALF_PUBLISHED, source_id, run_id)]


async def sweep(
    db: Database,
    objects: ObjectStore,
    org_id: UUID,
    source_id: UUID,
    run_id: UUID,
    *,
    current: UUID | None,
    keep: int,
) -> None:
    """Delete packages beyond the retention, and objects that earlier runs left unpublished.

    Called at the start of a run, so that a full disk is relieved before it is written to.

    Raises:
        StoreUnavailableError: a store is away; nothing is lost by sweeping later.
    """
    async with db.tenant(org_id) as connection:
        rows = await connection.fetch(_ROWS, source_id)
        dirty = await half_published(connection, source_id, run_id)
        orphans = await connection.fetch(_ORPHANS, source_id, run_id)
    for row in orphans:
        await delete_package(objects, package_prefix(org_id, source_id, row["package_id"]))
    for package_id in surplus([dict(row) for row in rows], current=current, dirty=dirty, keep=keep):
        await delete_package(objects, package_prefix(org_id, source_id, package_id))
        async with db.tenant(org_id) as connection:
            await connection.execute(_DELETE, package_id)
    async with db.tenant(org_id) as connection:
        await connection.execute(_FORGET, [row["id"] for row in orphans])


def surplus(
    rows: Sequence[Mapping[str, Any]], *, current: UUID | None, dirty: Sequence[UUID], keep: int
) -> list[UUID]:
    """Packages that nothing needs: beyond ``keep`` full states, or never published.

    Kept are the chain of ``current``, those of ``dirty``, the last ``keep`` published full
    packages, and the published deltas on any of them. Deltas come before their bases.
    """
    by_id = {row["id"]: row for row in rows}
    fulls = sorted(
        (row for row in rows if row["state"] == "full" and row["published_at"] is not None),
        key=_published,
        reverse=True,
    )
    needed: set[UUID] = {row["id"] for row in fulls[:keep]}
    for start in (current, *dirty):
        at = start
        while at is not None and at in by_id:
            needed.add(at)
            at = by_id[at]["base_id"]
    grown = True
    while grown:
        published = (row for row in rows if row["published_at"] is not None)
        deltas = {row["id"] for row in published if row["base_id"] in needed}
        grown = not deltas <= needed
        needed |= deltas
    gone = [row for row in rows if row["id"] not in needed]
    return [row["id"] for row in sorted(gone, key=_is_full)]


def _published(row: Mapping[str, Any]) -> datetime:
    return row["published_at"]


def _is_full(row: Mapping[str, Any]) -> bool:
    return row["state"] == "full"
