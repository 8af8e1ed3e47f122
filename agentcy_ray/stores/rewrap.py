"""Moves data keys under the current key, row by row, while everything goes on.

Only wrapped keys are replaced; ciphertexts stay as they are, and are not opened. A row is replaced
only if it is still what was read, so a writer who comes in between wins. Nothing is kept of how far
a pass came: what is done shows in the rows, so one that was killed is simply begun again.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from agentcy_ray.core.errors import SealBrokenError
from agentcy_ray.stores.keys.install import FRESH_SECS
from agentcy_ray.stores.postgres import Database
from agentcy_ray.stores.vault import Sealed, Vault

BATCH = 200
"""Rows of a transaction."""
AT_ONCE = 8
"""Requests to a key service under way."""
SETTLE_SECS = 0.5
LEARN_SECS = 2 * FRESH_SECS
PASSES = 20
"""Others seal too while we go through; after as many passes something is amiss."""


@dataclass(frozen=True, slots=True)
class Place:
    """A column in which sealed secrets lie."""

    name: str
    """What they are, for people."""
    table: str
    packed: str | None
    """The column that holds all of a secret; None for the four columns of ``credentials``."""

    @property
    def key_id(self) -> str:
        """SQL of a row's key id; null where the row holds no secret, or none that can be read."""
        return "key_id" if self.packed is None else f"sealed_key_id({self.packed})"

    @property
    def present(self) -> str:
        """SQL of whether a row holds a secret."""
        return "true" if self.packed is None else f"{self.packed} IS NOT NULL"


PLACES = (
    Place("credentials of sources", "credentials", None),
    Place("signing secrets of ingest tokens", "pipeline_tokens", "secret_sealed"),
    Place("arguments of waiting tool calls", "tool_calls", "args_sealed"),
)
"""Everything that is sealed. A test holds the columns of the schema against it."""


@dataclass(frozen=True, slots=True)
class KeyUse:
    """How many secrets of a place are under a key; ``key_id`` is None where it cannot be read."""

    place: str
    key_id: str | None
    count: int


@dataclass(slots=True)
class Rewrapped:
    """What a rotation did."""

    key_id: str
    """The current key's."""
    moved: int = 0
    overtaken: int = 0
    """Changed or removed by others between reading and writing."""
    passes: int = 0
    broken: Counter[str] = field(default_factory=Counter[str])
    """Place → secrets whose data key does not open; they are left as they are."""


async def key_uses(db: Database, places: Sequence[Place] = PLACES) -> list[KeyUse]:
    """How many secrets are under which key, over all organisations."""
    uses: list[KeyUse] = []
    async with db.system() as connection:
        for place in places:
            rows = await connection.fetch(
                f"SELECT {place.key_id} AS key_id, count(*) AS count FROM {place.table}"
                f" WHERE {place.present} GROUP BY 1 ORDER BY 1"
            )
            uses += [KeyUse(place.name, row["key_id"], row["count"]) for row in rows]
    return uses


def nothing(_: int) -> None:
    """Progress that nobody looks at."""


