"""A database with sealed secrets in every place, and what they must open to."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from agentcy_ray.core.ids import new_id
from agentcy_ray.stores.postgres import Database
from agentcy_ray.stores.rewrap import PLACES, Place
from agentcy_ray.stores.vault import Sealed, Vault
from tests.tenancy.rows import row_for

CREDENTIALS, TOKENS, CALLS = PLACES


@dataclass
class SealedRows:
    """Rows of several organisations; each secret is bound to its row."""

    db: Database
    orgs: dict[UUID, dict[str, dict[str, Any]]] = field(default_factory=dict)
    secrets: dict[tuple[str, UUID], bytes] = field(default_factory=dict)
    version: int = 100

    async def org(self) -> UUID:
        """A further organisation, with the rows that sealed ones refer to."""
        org_id = new_id()
        made: dict[str, dict[str, Any]] = {"organizations": {"id": org_id}}
        async with self.db.system() as connection:
            await connection.execute(
                "INSERT INTO organizations (id, name, display_name) VALUES ($1, $2, $2)",
                org_id, f"org-{org_id.hex}",
            )  # fmt: skip
            for table in ("realms", "sources", "context_pipelines"):
                made[table] = await self._insert(connection, table, org_id, made)
        self.orgs[org_id] = made
        return org_id

    async def add(self, vault: Vault, org_id: UUID, place: Place, count: int = 1) -> None:
        """Seal and store secrets."""
        async with self.db.system() as connection:
            for _ in range(count):
                row_id, plain = new_id(), secrets.token_bytes(16)
                sealed = await vault.seal(plain, f"{place.table}/{row_id}")
                values: dict[str, Any] = {"id": row_id}
                if place.packed:
                    values[place.packed] = sealed.pack()
                else:
                    self.version += 1
                    values |= {name: getattr(sealed, name) for name in Sealed.__slots__}
                    values["version"] = self.version
                if place is TOKENS:
                    values["token_hash"] = secrets.token_bytes(32)
                await self._insert(connection, place.table, org_id, self.orgs[org_id], **values)
                self.secrets[place.table, row_id] = plain

    async def stored(self, place: Place) -> dict[UUID, Sealed]:
        """What stands in the rows of a place now."""
        columns = place.packed or ", ".join(Sealed.__slots__)
        async with self.db.system() as connection:
            rows = await connection.fetch(
                f"SELECT id, {columns} FROM {place.table} WHERE {place.present}"
            )
        return {
            row["id"]: Sealed.unpack(row[place.packed])
            if place.packed
            else Sealed(**{name: row[name] for name in Sealed.__slots__})
            for row in rows
        }

    async def key_ids(self) -> set[str]:
        """Under which keys anything is."""
        return {s.key_id for place in PLACES for s in (await self.stored(place)).values()}

    async def check(self, vault: Vault) -> int:
        """Open everything; gives how many there are."""
        found = 0
        for place in PLACES:
            for row_id, sealed in (await self.stored(place)).items():
                plain = await vault.open(sealed, f"{place.table}/{row_id}")
                assert plain == self.secrets[place.table, row_id]
                found += 1
        assert found == len(self.secrets)
        return found

    @staticmethod
    async def _insert(
        connection: Any, table: str, org_id: UUID, made: dict[str, dict[str, Any]], **values: Any
    ) -> dict[str, Any]:
        row = await row_for(connection, table, org_id, made)
        assert row is not None, f"{table} refers to a table that is not filled"
        row |= values
        names, places = ", ".join(row), ", ".join(f"${n}" for n in range(1, len(row) + 1))
        return dict(
            await connection.fetchrow(
                f"INSERT INTO {table} ({names}) VALUES ({places}) RETURNING *", *row.values()
            )
        )
