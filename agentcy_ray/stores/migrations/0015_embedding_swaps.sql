-- Changes of the embedding model while search answers; at most one of an organisation is open.

CREATE TABLE embedding_swaps (
  id uuid PRIMARY KEY,
  org_id uuid NOT NULL REFERENCES organizations (id) ON DELETE CASCADE,
  model text NOT NULL, -- reference of the model that is to answer
  from_space uuid, -- what answered when it began; spaces keep their rows when they are dropped
  to_space uuid,
  status text NOT NULL DEFAULT 'planned',
  job_id uuid,
  epoch bigint NOT NULL DEFAULT 0, -- of the worker that carries it out: the fence of every move
  options jsonb NOT NULL DEFAULT '{}',
  gate jsonb, -- figures of the last check
  reason text, -- why it waits in ready
  forced_by uuid, -- who activated it in spite of the gate
  error jsonb,
  created_by uuid,
  started_at timestamptz,
  cut_over_at timestamptz,
  ended_at timestamptz,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  UNIQUE (org_id, id)
);
-- One that was cut over is no longer in the way of the next: only its old space's grace is left.
CREATE UNIQUE INDEX embedding_swaps_open ON embedding_swaps (org_id)
  WHERE status IN ('planned', 'backfilling', 'checking', 'ready');
CALL make_tenant_table('embedding_swaps');

-- A bounded sample of what is asked, for comparing two spaces by questions that people have: the
-- text with its secrets taken out, not who asked, in which realms, or what was answered.
CREATE TABLE rag_queries (
  org_id uuid NOT NULL REFERENCES organizations (id) ON DELETE CASCADE,
  digest bytea NOT NULL, -- SHA-256 of the text
  text text NOT NULL CHECK (length(text) <= 512),
  asked int NOT NULL DEFAULT 1,
  last_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (org_id, digest)
);
CREATE INDEX rag_queries_last ON rag_queries (org_id, last_at);
CREATE INDEX rag_queries_age ON rag_queries (last_at);
CALL make_tenant_table('rag_queries');
