"""The SQL of ``embedding_spaces``, as ``SpaceStore`` runs it."""

from __future__ import annotations

COLUMNS = (
    "id, org_id, embedder, signature, revision, dim, distance, storage, chunking, backend, "
    "table_name, status, progress, recall, error, created_at, written_since, indexed_at, "
    "retired_at, drop_after"
)
SELECT = f"SELECT {COLUMNS} FROM embedding_spaces"
ACTIVE = f"{SELECT} WHERE org_id = $1 AND status = 'active'"
BY_ID = f"{SELECT} WHERE org_id = $1 AND id = $2 AND status <> 'dropped'"
LIST = f"{SELECT} WHERE org_id = $1 AND status <> 'dropped' ORDER BY created_at DESC, id DESC"
WRITABLE = f"""
{SELECT} WHERE org_id = $1 AND (status IN ('active', 'ready')
  OR status = 'building' AND written_since IS NOT NULL
  OR status = 'retired' AND drop_after > clock_timestamp())
ORDER BY status <> 'active', created_at, id
"""
EXPIRED = f"""
{SELECT} WHERE status = 'retired' AND drop_after <= clock_timestamp()
  OR status = 'failed' AND updated_at <= clock_timestamp() - interval '1 day'
ORDER BY drop_after, id LIMIT 100
"""
SAME = f"""
{SELECT} WHERE org_id = $1 AND embedder = $2 AND revision = $3 AND signature = $4 AND dim = $5
  AND distance = $6 AND storage = $7 AND chunking = $8 AND backend = $9 AND status <> 'dropped'
"""
LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('embedding_spaces/' || $1::uuid::text, 0))"
INSERT = f"""
INSERT INTO embedding_spaces
  (org_id, embedder, revision, signature, dim, distance, storage, chunking, backend, id, table_name)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) RETURNING {COLUMNS}
"""
CREATE_TABLE = "SELECT create_vector_table($1, $2, $3, $4, $5)"
CREATE_INDEXES = "SELECT build_vector_indexes($1, $2, $3, $4, $5)"
MOVE = (
    "UPDATE embedding_spaces SET status = '{target}'{also} "
    f"WHERE org_id = $1 AND id = $2 AND status = ANY($3) RETURNING {COLUMNS}"
)
BEGIN = f"""
UPDATE embedding_spaces SET written_since = coalesce(written_since, clock_timestamp())
WHERE org_id = $1 AND id = $2 AND status = 'building' RETURNING {COLUMNS}
"""
INDEXED = "UPDATE embedding_spaces SET indexed_at = clock_timestamp() WHERE org_id = $1 AND id = $2"
PROGRESS = "UPDATE embedding_spaces SET progress = $3 WHERE org_id = $1 AND id = $2"
RECALL = "UPDATE embedding_spaces SET recall = $3 WHERE org_id = $1 AND id = $2"
RETIRE = """
UPDATE embedding_spaces SET status = 'retired', retired_at = clock_timestamp(),
  drop_after = clock_timestamp() + $2
WHERE org_id = $1 AND status = 'active'
"""
VERSION = "SELECT extversion FROM pg_extension WHERE extname = 'vector'"
DROP_PATIENCE = "SET LOCAL lock_timeout = '15s'"
