"""What somebody who holds a statement of ours could try against another tenant's row.

Each probe is a statement for one table, made from the catalog. ``{t}`` is the table, ``{theirs}``
and ``{ours}`` are organisations as literals, ``{key}`` is a condition that names the row of theirs
by its primary key, ``{ctid}`` where it lies. A probe learned nothing when the server denied it, or
when it answered that no row is there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

import asyncpg

PRIMARY = """
SELECT array_agg(a.attname::text ORDER BY k.place) FROM pg_index i
CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY k(num, place)
JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.num
WHERE i.indrelid = $1::text::regclass AND i.indisprimary
"""

READS = {
    "select": "SELECT * FROM {t} WHERE org_id = {theirs}",
    "by key": "SELECT * FROM {t} WHERE {key}",
    "by place": "SELECT * FROM {t} WHERE ctid = '{ctid}' AND org_id <> {ours}",
    "by whole row": "SELECT {t}.* FROM {t} WHERE {t}::text LIKE '%{theirs_hex}%'",
    "outer join": "SELECT x.* FROM {t} x RIGHT JOIN (SELECT 1) one ON true"
    " WHERE x.org_id = {theirs}",
    "count": "SELECT 1 FROM (SELECT count(*) AS n FROM {t} WHERE org_id <> {ours}) c WHERE n > 0",
    "exists": "SELECT 1 WHERE EXISTS (SELECT FROM {t} WHERE {key})",
    "lateral": "SELECT s.* FROM (VALUES (1)) v, LATERAL (SELECT * FROM {t} WHERE {key}) s",
    "locking": "SELECT * FROM {t} WHERE {key} FOR UPDATE SKIP LOCKED",
    "sample": "SELECT * FROM {t} TABLESAMPLE SYSTEM (100) WHERE org_id <> {ours}",
    "recursive": "WITH RECURSIVE r AS (SELECT * FROM {t} WHERE org_id <> {ours}) SELECT * FROM r",
    # A row that is looked at before the policy was asked would divide by nothing.
    "by error": "SELECT 1 FROM {t} WHERE org_id <> {ours}"
    " AND 1 / (CASE WHEN org_id = {theirs} THEN 0 ELSE 1 END) > 1",
    "by cast": "SELECT 1 FROM {t} WHERE CASE WHEN org_id = {theirs}"
    " THEN ({t}::text)::int = 0 ELSE false END",
    "delete returning": "DELETE FROM {t} WHERE {key} RETURNING *",
    "update returning": "UPDATE {t} SET org_id = org_id WHERE {key} RETURNING *",
    "delete using": "DELETE FROM {t} USING {t} x WHERE {t}.org_id <> {ours}"
    " AND x.org_id <> {ours} RETURNING x.*",
}
"""Answers rows; none may come."""

WRITES = {
    "update": "UPDATE {t} SET org_id = org_id WHERE org_id = {theirs}",
    "take over": "UPDATE {t} SET org_id = {ours} WHERE org_id = {theirs}",
    "take over by key": "UPDATE {t} SET org_id = {ours} WHERE {key}",
    "delete": "DELETE FROM {t} WHERE org_id = {theirs}",
    "delete by key": "DELETE FROM {t} WHERE {key}",
    "merge to delete": "MERGE INTO {t} USING (SELECT 1) s ON {t}.org_id = {theirs}"
    " WHEN MATCHED THEN DELETE",
    "merge to move": "MERGE INTO {t} USING (SELECT 1) s ON {t}.org_id = {theirs}"
    " WHEN MATCHED THEN UPDATE SET org_id = {ours}",
}
"""Changes rows; none may change."""

DENIED = {
    "give away": "UPDATE {t} SET org_id = {theirs} WHERE org_id = {ours}",
    "truncate": "TRUNCATE {t} CASCADE",
    "open the wall": "ALTER TABLE {t} DISABLE ROW LEVEL SECURITY",
    "lower the wall": "ALTER TABLE {t} NO FORCE ROW LEVEL SECURITY",
    "policy": "CREATE POLICY mine ON {t} USING (true)",
    "drop policy": "DROP POLICY tenant ON {t}",
    "own": "ALTER TABLE {t} OWNER TO agentcy_app",
    # Without the right to it a GRANT only warns.
    "grant": "GRANT ALL ON {t} TO agentcy_app; TRUNCATE {t} CASCADE",
    "trigger": "CREATE TRIGGER spy AFTER INSERT ON {t} FOR EACH ROW"
    " EXECUTE FUNCTION touch_updated_at()",
    "rule": "CREATE RULE spy AS ON INSERT TO {t} DO ALSO SELECT 1",
    "index": "CREATE INDEX spy ON {t} (org_id)",
    "statistics": "CREATE STATISTICS spy ON org_id, org_id FROM {t}",
    "view": "CREATE VIEW public.spy AS SELECT * FROM {t}",
    "inherit": "CREATE TABLE public.spy () INHERITS ({t})",
    "copy into": "COPY {t} FROM PROGRAM 'cat /dev/null'",
    "copy to a file": "COPY {t} TO '/tmp/spy'",
    "no policies": "SET LOCAL row_security = off; SELECT count(*) FROM {t}",
    "replicate": "CREATE PUBLICATION spy FOR TABLE {t}",
    "drop": "DROP TABLE {t} CASCADE",
}
"""May not be run by a request at all."""

REFUSED = (
    asyncpg.InsufficientPrivilegeError,
    asyncpg.WrongObjectTypeError,
    asyncpg.FeatureNotSupportedError,
    asyncpg.InvalidTableDefinitionError,
    asyncpg.InvalidObjectDefinitionError,
)
"""In so many words: not you, or not with this table."""
UNBOUND = (asyncpg.UndefinedObjectError, asyncpg.InvalidTextRepresentationError)
"""No organisation is set: of a connection that never had one, and of one whose one went."""


@dataclass(frozen=True)
class Target:
    """A table, and the row of the other organisation in it."""

    table: str
    ours: UUID
    theirs: UUID
    key: str
    ctid: str

    def sql(self, probe: str) -> str:
        """The probe as a statement."""
        return probe.format(
            t=self.table, ours=f"'{self.ours}'::uuid", theirs=f"'{self.theirs}'::uuid",
            theirs_hex=self.theirs, key=self.key, ctid=self.ctid,
        )  # fmt: skip


async def target(connection: Any, table: str, ours: UUID, row: dict[str, Any]) -> Target:
    """The target that ``row`` of the other organisation is, as somebody sees it who sees all."""
    names = await connection.fetchval(PRIMARY, table)
    parts = await connection.fetchrow(
        "SELECT string_agg(format('%I = %L', k, v), ' AND ') AS key, max(place) AS place FROM ("
        f"  SELECT e.key AS k, e.value AS v, t.ctid::text AS place FROM {table} t,"
        "   jsonb_each_text(to_jsonb(t)) e WHERE t.org_id = $1 AND e.key = ANY($2)) s",
        row["org_id"], names,
    )  # fmt: skip
    return Target(table, ours, row["org_id"], parts["key"], parts["place"])


async def rows_of(connection: Any, statement: str) -> list[Any] | str:
    """Its rows, or the name of the error that it met; what it did is taken back."""
    await connection.execute("SAVEPOINT probe")
    try:
        return await connection.fetch(statement)
    except asyncpg.PostgresError as error:
        return _named(error)
    finally:
        await connection.execute("ROLLBACK TO probe")


async def tag_of(connection: Any, statement: str, *args: Any) -> str:
    """Its command tag, or the name of the error that it met; what it did is taken back."""
    await connection.execute("SAVEPOINT probe")
    try:
        return await connection.execute(statement, *args)
    except asyncpg.PostgresError as error:
        return _named(error)
    finally:
        await connection.execute("ROLLBACK TO probe")


def _named(error: asyncpg.PostgresError) -> str:
    if isinstance(error, REFUSED):
        return "denied"
    return "unbound" if isinstance(error, UNBOUND) else f"{type(error).__name__}: {error}"
