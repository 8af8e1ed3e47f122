"""The moves of a sync run and its source, each one transaction under the fence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import asyncpg

from agentcy_ray.core.errors import AgentcyError, LeaseLostError, NotFoundError
from agentcy_ray.core.ids import encode
from agentcy_ray.core.states import SOURCE, SYNC_RUN, sources_of
from agentcy_ray.ingest.dangling import count_dangling
from agentcy_ray.ingest.extract import REJECTS_KEPT
from agentcy_ray.ingest.fence import Lease

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

    from agentcy_ray.context.engine import Refused
    from agentcy_ray.stores.postgres import Database

_RUN = """
SELECT r.kind, r.mode, r.force, r.package_id, r.publish_cursor, r.counts, r.started_at,
  s.current_package_id, s.status AS source_status
FROM sync_runs r JOIN sources s ON s.id = r.source_id WHERE r.id = $1
"""
_SOURCE_OF = "SELECT source_id FROM sync_runs WHERE id = $1"
_CURSORS = "SELECT stream, cursor FROM source_cursors WHERE source_id = $1"
_SINCE_FULL = """
SELECT count(*) FROM sync_runs
WHERE source_id = $1 AND status = 'synced' AND mode = 'incremental'
  AND created_at > coalesce((SELECT max(created_at) FROM sync_runs
    WHERE source_id = $1 AND status = 'synced' AND mode = 'full'), '-infinity')
"""
_NAME_PACKAGE = "UPDATE sync_runs SET package_id = $2, mode = $3 WHERE id = $1 AND epoch = $4"
_MOVE_RUN = """
UPDATE sync_runs SET status = $3::text, counts = counts || $4, error = $5, rejects = $6,
  publish_cursor = CASE WHEN $3 = 'publishing' THEN $7 ELSE publish_cursor END,
  mode = coalesce($8, mode),
  ended_at = CASE WHEN $3 = 'publishing' THEN NULL ELSE clock_timestamp() END
WHERE id = $1 AND epoch = $2 AND status = ANY($9) RETURNING true
"""
_KEEP_REJECTS = "SELECT rejects FROM sync_runs WHERE id = $1"
_PUT_ASIDE = f"""
UPDATE sync_runs SET
  rejects = CASE WHEN jsonb_array_length(rejects) < {REJECTS_KEPT} THEN rejects || $3
    ELSE rejects END,
  counts = counts || jsonb_build_object(
    'refused', coalesce((counts->>'refused')::bigint, 0) + $4::bigint)
WHERE id = $1 AND epoch = $2
"""
_MOVE_SOURCE = """
UPDATE sources SET status = $2::text, last_error = $3 WHERE id = $1 AND status = ANY($4)
"""
_PUBLISHED = """
UPDATE packages SET published_at = coalesce(published_at, clock_timestamp()) WHERE id = $1
"""
_CURRENT = "UPDATE sources SET current_package_id = $2 WHERE id = $1"
_FORGET_CURSORS = "DELETE FROM source_cursors WHERE source_id = $1"
_PUT_CURSOR = """
INSERT INTO source_cursors (org_id, source_id, stream, cursor, package_id)
VALUES ($1, $2, $3, $4, $5)
"""


class RunFacts:
    """What a run's row says, with its source's pointer, as one record."""

    def __init__(self, row: asyncpg.Record, cursors: Mapping[str, Mapping[str, Any]]) -> None:
        self.kind: str = row["kind"]
        self.full: bool = row["mode"] == "full"
        self.force: bool = row["force"]
        self.package_id: UUID | None = row["package_id"]
        self.publish_cursor: dict[str, Any] = row["publish_cursor"] or {}
        self.started_at: datetime = row["started_at"]
        self.current: UUID | None = row["current_package_id"]
        self.cursors = cursors


async def source_of(db: Database, org_id: UUID, run_id: UUID) -> UUID:
    """The source of a run.

    Raises:
        NotFoundError: there is no such run.
    """
    async with db.tenant(org_id) as connection:
        source_id = await connection.fetchval(_SOURCE_OF, run_id)
    if source_id is None:
        raise NotFoundError(f"no sync {encode('syn', run_id)}; its source may have been deleted")
    return source_id


async def read_facts(lease: Lease) -> RunFacts:
    """The run and its source under this lease.

    Raises:
        LeaseLostError: the source was deleted, or another owner came.
    """
    async with lease.hold() as connection:
        row = await connection.fetchrow(_RUN, lease.run_id)
        cursors = await connection.fetch(_CURSORS, lease.source_id)
    if row is None:
        raise LeaseLostError("the sync's rows were deleted; nothing is written")
    return RunFacts(row, {each["stream"]: each["cursor"] for each in cursors})


async def incrementals_since_full(lease: Lease) -> int:
    """Incremental syncs since the last full one."""
    async with lease.hold() as connection:
        return int(await connection.fetchval(_SINCE_FULL, lease.source_id))


async def name_package(lease: Lease, package_id: UUID, *, full: bool) -> None:
    """Record which package this run is about to upload, so that a crash leaves no orphan."""
    async with lease.hold() as connection:
        mode = "full" if full else "incremental"
        await connection.execute(_NAME_PACKAGE, lease.run_id, package_id, mode, lease.epoch)


async def begin_publish(
    connection: PoolConnectionProxy[asyncpg.Record],
    lease: Lease,
    *,
    cursors: Mapping[str, Mapping[str, Any]],
    counts: Mapping[str, Any],
    rejects: Sequence[Mapping[str, str]],
    full: bool,
) -> None:
    """``running → publishing``: from here on the run is resumed, never begun again."""
    await _move(
        connection,
        lease,
        "publishing",
        counts=counts,
        rejects=rejects,
        cursor={"cursors": {name: dict(cursor) for name, cursor in cursors.items()}},
        full=full,
    )


async def put_aside(
    connection: PoolConnectionProxy[asyncpg.Record], lease: Lease, refused: Sequence[Refused]
) -> None:
    """Name entities that the engine does not take in the run's errors, and count them."""
    rows = [{"where": row.id, "reason": row.reason} for row in refused]
    await connection.execute(_PUT_ASIDE, lease.run_id, lease.epoch, rows[:REJECTS_KEPT], len(rows))