class Rewrapper:
    """Carries one rotation out. Any number may run at once; they get in nobody's way."""

    def __init__(
        self,
        db: Database,
        vault: Vault,
        *,
        progress: Callable[[int], None] = nothing,
        settle_secs: float = SETTLE_SECS,
        batch: int = BATCH,
    ) -> None:
        """Take what it needs.

        Args:
            db: the database.
            vault: with the keys to move to, and those to move from.
            progress: told how many were moved so far, after each batch.
            settle_secs: pause before the last pass, until what others had sealed when we began is
                committed; ``LEARN_SECS`` where they find a new key in a file meanwhile.
            batch: rows of a transaction.
        """
        self._db = db
        self._vault = vault
        self._progress = progress
        self._settle_secs = settle_secs
        self._batch = batch

    async def run(self) -> Rewrapped:
        """Move everything, until a whole pass after the pause finds nothing to move.

        Raises:
            StoreUnavailableError: the database or the key service does not answer; what was moved
                stays moved.
        """
        done = Rewrapped(await self._vault.keys.current_id())
        settled = False
        while done.passes < PASSES:
            done.passes += 1
            done.broken.clear()
            before = done.moved + done.overtaken
            for place in PLACES:
                for org_id in await self._orgs(place, done.key_id):
                    await self._through(place, org_id, done)
            self._vault.keys.forget()
            if done.moved + done.overtaken == before and settled:
                break
            if not settled:
                await asyncio.sleep(self._settle_secs)
                settled = True
        return done

    async def _orgs(self, place: Place, current: str) -> list[UUID]:
        """Organisations that have something to move."""
        async with self._db.system() as connection:
            rows = await connection.fetch(
                f"SELECT DISTINCT org_id FROM {place.table} WHERE {place.present}"
                f" AND {place.key_id} IS DISTINCT FROM $1 ORDER BY 1",
                current,
            )
        return [row["org_id"] for row in rows]

    async def _through(self, place: Place, org_id: UUID, done: Rewrapped) -> None:
        """One organisation's rows of a place, in the order of their ids."""
        columns = place.packed or "ciphertext, nonce, wrapped_key, key_id"
        read = (
            f"SELECT id, {columns} FROM {place.table} WHERE {place.present}"
            f" AND {place.key_id} IS DISTINCT FROM $1 AND ($2::uuid IS NULL OR id > $2)"
            " ORDER BY id LIMIT $3"
        )
        after: UUID | None = None
        while True:
            async with self._db.tenant(org_id) as connection:
                rows = await connection.fetch(read, done.key_id, after, self._batch)
            if not rows:
                return
            after = rows[-1]["id"]
            # Between the transactions: no connection and no row waits for a key service.
            moved = await self._rewrap(place, rows, done)
            if moved:
                async with self._db.tenant(org_id) as connection:
                    written = len(await _write(connection, place, moved))
                done.moved += written
                done.overtaken += len(moved) - written
                self._progress(done.moved)

    async def _rewrap(
        self, place: Place, rows: Sequence[Any], done: Rewrapped
    ) -> list[tuple[UUID, Sealed, Sealed]]:
        """Ids, and what stands and shall stand there; those that do not open are counted."""
        gate = asyncio.Semaphore(AT_ONCE)

        async def one(row: Any) -> tuple[UUID, Sealed, Sealed] | None:
            values = dict(row)
            row_id: UUID = values.pop("id")
            try:
                old = Sealed.unpack(values[place.packed]) if place.packed else Sealed(**values)
                async with gate:
                    return row_id, old, await self._vault.rewrap(old)
            except SealBrokenError:
                done.broken[place.name] += 1
                return None

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(row)) for row in rows]
        except BaseExceptionGroup as several:
            raise several.exceptions[0] from several
        return [moved for task in tasks if (moved := task.result()) is not None]


async def _write(
    connection: Any, place: Place, moved: Sequence[tuple[UUID, Sealed, Sealed]]
) -> list[Any]:
    """Replace what is still as it was read; gives the ids of the rows that were.

    A row that somebody else is writing is passed over, so nobody waits for us, nor we for them.
    """
    free = (
        f"WITH free AS MATERIALIZED (SELECT id FROM {place.table} WHERE id = ANY($1)"
        f" FOR UPDATE SKIP LOCKED) UPDATE {place.table} t SET "
    )
    ids = [row_id for row_id, _, _ in moved]
    if place.packed is None:
        return await connection.fetch(
            f"{free} wrapped_key = n.wrapped, key_id = n.key_id"
            " FROM unnest($1::uuid[], $2::bytea[], $3::bytea[], $4::text[])"
            " AS n (id, was, wrapped, key_id) JOIN free USING (id)"
            " WHERE t.id = n.id AND t.wrapped_key = n.was RETURNING t.id",
            ids,
            [old.wrapped_key for _, old, _ in moved],
            [new.wrapped_key for _, _, new in moved],
            [new.key_id for _, _, new in moved],
        )
    return await connection.fetch(
        f"{free} {place.packed} = n.packed"
        " FROM unnest($1::uuid[], $2::bytea[], $3::bytea[]) AS n (id, was, packed)"
        f" JOIN free USING (id) WHERE t.id = n.id AND t.{place.packed} = n.was RETURNING t.id",
        ids,
        [old.pack() for _, old, _ in moved],
        [new.pack() for _, _, new in moved],
    )
