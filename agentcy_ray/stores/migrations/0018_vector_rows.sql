-- Vectors by direct COPY, with the wall between tenants standing.
--
-- COPY refuses a table with row-level security, and by way of a table of the transaction every row is
-- written twice. So the table of a space gets one partition, vectors.vec_<space>, that holds its rows.
-- public.vec_<space> stays what everybody reads and changes, behind its policies. The partition has no
-- policy, and requests have but one right on it, to insert: a trigger lets in only the organisation
-- whose table it is (once a statement, so COPY keeps its speed), a constraint only rows of it. Search
-- reads through the live view, whose owner may read the partition and which asks for the organisation
-- itself.

CREATE SCHEMA vectors;
GRANT USAGE ON SCHEMA vectors TO agentcy_app, agentcy_system;

CREATE FUNCTION fence_vectors() RETURNS trigger LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
BEGIN
  IF app_org() IS DISTINCT FROM TG_ARGV[0]::uuid THEN
    RAISE EXCEPTION 'vectors of another organisation' USING ERRCODE = 'insufficient_privilege';
  END IF;
  RETURN NULL;
END $$;

-- Puts the fence around a partition and the live view over it.
CREATE PROCEDURE fence_vector_rows(tab text, org uuid) LANGUAGE plpgsql AS $$
BEGIN
  EXECUTE format('ALTER TABLE vectors.%I ADD CONSTRAINT owner CHECK (org_id = %L::uuid)', tab, org);
  EXECUTE format('CREATE TRIGGER fence BEFORE INSERT ON vectors.%I'
                 ' FOR EACH STATEMENT EXECUTE FUNCTION public.fence_vectors(%L)', tab, org);
  EXECUTE format('REVOKE ALL ON vectors.%I FROM PUBLIC, agentcy_app, agentcy_system', tab);
  EXECUTE format('GRANT INSERT ON vectors.%I TO agentcy_app', tab);
  EXECUTE format('GRANT SELECT ON vectors.%I TO agentcy_system', tab);
  EXECUTE format('CREATE VIEW live.%1$I AS SELECT * FROM vectors.%1$I'
                 ' WHERE org_id = public.app_org() AND archived_at IS NULL', tab);
  EXECUTE format('ALTER VIEW live.%I OWNER TO agentcy_system', tab);
  EXECUTE format('GRANT SELECT ON live.%I TO agentcy_app', tab);
END $$;
REVOKE ALL ON PROCEDURE fence_vector_rows(text, uuid) FROM PUBLIC;

DROP FUNCTION create_vector_table(uuid, int, text);
CREATE FUNCTION create_vector_table(space uuid, org uuid, dim int, storage text)
RETURNS text LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
  tab text := 'vec_' || replace(space::text, '-', '');
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
    ' archived_at timestamptz, updated_at timestamptz NOT NULL DEFAULT clock_timestamp())'
    ' PARTITION BY HASH (chunk_key)',
    tab, storage, dim);
  CALL make_tenant_table(tab::regclass);
  EXECUTE format('CREATE TABLE vectors.%1$I PARTITION OF public.%1$I'
                 ' FOR VALUES WITH (MODULUS 1, REMAINDER 0)', tab);
  CALL fence_vector_rows(tab, org);
  RETURN tab;
END $$;
REVOKE ALL ON FUNCTION create_vector_table(uuid, uuid, int, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION create_vector_table(uuid, uuid, int, text) TO agentcy_system;

-- As before, on the partition: only there may an index be built while rows are written.
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
  ) AS i (place, suffix, body) ORDER BY i.place
$$;
CREATE OR REPLACE FUNCTION build_vector_indexes(space uuid, storage text, distance text, m int, ef int)
RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
  one record;
BEGIN
  FOR one IN SELECT i.* FROM vector_indexes(space, storage, distance, m, ef) i LOOP
    IF to_regclass(format('vectors.%I', one.name)) IS NULL THEN
      EXECUTE format('CREATE INDEX %I %s', one.name, one.definition);
    END IF;
  END LOOP;
END $$;

-- The tables that exist become partitions as they are, with their indexes. The rows of spaces are read
-- as the role that sees them: a login role that is no superuser sees none.
SET LOCAL ROLE agentcy_system;
UPDATE embedding_spaces SET written_since = created_at, indexed_at = created_at
WHERE written_since IS NULL AND status IN ('active', 'retired');
CREATE TEMP TABLE kept_spaces ON COMMIT DROP AS
  SELECT org_id, table_name FROM embedding_spaces WHERE status <> 'dropped';
GRANT SELECT ON kept_spaces TO PUBLIC;
RESET ROLE;
DO $$
DECLARE
  one record;
BEGIN
  FOR one IN SELECT k.org_id, k.table_name AS tab FROM kept_spaces k
             WHERE to_regclass(format('public.%I', k.table_name)) IS NOT NULL LOOP
    EXECUTE format('DROP VIEW live.%I', one.tab);
    EXECUTE format('DROP POLICY tenant ON public.%I', one.tab);
    EXECUTE format('DROP POLICY system ON public.%I', one.tab);
    EXECUTE format('ALTER TABLE public.%I DISABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY', one.tab);
    EXECUTE format('DROP TRIGGER touch ON public.%I', one.tab);
    EXECUTE format('ALTER TABLE public.%I SET SCHEMA vectors', one.tab);
    EXECUTE format('CREATE TABLE public.%1$I (LIKE vectors.%1$I INCLUDING DEFAULTS,'
                   ' PRIMARY KEY (chunk_key)) PARTITION BY HASH (chunk_key)', one.tab);
    CALL make_tenant_table(format('public.%I', one.tab)::regclass);
    EXECUTE format('ALTER TABLE public.%1$I ATTACH PARTITION vectors.%1$I'
                   ' FOR VALUES WITH (MODULUS 1, REMAINDER 0)', one.tab);
    CALL fence_vector_rows(one.tab, one.org_id);
  END LOOP;
END $$;
