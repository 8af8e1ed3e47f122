-- Sources, their packages and sync runs, and the jobs that carry them.

CREATE TABLE sources (
  id uuid PRIMARY KEY,
  org_id uuid NOT NULL REFERENCES organizations (id) ON DELETE CASCADE,
  name text NOT NULL CHECK (name ~ '^[A-Za-z0-9][A-Za-z0-9 ._-]{0,99}$'),
  connector text NOT NULL,
  realm text NOT NULL,
  config jsonb NOT NULL DEFAULT '{}',
  config_version int NOT NULL DEFAULT 1,
  sync_mode text NOT NULL DEFAULT 'incremental' CHECK (sync_mode IN ('full', 'incremental')),
  schedule text NOT NULL DEFAULT 'manual',
  egress jsonb NOT NULL DEFAULT '{}',
  retention_days int NOT NULL DEFAULT 30,
  status text NOT NULL DEFAULT 'draft',
  enabled boolean NOT NULL DEFAULT true,
  current_package_id uuid,
  linked_rules text NOT NULL DEFAULT '', -- hash of the link rules that its nodes were indexed for
  last_error jsonb,
  created_by uuid,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  UNIQUE (org_id, id),
  UNIQUE (org_id, name),
  FOREIGN KEY (org_id, realm) REFERENCES realms (org_id, name)
);
CREATE INDEX sources_status ON sources (org_id, status);
CALL make_tenant_table('sources');

-- Secrets of a source, sealed; associated data binds a row to its org, owner and version.
CREATE TABLE credentials (
  id uuid PRIMARY KEY,
  org_id uuid NOT NULL,
  source_id uuid NOT NULL,
  version int NOT NULL,
  ciphertext bytea NOT NULL,
  nonce bytea NOT NULL,
  wrapped_key bytea NOT NULL,
  key_id text NOT NULL,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  UNIQUE (org_id, source_id, version),
  FOREIGN KEY (org_id, source_id) REFERENCES sources (org_id, id) ON DELETE CASCADE
);
CALL make_tenant_table('credentials');

-- One sync at a time per source. The epoch is the fence: every write of a sync checks it. A lease
-- that still runs is taken only for the same sync run by a later claim of its job.
CREATE TABLE source_leases (
  source_id uuid PRIMARY KEY,
  org_id uuid NOT NULL,
  epoch bigint NOT NULL DEFAULT 0,
  owner text,
  run_id uuid,
  claim bigint NOT NULL DEFAULT 0,
  lease_until timestamptz,
  FOREIGN KEY (org_id, source_id) REFERENCES sources (org_id, id) ON DELETE CASCADE
);
CALL make_tenant_table('source_leases');

CREATE TABLE packages (
  id uuid PRIMARY KEY,
  org_id uuid NOT NULL,
  source_id uuid NOT NULL,
  state text NOT NULL CHECK (state IN ('full', 'delta')),
  base_id uuid,
  manifest jsonb NOT NULL,
  digest text NOT NULL,
  counts jsonb NOT NULL,
  published_at timestamptz,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  UNIQUE (org_id, id),
  FOREIGN KEY (org_id, source_id) REFERENCES sources (org_id, id) ON DELETE CASCADE
);
CREATE INDEX packages_source ON packages (source_id, created_at);
CALL make_tenant_table('packages');

CREATE TABLE source_cursors (
  org_id uuid NOT NULL,
  source_id uuid NOT NULL,
  stream text NOT NULL,
  cursor jsonb NOT NULL,
  package_id uuid NOT NULL,
  PRIMARY KEY (source_id, stream),
  FOREIGN KEY (org_id, source_id) REFERENCES sources (org_id, id) ON DELETE CASCADE,
  FOREIGN KEY (org_id, package_id) REFERENCES packages (org_id, id)
);
CALL make_tenant_table('source_cursors');

