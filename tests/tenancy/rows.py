"""One valid row for each tenant table, made from the catalog: types, defaults and foreign keys.

A table that a later migration adds is covered without a change here: where a check lists words, the
first of them is taken. ``SPECIAL`` has the values for checks of other kinds.
"""

from __future__ import annotations

import secrets
from datetime import UTC, date, datetime
from typing import Any
from uuid import UUID

from agentcy_ray.core.ids import new_id

TENANT_TABLES = """
SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'org_id' AND NOT a.attisdropped
WHERE n.nspname = 'public' AND c.relkind IN ('r', 'p') AND NOT c.relispartition
ORDER BY c.relname
"""
_COLUMNS = """
SELECT a.attname AS name, format_type(a.atttypid, NULL) AS type, a.attnotnull AS required
FROM pg_attribute a
WHERE a.attrelid = $1::text::regclass AND a.attnum > 0 AND NOT a.attisdropped AND NOT a.atthasdef
ORDER BY a.attnum
"""
_PARENTS = """
SELECT confrelid::regclass::text AS parent,
  (SELECT array_agg(attname::text ORDER BY ord) FROM unnest(conkey) WITH ORDINALITY k(num, ord)
   JOIN pg_attribute a ON a.attrelid = conrelid AND a.attnum = k.num) AS columns,
  (SELECT array_agg(attname::text ORDER BY ord) FROM unnest(confkey) WITH ORDINALITY k(num, ord)
   JOIN pg_attribute a ON a.attrelid = confrelid AND a.attnum = k.num) AS targets
FROM pg_constraint WHERE conrelid = $1::text::regclass AND contype = 'f'
"""
_WORDS = """
SELECT a.attname AS name, (regexp_match(pg_get_constraintdef(c.oid),
  'ARRAY\\[''([^'']*)''::text'))[1] AS first
FROM pg_constraint c JOIN pg_attribute a ON a.attrelid = c.conrelid AND c.conkey = ARRAY[a.attnum]
WHERE c.conrelid = $1::text::regclass AND c.contype = 'c'
"""
SPECIAL: dict[tuple[str, str], Any] = {
    ("packages", "state"): "full",
    ("sync_runs", "kind"): "sync",
    ("sync_runs", "mode"): "full",
    ("embedding_spaces", "dim"): 3,
    ("embedding_spaces", "storage"): "vector",
    ("embed_backfills", "engine"): "coordinator",
    ("messages", "role"): "user",
    ("context_pipelines", "kind"): "webhook",
    ("context_pipelines", "target_table"): "context_nodes",
    ("file_drop_objects", "status"): "done",
    ("budget_limits", "scope"): "org",
    ("budget_limits", "unit"): "usd",
}
_VALUES: dict[str, Any] = {
    "text": "x", "integer": 1, "smallint": 1, "bigint": 1, "boolean": True, "jsonb": {},
    "bytea": b"x", "text[]": ["x"], "double precision": 1.0, "real": 1.0, "vector": [1.0, 0.0, 0.0],
}  # fmt: skip


async def tables(connection: Any) -> list[str]:
    """Every table with an ``org_id``."""
    return [row["relname"] for row in await connection.fetch(TENANT_TABLES)]


async def fill(connection: Any, org_id: UUID) -> dict[str, dict[str, Any]]:
    """Insert one row of ``org_id`` into each tenant table, parents first."""
    made: dict[str, dict[str, Any]] = {"organizations": {"id": org_id}}
    waiting = await tables(connection)
    while waiting:
        table = waiting.pop(0)
        values = await row_for(connection, table, org_id, made)
        if values is None:
            waiting.append(table)
            continue
        names = ", ".join(values)
        places = ", ".join(f"${place}" for place in range(1, len(values) + 1))
        row = await connection.fetchrow(
            f"INSERT INTO {table} ({names}) VALUES ({places}) RETURNING *", *values.values()
        )
        made[table] = dict(row)
    del made["organizations"]
    return made


async def row_for(
    connection: Any, table: str, org_id: UUID, made: dict[str, dict[str, Any]]
) -> dict[str, Any] | None:
    """Values for a new row; None while a parent's row is missing."""
    values: dict[str, Any] = {"org_id": org_id}
    for link in await connection.fetch(_PARENTS, table):
        if link["parent"] == table:
            continue
        if link["parent"] not in made:
            return None
        for column, target in zip(link["columns"], link["targets"], strict=True):
            values[column] = made[link["parent"]][target]
    words = {row["name"]: row["first"] for row in await connection.fetch(_WORDS, table)}
    for column in await connection.fetch(_COLUMNS, table):
        name = column["name"]
        if name not in values and column["required"]:
            values[name] = words.get(name) or _value(table, name, column["type"], org_id)
    return values


def _value(table: str, name: str, kind: str, org_id: UUID) -> Any:
    if (table, name) in SPECIAL:
        return SPECIAL[table, name]
    if kind == "uuid":
        return new_id()
    if kind.startswith("timestamp"):
        return datetime.now(UTC)
    if kind == "date":
        return date.today()
    if kind == "text":
        return f"x{secrets.token_hex(6)}"
    if kind == "bytea":
        return secrets.token_bytes(32)  # as long as a SHA-256
    return _VALUES[kind]
