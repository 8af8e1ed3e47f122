"""What the server's catalog says of the schema, and what may stand out of it, with its reason."""

from __future__ import annotations

from typing import Any

WITHOUT_ORG = {
    "organizations": "is the tenant: its own id is the key of its wall",
    "schema_migrations": "which files were applied; only the owner reads it",
    "tool_vectors": "the vector of a text, found by whoever has the text; agentcy_system only",
    "dropped_vectors": "ids of spaces that another store has to forget; agentcy_system only",
}
"""Tables without ``org_id``."""

UNIQUE_WITHOUT_ORG = {
    "embedding_spaces_table_name_key": "vec_ and the space's id",
    "tool_calls_idempotency_key_key": "a SHA-256 over the run's id, the place and the arguments",
}
"""Unique indexes with neither ``org_id`` nor a uuid or a hash: what their probe could learn."""

DEFINERS = {
    "create_vector_table", "build_vector_indexes", "drop_vector_table", "forget_vector_table",
    "index_vector_nodes", "make_audit_month", "drop_audit_months", "prune_audit",
}  # fmt: skip
"""Functions that run with the owner's rights; none is for requests."""

TABLES = """
SELECT n.nspname AS schema, c.relname AS name, c.relkind::text AS kind, c.relispartition AS part,
  pg_get_userbyid(c.relowner) AS owner,
  c.relrowsecurity AS enabled, c.relforcerowsecurity AS forced,
  EXISTS (SELECT 1 FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'org_id'
          AND NOT a.attisdropped) AS tenant,
  (SELECT array_agg(DISTINCT CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(x.grantee) END
     || ' ' || x.privilege_type)
   FROM aclexplode(c.relacl) x WHERE x.grantee <> c.relowner) AS grants,
  (SELECT array_agg(p.polname || '|' || coalesce((SELECT string_agg(pg_get_userbyid(r), ',')
       FROM unnest(p.polroles) r WHERE r <> 0), 'PUBLIC')
     || '|' || p.polpermissive || '|' || p.polcmd::text
     || '|' || coalesce(pg_get_expr(p.polqual, p.polrelid), 'none')
     || '|' || coalesce(pg_get_expr(p.polwithcheck, p.polrelid), 'none') ORDER BY p.polname)
   FROM pg_policy p WHERE p.polrelid = c.oid) AS policies
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast') AND n.nspname !~ '^pg_'
  AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
ORDER BY 1, 2
"""

FOREIGN_KEYS = """
SELECT c.conname AS name, c.conrelid::regclass::text AS child,
  c.confrelid::regclass::text AS parent,
  (SELECT array_agg(a.attname::text ORDER BY k.place)
   FROM unnest(c.conkey) WITH ORDINALITY k(num, place)
   JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.num) AS columns,
  (SELECT array_agg(a.attname::text ORDER BY k.place)
   FROM unnest(c.confkey) WITH ORDINALITY k(num, place)
   JOIN pg_attribute a ON a.attrelid = c.confrelid AND a.attnum = k.num) AS targets
FROM pg_constraint c WHERE c.contype = 'f' AND c.conparentid = 0 ORDER BY 1
"""

UNIQUE_KEYS = """
SELECT i.indexrelid::regclass::text AS name, t.relname AS table,
  array_agg(coalesce(a.attname::text, 'expression') ORDER BY k.place) AS columns,
  array_agg(coalesce(format_type(a.atttypid, NULL), 'expression') ORDER BY k.place) AS types
FROM pg_index i JOIN pg_class t ON t.oid = i.indrelid JOIN pg_namespace n ON n.oid = t.relnamespace
CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY k(num, place)
LEFT JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = k.num AND k.num <> 0
WHERE n.nspname = 'public' AND i.indisunique AND NOT t.relispartition
GROUP BY 1, 2 ORDER BY 1
"""

FUNCTIONS = """
SELECT p.proname AS name, p.oid::regprocedure::text AS signature, p.prosecdef AS definer,
  coalesce(p.proconfig, '{}') AS config, pg_get_userbyid(p.proowner) AS owner,
  has_function_privilege('agentcy_app', p.oid, 'EXECUTE') AS app,
  p.prokind::text AS kind, p.prorettype = 'trigger'::regtype AS trigger,
  ARRAY(SELECT format_type(t, NULL) FROM unnest(p.proargtypes) t) AS types
FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE n.nspname IN ('public', 'live', 'vectors')
  AND NOT EXISTS (SELECT 1 FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass
                  AND d.objid = p.oid AND d.deptype = 'e')
ORDER BY 1
"""


async def tenant_tables(connection: Any) -> list[Any]:
    """Rows of ``TABLES`` that hold rows of tenants and are no partitions."""
    rows = await connection.fetch(TABLES)
    return [row for row in rows if row["tenant"] and row["kind"] in "rp" and not row["part"]]
