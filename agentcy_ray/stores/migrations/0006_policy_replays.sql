-- Replays: a candidate policy set over the recorded inputs, and what it would have changed.

CREATE TABLE policy_replays (
  id uuid PRIMARY KEY,
  org_id uuid NOT NULL REFERENCES organizations (id) ON DELETE CASCADE,
  author uuid NOT NULL,
  candidate jsonb NOT NULL,
  since timestamptz NOT NULL,
  until timestamptz NOT NULL,
  job_id uuid,
  result jsonb,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  UNIQUE (org_id, id)
);
CREATE INDEX policy_replays_created ON policy_replays (org_id, created_at DESC);
CALL make_tenant_table('policy_replays');