CREATE TABLE jobs (
  id uuid PRIMARY KEY,
  org_id uuid NOT NULL REFERENCES organizations (id) ON DELETE CASCADE,
  kind text NOT NULL,
  payload jsonb NOT NULL,
  priority smallint NOT NULL DEFAULT 5 CHECK (priority BETWEEN 0 AND 9),
  status text NOT NULL DEFAULT 'queued',
  attempts int NOT NULL DEFAULT 0,
  max_attempts int NOT NULL DEFAULT 5,
  run_after timestamptz NOT NULL DEFAULT clock_timestamp(),
  lease_until timestamptz,
  epoch bigint NOT NULL DEFAULT 0,
  worker_id text,
  cancel_requested boolean NOT NULL DEFAULT false,
  progress jsonb,
  error jsonb,
  dedupe_key text,
  claimed_at timestamptz,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  UNIQUE (org_id, id)
);
CREATE INDEX jobs_ready ON jobs (status, priority DESC, run_after);
CREATE INDEX jobs_served ON jobs (org_id, claimed_at DESC NULLS LAST);
CREATE UNIQUE INDEX jobs_dedupe ON jobs (org_id, dedupe_key)
  WHERE status IN ('queued', 'running', 'retry_wait');
CALL make_tenant_table('jobs');

CREATE TABLE sync_runs (
  id uuid PRIMARY KEY,
  org_id uuid NOT NULL,
  source_id uuid NOT NULL,
  job_id uuid,
  kind text NOT NULL CHECK (kind IN ('sync', 'revert')),
  mode text NOT NULL CHECK (mode IN ('full', 'incremental')),
  force boolean NOT NULL DEFAULT false,
  epoch bigint NOT NULL DEFAULT 0,
  status text NOT NULL DEFAULT 'pending',
  package_id uuid,
  publish_cursor jsonb,
  counts jsonb NOT NULL DEFAULT '{}',
  rejects jsonb NOT NULL DEFAULT '[]',
  progress jsonb,
  error jsonb,
  started_at timestamptz,
  ended_at timestamptz,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  UNIQUE (org_id, id),
  FOREIGN KEY (org_id, source_id) REFERENCES sources (org_id, id) ON DELETE CASCADE
);
CREATE INDEX sync_runs_source ON sync_runs (source_id, created_at DESC);
CREATE UNIQUE INDEX sync_runs_active ON sync_runs (source_id)
  WHERE status IN ('pending', 'running', 'publishing');
CALL make_tenant_table('sync_runs');

-- Edges whose end no publish has brought yet; applied by the one that does.
CREATE TABLE dangling_edges (
  org_id uuid NOT NULL,
  edge_id text NOT NULL,
  source_id uuid NOT NULL,
  src text NOT NULL,
  dst text NOT NULL,
  type text NOT NULL,
  realm text NOT NULL,
  properties text NOT NULL,
  content_hash text NOT NULL,
  missing_end text NOT NULL,
  PRIMARY KEY (org_id, edge_id),
  FOREIGN KEY (org_id, source_id) REFERENCES sources (org_id, id) ON DELETE CASCADE
);
CREATE INDEX dangling_edges_end ON dangling_edges (org_id, missing_end);
CALL make_tenant_table('dangling_edges');

-- What link rules compare: for each node the properties that some rule of the organisation names.
CREATE TABLE link_values (
  org_id uuid NOT NULL,
  source_id uuid NOT NULL,
  node_id text NOT NULL,
  realm text NOT NULL,
  label text NOT NULL,
  property text NOT NULL,
  value text NOT NULL,
  PRIMARY KEY (org_id, node_id, label, property),
  FOREIGN KEY (org_id, source_id) REFERENCES sources (org_id, id) ON DELETE CASCADE
);
CREATE INDEX link_values_equal ON link_values (org_id, label, property, value);
CREATE INDEX link_values_source ON link_values (source_id);
CALL make_tenant_table('link_values');

-- The edges that link rules have drawn between the nodes of two sources.
CREATE TABLE link_edges (
  org_id uuid NOT NULL,
  edge_id text NOT NULL,
  src text NOT NULL,
  dst text NOT NULL,
  type text NOT NULL,
  source_id uuid NOT NULL,
  dst_source_id uuid NOT NULL,
  PRIMARY KEY (org_id, edge_id),
  FOREIGN KEY (org_id, source_id) REFERENCES sources (org_id, id) ON DELETE CASCADE
);
CREATE INDEX link_edges_ends ON link_edges (org_id, src, dst, type);
CREATE INDEX link_edges_source ON link_edges (source_id);
CREATE INDEX link_edges_target ON link_edges (dst_source_id);
CALL make_tenant_table('link_edges');

