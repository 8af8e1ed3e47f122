-- Moves of organisations from the Basic engine to the Advanced one; at most one of each is open.

CREATE TABLE engine_migrations (
  id uuid PRIMARY KEY,
  org_id uuid NOT NULL REFERENCES organizations (id) ON DELETE CASCADE,
  status text NOT NULL DEFAULT 'planned',
  job_id uuid,
  epoch bigint NOT NULL DEFAULT 0, -- of the worker that carries it out: the fence of every move
  cursor jsonb NOT NULL DEFAULT '{}', -- up to where entities lie in the new engine
  counts jsonb NOT NULL DEFAULT '{}',
  checksums jsonb NOT NULL DEFAULT '{}',
  differences jsonb NOT NULL DEFAULT '[]',
  error jsonb,
  created_by uuid,
  started_at timestamptz,
  cut_over_at timestamptz,
  ended_at timestamptz,
  pruned_at timestamptz,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  UNIQUE (org_id, id)
);
CREATE UNIQUE INDEX engine_migrations_open ON engine_migrations (org_id)
  WHERE status IN ('planned', 'backfilling', 'verifying', 'cutover');
CALL make_tenant_table('engine_migrations');
