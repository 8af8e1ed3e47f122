-- Several embedding spaces of one organisation at a time: what tells them apart, how long a former
-- one is kept, and tables that are loaded first and indexed afterwards.

ALTER TABLE embedding_spaces
  ADD COLUMN revision text NOT NULL DEFAULT '', -- of the model: hash of its weights, or a server's name
  ADD COLUMN distance text NOT NULL DEFAULT 'cosine' CHECK (distance IN ('cosine', 'l2', 'ip')),
  ADD COLUMN chunking text NOT NULL DEFAULT '', -- how texts were cut; '' = before this was written down
  ADD COLUMN backend text NOT NULL DEFAULT 'pgvector',
  ADD COLUMN written_since timestamptz, -- from here on every publish writes the space too
  ADD COLUMN indexed_at timestamptz,
  ADD COLUMN retired_at timestamptz,
  ADD COLUMN drop_after timestamptz, -- the end of a retired space's grace
  ADD COLUMN error jsonb;
UPDATE embedding_spaces SET written_since = created_at, indexed_at = created_at;
ALTER TABLE embedding_spaces DROP CONSTRAINT embedding_spaces_org_id_signature_key;
CREATE UNIQUE INDEX embedding_spaces_identity ON embedding_spaces
  (org_id, embedder, revision, signature, dim, distance, storage, chunking, backend)
  WHERE status <> 'dropped';
CREATE INDEX embedding_spaces_drop ON embedding_spaces (drop_after) WHERE status = 'retired';

DROP FUNCTION create_vector_table(uuid, int, text, int, int);

-- Makes the vector table of a space and its live view, without any index but the primary key's: rows
-- are loaded several times faster than with them. A definer function, because agentcy_app owns nothing
-- and may create nothing; it takes no name from outside, it derives it from the space's id.
CREATE FUNCTION create_vector_table(space uuid, dim int, storage text)
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
    ' archived_at timestamptz, updated_at timestamptz NOT NULL DEFAULT clock_timestamp())',
    tab, storage, dim);
  CALL make_tenant_table(tab::regclass);
  EXECUTE format('CREATE VIEW live.%1$I AS SELECT * FROM public.%1$I'
                 ' WHERE org_id = public.app_org() AND archived_at IS NULL', tab);
  EXECUTE format('ALTER VIEW live.%I OWNER TO agentcy_system', tab);
  EXECUTE format('GRANT SELECT ON live.%I TO agentcy_app', tab);
  RETURN tab;
END $$;

-- The secondary indexes of a space: name, and what follows CREATE INDEX [CONCURRENTLY] <name>.
CREATE FUNCTION vector_indexes(space uuid, storage text, distance text, m int, ef int)
RETURNS TABLE (name text, definition text) LANGUAGE sql IMMUTABLE AS $$
  WITH t AS (SELECT 'vec_' || replace(space::text, '-', '') AS tab)
  SELECT format('%s_%s_idx', tab, i.suffix), format('ON public.%I %s', tab, i.body)
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

-- All secondary indexes at once, inside the caller's transaction: for a table that is still empty. A
-- filled one is indexed statement by statement, CONCURRENTLY, on a connection of the owner.
CREATE FUNCTION build_vector_indexes(space uuid, storage text, distance text, m int, ef int)
RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
  one record;
BEGIN
  FOR one IN SELECT i.* FROM vector_indexes(space, storage, distance, m, ef) i LOOP
    IF to_regclass(format('public.%I', one.name)) IS NULL THEN
      EXECUTE format('CREATE INDEX %I %s', one.name, one.definition);
    END IF;
  END LOOP;
END $$;

-- Takes the vectors of a space away for good. Nobody may call it: the trigger below does, when a space
-- becomes 'dropped' or its row goes, with its organisation for one. So the table and the status cannot
-- contradict each other, and what may be dropped is said by the moves of the state machine alone.
CREATE FUNCTION drop_vector_table(space uuid)
RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
  tab text := 'vec_' || replace(space::text, '-', '');
BEGIN
  EXECUTE format('DROP VIEW IF EXISTS live.%I', tab);
  EXECUTE format('DROP TABLE IF EXISTS public.%I', tab);
END $$;
CREATE FUNCTION forget_vector_table() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
  PERFORM drop_vector_table(OLD.id);
  RETURN NULL;
END $$;
CREATE TRIGGER forget AFTER DELETE ON embedding_spaces
  FOR EACH ROW EXECUTE FUNCTION forget_vector_table();
CREATE TRIGGER drop_table AFTER UPDATE OF status ON embedding_spaces
  FOR EACH ROW WHEN (NEW.status = 'dropped') EXECUTE FUNCTION forget_vector_table();

REVOKE ALL ON FUNCTION create_vector_table(uuid, int, text) FROM PUBLIC;
REVOKE ALL ON FUNCTION build_vector_indexes(uuid, text, text, int, int) FROM PUBLIC;
REVOKE ALL ON FUNCTION drop_vector_table(uuid) FROM PUBLIC;
REVOKE ALL ON FUNCTION forget_vector_table() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION create_vector_table(uuid, int, text) TO agentcy_system;
GRANT EXECUTE ON FUNCTION build_vector_indexes(uuid, text, text, int, int) TO agentcy_system;