-- One row per embedding space; its vectors lie in the table that it names.
CREATE TABLE embedding_spaces (
  id uuid PRIMARY KEY,
  org_id uuid NOT NULL REFERENCES organizations (id) ON DELETE CASCADE,
  embedder text NOT NULL,
  signature text NOT NULL,
  dim int NOT NULL CHECK (dim BETWEEN 1 AND 4000),
  storage text NOT NULL CHECK (storage IN ('vector', 'halfvec')),
  table_name text NOT NULL UNIQUE,
  status text NOT NULL DEFAULT 'building',
  progress jsonb,
  recall jsonb,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  UNIQUE (org_id, id),
  UNIQUE (org_id, signature)
);
CREATE UNIQUE INDEX embedding_spaces_active ON embedding_spaces (org_id) WHERE status = 'active';
CALL make_tenant_table('embedding_spaces');

-- Views over the vector tables: live rows of the asking organisation, read by search.
--
-- Behind row-level security Postgres may use an index only for leakproof operators, and those of
-- pg_trgm and arrays are none: every search by text would read the whole table. A view whose owner
-- sees all rows asks for the organisation in its own WHERE, which fails closed like the policy does
-- and lets every index work.
CREATE SCHEMA live AUTHORIZATION agentcy_system;
GRANT USAGE ON SCHEMA live TO agentcy_app;

-- Makes the vector table of a space and its live view. A definer function, because agentcy_app owns
-- nothing and may create nothing; it takes no name from outside, it derives it from the space's id.
CREATE FUNCTION create_vector_table(space uuid, dim int, storage text, m int, ef int)
RETURNS text LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
  tab text := 'vec_' || replace(space::text, '-', '');
  ops text := CASE storage WHEN 'halfvec' THEN 'halfvec_cosine_ops' ELSE 'vector_cosine_ops' END;
BEGIN
  IF storage NOT IN ('vector', 'halfvec') THEN
    RAISE EXCEPTION 'storage % is not vector or halfvec', storage;
  END IF;
  IF to_regclass(format('live.%I', tab)) IS NOT NULL THEN
    RETURN tab;
  END IF;
  EXECUTE format('CREATE TABLE %I ('
    ' chunk_key text PRIMARY KEY, org_id uuid NOT NULL, node_id text NOT NULL, realm text NOT NULL,'
    ' labels text[] NOT NULL, source_id uuid NOT NULL, connector text NOT NULL,'
    ' external_id text NOT NULL, name text NOT NULL, text text NOT NULL, url text,'
    ' properties jsonb NOT NULL, embedding %s(%s) NOT NULL, seen_at timestamptz,'
    ' archived_at timestamptz, updated_at timestamptz NOT NULL DEFAULT clock_timestamp())',
    tab, storage, dim);
  -- Partial, so that archived rows do not stand in the way of a graph walk. The others are not: the
  -- planner would take any of them for a list of the live rows, and read all of these.
  EXECUTE format('CREATE INDEX ON %I USING hnsw (embedding %s) WITH (m = %s, ef_construction = %s)'
                 ' WHERE archived_at IS NULL', tab, ops, m, ef);
  EXECUTE format('CREATE INDEX ON %I USING gin (text gin_trgm_ops)', tab);
  EXECUTE format('CREATE INDEX ON %I USING gin (name gin_trgm_ops)', tab);
  EXECUTE format('CREATE INDEX ON %I USING gin (labels)', tab);
  EXECUTE format('CREATE INDEX ON %I (realm)', tab);
  EXECUTE format('CREATE INDEX ON %I (node_id)', tab);
  EXECUTE format('CREATE INDEX ON %I (source_id)', tab);
  CALL make_tenant_table(tab::regclass);
  EXECUTE format('CREATE VIEW live.%1$I AS SELECT * FROM public.%1$I'
                 ' WHERE org_id = public.app_org() AND archived_at IS NULL', tab);
  EXECUTE format('ALTER VIEW live.%I OWNER TO agentcy_system', tab);
  EXECUTE format('GRANT SELECT ON live.%I TO agentcy_app', tab);
  RETURN tab;
END $$;
REVOKE ALL ON FUNCTION create_vector_table(uuid, int, text, int, int) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION create_vector_table(uuid, int, text, int, int) TO agentcy_system;
