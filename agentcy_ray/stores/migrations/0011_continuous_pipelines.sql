-- Continuous pipelines: what they are, who may feed them, and what they took.

CREATE TABLE context_pipelines (
  id uuid PRIMARY KEY,
  org_id uuid NOT NULL REFERENCES organizations (id) ON DELETE CASCADE,
  name text NOT NULL CHECK (name ~ '^[A-Za-z0-9][A-Za-z0-9 ._-]{0,99}$'),
  kind text NOT NULL CHECK (kind IN ('webhook', 'file_drop', 'connector', 'otlp')),
  target_table text NOT NULL
    CHECK (target_table IN ('context_nodes', 'context_edges', 'context_events')),
  realm text NOT NULL,
  source_id uuid NOT NULL, -- what it writes under: the realm's built-in source, or its connector's
  config jsonb NOT NULL DEFAULT '{}',
  mapping jsonb NOT NULL DEFAULT '{}',
  require_signature boolean NOT NULL DEFAULT false,
  enabled boolean NOT NULL DEFAULT true,
  created_by uuid,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  UNIQUE (org_id, id),
  UNIQUE (org_id, name),
  FOREIGN KEY (org_id, realm) REFERENCES realms (org_id, name),
  FOREIGN KEY (org_id, source_id) REFERENCES sources (org_id, id) ON DELETE CASCADE
);
CALL make_tenant_table('context_pipelines');

CREATE TABLE pipeline_tokens (
  id uuid PRIMARY KEY,
  org_id uuid NOT NULL,
  pipeline_id uuid NOT NULL,
  name text NOT NULL,
  token_hash bytea NOT NULL UNIQUE, -- SHA-256
  secret_sealed bytea, -- the signing secret, encrypted
  last_used_at timestamptz,
  revoked_at timestamptz,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  UNIQUE (org_id, id),
  FOREIGN KEY (org_id, pipeline_id) REFERENCES context_pipelines (org_id, id) ON DELETE CASCADE
);
CREATE INDEX pipeline_tokens_pipeline ON pipeline_tokens (pipeline_id);
CALL make_tenant_table('pipeline_tokens');

-- What a pipeline took between two seals.
CREATE TABLE context_pipeline_runs (
  id uuid PRIMARY KEY,
  org_id uuid NOT NULL,
  pipeline_id uuid NOT NULL,
  requests bigint NOT NULL DEFAULT 0,
  accepted bigint NOT NULL DEFAULT 0,
  rejected bigint NOT NULL DEFAULT 0,
  segments bigint NOT NULL DEFAULT 0,
  bytes bigint NOT NULL DEFAULT 0,
  rejects jsonb NOT NULL DEFAULT '[]', -- the first hundred
  started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  sealed_at timestamptz,
  UNIQUE (org_id, id),
  FOREIGN KEY (org_id, pipeline_id) REFERENCES context_pipelines (org_id, id) ON DELETE CASCADE
);
CREATE INDEX context_pipeline_runs_pipeline ON context_pipeline_runs (pipeline_id, id DESC);
CREATE UNIQUE INDEX context_pipeline_runs_open ON context_pipeline_runs (pipeline_id)
  WHERE sealed_at IS NULL;
CALL make_tenant_table('context_pipeline_runs');

-- Accepted records, each segment an object. Numbers of a source's segments are given out under a
-- lock on the source, so whoever has read up to one has missed none before it.
CREATE TABLE pipeline_segments (
  id uuid PRIMARY KEY,
  org_id uuid NOT NULL,
  source_id uuid NOT NULL,
  seq bigint NOT NULL,
  pipeline_id uuid NOT NULL, -- may have been deleted since
  run_id uuid NOT NULL,
  target_table text NOT NULL,
  object_key text NOT NULL,
  rows bigint NOT NULL,
  bytes bigint NOT NULL,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  published_at timestamptz,
  UNIQUE (source_id, seq),
  FOREIGN KEY (org_id, source_id) REFERENCES sources (org_id, id) ON DELETE CASCADE
);
CREATE INDEX pipeline_segments_waiting ON pipeline_segments (source_id, seq)
  WHERE published_at IS NULL;
CREATE INDEX pipeline_segments_run ON pipeline_segments (run_id);
CALL make_tenant_table('pipeline_segments');

CREATE TABLE file_drop_objects (
  org_id uuid NOT NULL,
  pipeline_id uuid NOT NULL,
  key text NOT NULL,
  etag text NOT NULL,
  status text NOT NULL CHECK (status IN ('done', 'failed')),
  run_id uuid,
  accepted bigint NOT NULL DEFAULT 0,
  rejected bigint NOT NULL DEFAULT 0,
  error jsonb,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (pipeline_id, key, etag),
  FOREIGN KEY (org_id, pipeline_id) REFERENCES context_pipelines (org_id, id) ON DELETE CASCADE
);
CALL make_tenant_table('file_drop_objects');

-- The first answer to an X-Idempotency-Key, written with the records that it speaks of.
CREATE TABLE ingest_replays (
  org_id uuid NOT NULL,
  pipeline_id uuid NOT NULL,
  key text NOT NULL,
  status smallint NOT NULL,
  answer jsonb NOT NULL,
  expires_at timestamptz NOT NULL,
  PRIMARY KEY (pipeline_id, key),
  FOREIGN KEY (org_id, pipeline_id) REFERENCES context_pipelines (org_id, id) ON DELETE CASCADE
);
CREATE INDEX ingest_replays_expiry ON ingest_replays (expires_at);
CALL make_tenant_table('ingest_replays');
