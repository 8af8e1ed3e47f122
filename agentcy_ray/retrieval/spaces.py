"""Embedding spaces of an organisation: made, listed, activated, retired and dropped.

Every move is a guarded UPDATE (``core/states.py``), so of two processes that race one wins and the
other is told. A space's table goes with its row or with the status ``dropped``, by a trigger.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import asyncpg

from agentcy_ray.core.errors import (
    ConflictError,
    EmbedderUnavailableError,
    InvalidError,
    NotFoundError,
)
from agentcy_ray.core.ids import encode, new_id
from agentcy_ray.core.settings import Settings
from agentcy_ray.core.states import EMBEDDING_SPACE, sources_of
from agentcy_ray.retrieval import space_sql as sql
from agentcy_ray.retrieval.embedder import EmbedderInfo
from agentcy_ray.retrieval.space import (
    MAX_DIM,
    Distance,
    Space,
    Storage,
    chunking_signature,
)
from agentcy_ray.stores.postgres import Database

__all__ = ["Space", "SpaceStore"]

Along = Callable[[Any, Space, Space | None], Awaitable[None]]
"""(connection, space, the one that was active) → what else belongs to an activation."""


class SpaceStore:
    """Rows of ``embedding_spaces`` and their vector tables."""

    def __init__(self, db: Database, settings: Settings) -> None:
        self._db = db
        self._settings = settings
        self._version: tuple[int, int] | None = None

    async def active(self, org_id: UUID) -> Space | None:
        """The space that is searched, None before anything was embedded."""
        async with self._db.tenant(org_id) as connection:
            return _space(await connection.fetchrow(sql.ACTIVE, org_id))

    async def get(self, org_id: UUID, space_id: UUID) -> Space:
        """One space.

        Raises:
            NotFoundError: absent, dropped, or another organisation's.
        """
        async with self._db.tenant(org_id) as connection:
            return await _existing(connection, org_id, space_id)

    async def list(self, org_id: UUID) -> tuple[Space, ...]:
        """All spaces but the dropped ones, newest first."""
        async with self._db.tenant(org_id) as connection:
            return _spaces(await connection.fetch(sql.LIST, org_id))

    async def writable(self, org_id: UUID) -> tuple[Space, ...]:
        """The spaces that a publish has to write, the active one first.

        A retired one is among them until its grace ends, so that going back to it needs no
        catching up; one that is being built from the moment of ``begin``.
        """
        async with self._db.tenant(org_id) as connection:
            return _spaces(await connection.fetch(sql.WRITABLE, org_id))

    async def expired(self) -> tuple[Space, ...]:
        """Retired spaces of all organisations whose grace is over, and what failed a day ago; at
        most 100."""
        async with self._db.system() as connection:
            return _spaces(await connection.fetch(sql.EXPIRED))

    async def ensure_active(self, org_id: UUID, info: EmbedderInfo) -> Space:
        """The active space, made with its table when the organisation has none.

        Safe to call from several processes at once.

        Raises:
            EmbedderUnavailableError: the active space was made by another embedder, or the
                organisation has one of this embedder that is not active.
            InvalidError: no index takes vectors this long.
        """
        space = await self.active(org_id) or await self._first(org_id, info)
        space.require(info)
        return space

    async def create(
        self,
        org_id: UUID,
        info: EmbedderInfo,
        *,
        storage: Storage | None = None,
        distance: Distance = "cosine",
        chunking: str | None = None,
        backend: str | None = None,
    ) -> Space:
        """A space in status ``building``: a table without secondary indexes, yet to be filled.

        One like it that is being built already is returned; one that failed is dropped and made
        anew, since publishes passed it by.

        Args:
            org_id: whose.
            info: the embedder that fills it.
            storage: None = ``halfvec`` where pgvector has it.
            distance: what nearness means; vectors of unit length give one order in all three.
            chunking: how texts are cut; None = as this process does.
            backend: where the vectors lie; None = ``VECTOR_BACKEND``.

        Raises:
            ConflictError: one like it is ready, active or retired.
            InvalidError: no index takes vectors this long.
        """
        kind = await self._storage(info, storage)
        where = backend or self._settings.vector_backend
        identity = _identity(org_id, info, kind, distance, chunking, where, self._settings)
        async with self._db.system() as connection:
            await connection.execute(sql.LOCK, org_id)
            twin = _space(await connection.fetchrow(sql.SAME, *identity))
            if twin is not None and twin.status == "building":
                return twin
            if twin is not None and twin.status != "failed":
                raise ConflictError(
                    f"{encode('spc', twin.id)} is such a space already and is {twin.status}; "
                    "activate it, or drop it first",
                    code="space_active" if twin.status == "active" else "state_conflict",
                    space=encode("spc", twin.id),
                    status=twin.status,
                )
            if twin is not None:
                await _move(connection, twin, "dropped")
            return await _insert(connection, identity)

    async def begin(self, org_id: UUID, space_id: UUID) -> Space:
        """Let publishes write a space from now on; call it before the backfill looks at packages.

        Raises:
            NotFoundError: no such space.
            ConflictError: it is not being built.
        """
        async with self._db.tenant(org_id) as connection:
            space = _space(await connection.fetchrow(sql.BEGIN, org_id, space_id))
            if space is None:
                raise _cannot(await _existing(connection, org_id, space_id), "filled")
            return space

    async def ready(self, org_id: UUID, space_id: UUID) -> Space:
        """``building → ready``: complete and indexed.

        Raises:
            NotFoundError: no such space.
            ConflictError: it is not being built.
        """
        async with self._db.tenant(org_id) as connection:
            return await _move(connection, await _existing(connection, org_id, space_id), "ready")

    async def fail(self, org_id: UUID, space_id: UUID, error: dict[str, Any]) -> Space:
        """Give a space up: it is written no more and may be dropped.

        Args:
            org_id: whose.
            space_id: of a space that is being built, or ready and not wanted.
            error: why, as the ``error`` object of the API has it.

        Raises:
            NotFoundError: no such space.
            ConflictError: it is neither being built nor ready.
        """
        async with self._db.tenant(org_id) as connection:
            space = await _existing(connection, org_id, space_id)
            return await _move(
                connection, space, "failed", ", error = $4, written_since = NULL", error
            )

    async def activate(
        self, org_id: UUID, space_id: UUID, grace: timedelta, *, along: Along | None = None
    ) -> Space:
        """Search this space from now on and retire the former one, in one transaction.

        Activating a retired one is the roll-back; it has been written all along.

        Args:
            org_id: whose.
            space_id: of a ready space, or of a retired one within its grace.
            grace: how long the former one is written and kept.
            along: done in the same transaction, with the space as it was before and the one that
                was active, or None; what it raises undoes the move.

        Raises:
            NotFoundError: no such space.
            ConflictError: ``space_active``: it is active already; ``state_conflict``: it is not
                ready, or its grace is over.
        """
        async with self._db.tenant(org_id) as connection:
            await connection.execute(sql.LOCK, org_id)
            space = await _existing(connection, org_id, space_id)
            if space.status == "active":
                raise _is_active(space)
            if not any(
                s.id == space.id for s in _spaces(await connection.fetch(sql.WRITABLE, org_id))
            ):
                raise _cannot(space, "activated")
            former = _space(await connection.fetchrow(sql.ACTIVE, org_id))
            await connection.execute(sql.RETIRE, org_id, grace)
            if along is not None:
                await along(connection, space, former)
            return await _move(
                connection, space, "active", ", retired_at = NULL, drop_after = NULL"
            )

    async def drop(self, org_id: UUID, space_id: UUID) -> Space:
        """Remove a retired or failed space: its table and view are gone for good.

        Raises:
            NotFoundError: no such space.
            ConflictError: ``space_active``: it is searched; ``state_conflict``: it is being built
                or ready; ``conflict``: searches of it held the table for too long.
        """
        try:
            async with self._db.tenant(org_id) as connection:
                space = await _existing(connection, org_id, space_id)
                if space.status == "active":
                    raise _is_active(space)
                await connection.execute(sql.DROP_PATIENCE)
                return await _move(connection, space, "dropped")
        except asyncpg.LockNotAvailableError as error:
            raise ConflictError(
                f"{encode('spc', space_id)} is still being read or written; drop it again later"
            ) from error

    async def indexed(self, org_id: UUID, space_id: UUID) -> None:
        """Note that all indexes of the space stand."""
        await self._note(sql.INDEXED, org_id, space_id)

    async def note_progress(self, org_id: UUID, space_id: UUID, progress: dict[str, Any]) -> None:
        """Keep how far the filling of a space has come."""
        await self._note(sql.PROGRESS, org_id, space_id, progress)

    async def note_recall(self, org_id: UUID, space_id: UUID, recall: dict[str, Any]) -> None:
        """Keep what a recall check found."""
        await self._note(sql.RECALL, org_id, space_id, recall)

    async def vector_version(self) -> tuple[int, int]:
        """Major and minor version of pgvector."""
        if self._version is None:
            async with self._db.system() as connection:
                text = str(await connection.fetchval(sql.VERSION))
            major, minor = text.split(".")[:2]
            self._version = int(major), int(minor)
        return self._version

    async def _note(self, statement: str, *values: Any) -> None:
        async with self._db.tenant(values[0]) as connection:
            await connection.execute(statement, *values)

    async def _storage(self, info: EmbedderInfo, wanted: Storage | None) -> Storage:
        known = await self.vector_version() >= (0, 7)
        storage: Storage = wanted or ("halfvec" if known else "vector")
        if info.dim > MAX_DIM[storage] or (storage == "halfvec" and not known):
            raise InvalidError(
                f"{info.reference} makes vectors of {info.dim} numbers and an index over {storage} "
                f"takes {MAX_DIM[storage]}; choose a smaller model or a newer pgvector"
            )
        return storage

    async def _first(self, org_id: UUID, info: EmbedderInfo) -> Space:
        """A first space has nothing to fill and nothing to be compared with: active at once."""
        storage, s = await self._storage(info, None), self._settings
        identity = _identity(org_id, info, storage, "cosine", None, s.vector_backend, s)
        async with self._db.system() as connection:
            await connection.execute(sql.LOCK, org_id)
            space = _space(await connection.fetchrow(sql.ACTIVE, org_id))
            if space is not None:
                return space
            space = _space(await connection.fetchrow(sql.SAME, *identity))
            if space is not None and space.status not in sources_of(EMBEDDING_SPACE, "active"):
                raise EmbedderUnavailableError(
                    f"the space of {info.reference} is {space.status}; wait for its backfill, or "
                    "drop it"
                )
            if space is None:
                space = await _insert(connection, identity)
                await connection.execute(
                    sql.CREATE_INDEXES,
                    space.id,
                    "none" if space.remote else storage,
                    "cosine",
                    s.hnsw_m,
                    s.hnsw_ef_construction,
                )
                also = ", written_since = created_at, indexed_at = created_at"
                space = await _move(connection, space, "ready", also)
            return await _move(connection, space, "active")


def _identity(
    org_id: UUID,
    info: EmbedderInfo,
    storage: Storage,
    distance: Distance,
    chunking: str | None,
    backend: str,
    settings: Settings,
) -> tuple[Any, ...]:
    """The values that no two spaces share, in the order of ``SAME`` and ``INSERT``."""
    cut = chunking_signature(settings) if chunking is None else chunking
    return (
        org_id, info.reference, info.revision, info.signature, info.dim, distance, storage, cut,
        backend,
    )  # fmt: skip


async def _insert(connection: Any, identity: tuple[Any, ...]) -> Space:
    made = new_id()
    space = Space(**dict(await connection.fetchrow(sql.INSERT, *identity, made, f"vec_{made.hex}")))
    await connection.execute(
        sql.CREATE_TABLE,
        space.id,
        space.org_id,
        space.dim,
        space.storage,
        space.backend,
    )
    return space


async def _move(connection: Any, space: Space, target: str, also: str = "", *values: Any) -> Space:
    move = sql.MOVE.format(target=target, also=also)
    sources = sources_of(EMBEDDING_SPACE, target)
    moved = _space(await connection.fetchrow(move, space.org_id, space.id, sources, *values))
    if moved is None:
        raise _cannot(space, target)
    return moved


async def _existing(connection: Any, org_id: UUID, space_id: UUID) -> Space:
    space = _space(await connection.fetchrow(sql.BY_ID, org_id, space_id))
    if space is None:
        raise NotFoundError(f"no embedding space {encode('spc', space_id)}; list the spaces")
    return space


def _cannot(space: Space, target: str) -> ConflictError:
    over = space.status == "retired" and target == "activated"
    return ConflictError(
        f"{encode('spc', space.id)} is {space.status}{', its grace is over' if over else ''}, "
        f"and cannot become {target}; see its status",
        code="state_conflict",
        status=space.status,
    )


def _is_active(space: Space) -> ConflictError:
    return ConflictError(
        f"{encode('spc', space.id)} is the active space; activate another one first",
        code="space_active",
    )


def _space(row: asyncpg.Record | None) -> Space | None:
    return None if row is None else Space(**dict(row.items()))


def _spaces(rows: list[asyncpg.Record]) -> tuple[Space, ...]:
    return tuple(Space(**dict(row.items())) for row in rows)
