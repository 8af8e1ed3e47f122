-- Spaces whose vectors lie in another store. Their table is as any other's, without the column of
-- vectors: who may see a chunk, its words and what is shown of it are asked of Postgres in every case.

DROP FUNCTION create_vector_table(uuid, uuid, int, text);
CREATE FUNCTION create_vector_table(
  space uuid, org uuid, dim int, storage text, backend text DEFAULT 'pgvector')
RETURNS text LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
  tab text := 'vec_' || replace(space::text, '-', '');
  embedding text := CASE WHEN backend = 'pgvector'
    THEN format(' embedding %s(%s) NOT NULL,', storage, dim) ELSE '' END;
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
    ' properties jsonb NOT NULL,%s seen_at timestamptz,'
    ' archived_at timestamptz, updated_at timestamptz NOT NULL DEFAULT clock_timestamp())'
    ' PARTITION BY HASH (chunk_key)',
    tab, embedding);
  CALL make_tenant_table(tab::regclass);
  EXECUTE format('CREATE TABLE vectors.%1$I PARTITION OF public.%1$I'
                 ' FOR VALUES WITH (MODULUS 1, REMAINDER 0)', tab);
  CALL fence_vector_rows(tab, org);
  RETURN tab;
END $$;
REVOKE ALL ON FUNCTION create_vector_table(uuid, uuid, int, text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION create_vector_table(uuid, uuid, int, text, text) TO agentcy_system;

-- storage 'none': a table without vectors, which has every index but theirs.
CREATE OR REPLACE FUNCTION vector_indexes(space uuid, storage text, distance text, m int, ef int)
RETURNS TABLE (name text, definition text) LANGUAGE sql IMMUTABLE AS $$
  WITH t AS (SELECT 'vec_' || replace(space::text, '-', '') AS tab)
  SELECT format('%s_%s_idx', tab, i.suffix), format('ON vectors.%I %s', tab, i.body)
  FROM t, (VALUES
    (1, 'node_id', 'USING btree (node_id)'),
    (2, 'source_id', 'USING btree (source_id)'),
    (3, 'realm', 'USING btree (realm)'),
    (4, 'labels', 'USING gin (labels)'),
    (5, 'name', 'USING gin (name gin_trgm_ops)'),
    (6, 'text', 'USING gin (text gin_trgm_ops)'),
    -- Partial, so that archived rows do not stand in the way of a graph walk. The others are not: the
    -- planner would take any of them for a list of the live rows, and read all of these.
    (7, 'embedding', format(
      'USING hnsw (embedding %s_%s_ops) WITH (m = %s, ef_construction = %s) WHERE archived_at IS NULL',
      storage, distance, m, ef))
  ) AS i (place, suffix, body) WHERE i.place < 7 OR storage <> 'none' ORDER BY i.place
$$;

-- Spaces that are gone and whose vectors another store still has. Written with the drop itself, so a
-- drop that counts is not forgotten, and one that does not takes nothing away; upkeep clears it.
CREATE TABLE dropped_vectors (
  space_id uuid PRIMARY KEY,
  backend text NOT NULL,
  dropped_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
REVOKE ALL ON dropped_vectors FROM PUBLIC;
GRANT SELECT, DELETE ON dropped_vectors TO agentcy_system;

CREATE OR REPLACE FUNCTION forget_vector_table() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
  PERFORM drop_vector_table(OLD.id);
  IF OLD.backend <> 'pgvector' THEN
    INSERT INTO dropped_vectors (space_id, backend) VALUES (OLD.id, OLD.backend)
    ON CONFLICT DO NOTHING;
  END IF;
  RETURN NULL;
END $$;