async def commit(
    connection: PoolConnectionProxy[asyncpg.Record],
    lease: Lease,
    *,
    package_id: UUID,
    cursors: Mapping[str, Mapping[str, Any]],
    counts: Mapping[str, Any],
) -> None:
    """``publishing → synced`` with cursors, counts and the pointer, all or nothing."""
    dangling = await count_dangling(connection, lease.source_id)
    await _move(connection, lease, "synced", counts={**counts, "dangling": dangling})
    await connection.execute(_PUBLISHED, package_id)
    await connection.execute(_CURRENT, lease.source_id, package_id)
    await connection.execute(_FORGET_CURSORS, lease.source_id)
    await connection.executemany(
        _PUT_CURSOR,
        [
            (lease.org_id, lease.source_id, stream, dict(cursor), package_id)
            for stream, cursor in cursors.items()
        ],
    )
    await lease.release(connection)


async def end_badly(lease: Lease, status: str, error: AgentcyError) -> None:
    """``failed`` or ``cancelled``, with the reason on the run and on the source.

    Raises:
        LeaseLostError: another owner has the run; it decides.
    """
    async with lease.hold() as connection:
        await _move(connection, lease, status, error=error.body())
        await lease.release(connection)


async def give_back(lease: Lease) -> None:
    """Leave the run as it is for the next attempt."""
    async with lease.hold() as connection:
        await lease.release(connection)


async def _move(
    connection: PoolConnectionProxy[asyncpg.Record],
    lease: Lease,
    status: str,
    *,
    counts: Mapping[str, Any] | None = None,
    rejects: Sequence[Mapping[str, str]] | None = None,
    error: Mapping[str, Any] | None = None,
    cursor: Mapping[str, Any] | None = None,
    full: bool | None = None,
) -> None:
    if rejects is None:
        rejects = await connection.fetchval(_KEEP_REJECTS, lease.run_id)
    moved = await connection.fetchval(
        _MOVE_RUN,
        lease.run_id,
        lease.epoch,
        status,
        dict(counts or {}),
        None if error is None else dict(error),
        [dict(row) for row in rejects or ()],
        None if cursor is None else dict(cursor),
        None if full is None else "full" if full else "incremental",
        sources_of(SYNC_RUN, status),
    )
    if not moved:
        raise LeaseLostError("the sync was moved on by somebody else; nothing was written")
    target = "failed" if status == "cancelled" else status
    await connection.execute(
        _MOVE_SOURCE,
        lease.source_id,
        target,
        None if error is None else dict(error),
        sources_of(SOURCE, target),
    )
