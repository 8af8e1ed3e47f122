-- Filling an embedding space from the packages: one row a backfill, its blocks with the state of each,
-- and the texts that no model took. A block is marked done in the transaction that writes its chunks.

CREATE TABLE embed_backfills (
  id uuid PRIMARY KEY,
  org_id uuid NOT NULL REFERENCES organizations (id) ON DELETE CASCADE,
  space_id uuid NOT NULL,
  engine text NOT NULL CHECK (engine IN ('coordinator', 'ray-data')),
  status text NOT NULL DEFAULT 'queued',
  phase text NOT NULL DEFAULT 'planning', -- planning, embedding, retrying, indexing, checking
  note text NOT NULL DEFAULT '', -- what it waits for
  options jsonb NOT NULL DEFAULT '{}',
  job_id uuid,
  epoch bigint NOT NULL DEFAULT 0, -- of the worker that carries it out: the fence of every write
  waits_for uuid[] NOT NULL DEFAULT '{}', -- publishes under way at the start, which do not write the space
  nodes bigint NOT NULL DEFAULT 0,
  nodes_done bigint NOT NULL DEFAULT 0,
  blocks bigint NOT NULL DEFAULT 0,
  blocks_done bigint NOT NULL DEFAULT 0,
  chunks bigint NOT NULL DEFAULT 0, -- written, or there already
  tokens bigint NOT NULL DEFAULT 0,
  cost_usd double precision NOT NULL DEFAULT 0,
  chunks_per_s double precision,
  tokens_per_s double precision,
  eta_secs double precision,
  recall jsonb,
  error jsonb,
  created_by uuid,
  started_at timestamptz,
  ended_at timestamptz,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  UNIQUE (org_id, id),
  FOREIGN KEY (org_id, space_id) REFERENCES embedding_spaces (org_id, id) ON DELETE CASCADE
);
CREATE UNIQUE INDEX embed_backfills_open ON embed_backfills (space_id)
  WHERE status IN ('queued', 'running', 'paused');
CALL make_tenant_table('embed_backfills');

-- The sources of a backfill, each with the package that its blocks were cut from.
CREATE TABLE embed_sources (
  org_id uuid NOT NULL,
  backfill_id uuid NOT NULL,
  source_id uuid NOT NULL, -- no reference: a source that is deleted meanwhile leaves its blocks
  package_id uuid,
  nodes bigint NOT NULL,
  planned_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (backfill_id, source_id),
  FOREIGN KEY (org_id, backfill_id) REFERENCES embed_backfills (org_id, id) ON DELETE CASCADE
);
CALL make_tenant_table('embed_sources');

-- Ranges of node ids of one source: behind after_key, up to and with last_key.
CREATE TABLE embed_blocks (
  org_id uuid NOT NULL,
  backfill_id uuid NOT NULL,
  no bigint NOT NULL,
  source_id uuid NOT NULL,
  after_key text NOT NULL,
  last_key text NOT NULL,
  nodes int NOT NULL,
  chunks int,
  status text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'again', 'done')),
  PRIMARY KEY (backfill_id, no),
  FOREIGN KEY (org_id, backfill_id) REFERENCES embed_backfills (org_id, id) ON DELETE CASCADE
);
CREATE INDEX embed_blocks_open ON embed_blocks (backfill_id, no) WHERE status <> 'done';
CALL make_tenant_table('embed_blocks');

CREATE TABLE embed_errors (
  org_id uuid NOT NULL,
  backfill_id uuid NOT NULL,
  chunk_key text NOT NULL,
  node_id text NOT NULL,
  source_id uuid NOT NULL,
  code text NOT NULL,
  message text NOT NULL,
  attempts int NOT NULL DEFAULT 1,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (backfill_id, chunk_key),
  FOREIGN KEY (org_id, backfill_id) REFERENCES embed_backfills (org_id, id) ON DELETE CASCADE
);
CALL make_tenant_table('embed_errors');

-- The one index that writers need while a space is filled: publishes and the blocks that follow them
-- look chunks up by node. It bears the name by which the later build of all indexes finds it.
CREATE FUNCTION index_vector_nodes(space uuid)
RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
  tab text := 'vec_' || replace(space::text, '-', '');
BEGIN
  EXECUTE format('CREATE INDEX IF NOT EXISTS %I ON public.%I USING btree (node_id)',
                 tab || '_node_id_idx', tab);
END $$;
REVOKE ALL ON FUNCTION index_vector_nodes(uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION index_vector_nodes(uuid) TO agentcy_system;
