-- GPU seconds beside tokens and cost; and the index of a space that is being filled, by the definition
-- that the later build of all indexes goes by, wherever the rows of a space lie.

ALTER TABLE embed_backfills ADD COLUMN gpu_secs double precision NOT NULL DEFAULT 0;

CREATE OR REPLACE FUNCTION index_vector_nodes(space uuid)
RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
  one record;
BEGIN
  FOR one IN SELECT i.* FROM vector_indexes(space, 'vector', 'cosine', 16, 64) i
             WHERE i.name LIKE '%\_node\_id\_idx' LOOP
    EXECUTE format('CREATE INDEX IF NOT EXISTS %I %s', one.name, one.definition);
  END LOOP;
END $$;
