-- What the roles may do, drawn tighter: nobody but the owner creates anything, neither role of work
-- owns anything, and definer functions take no text that they have not looked at.

REVOKE CREATE ON SCHEMA public FROM PUBLIC, agentcy_app, agentcy_system;

-- Live views and their schema belong to the owner of the partitions that they read, as everything else
-- does. So the login role needs no rights of agentcy_system to make or to grant one.
ALTER SCHEMA live OWNER TO CURRENT_USER;
GRANT USAGE ON SCHEMA live TO agentcy_app, agentcy_system;
CREATE OR REPLACE PROCEDURE fence_vector_rows(tab text, org uuid) LANGUAGE plpgsql AS $$
BEGIN
  EXECUTE format('ALTER TABLE vectors.%I ADD CONSTRAINT owner CHECK (org_id = %L::uuid)', tab, org);
  EXECUTE format('CREATE TRIGGER fence BEFORE INSERT ON vectors.%I'
                 ' FOR EACH STATEMENT EXECUTE FUNCTION public.fence_vectors(%L)', tab, org);
  EXECUTE format('REVOKE ALL ON vectors.%I FROM PUBLIC, agentcy_app, agentcy_system', tab);
  EXECUTE format('GRANT INSERT ON vectors.%I TO agentcy_app', tab);
  EXECUTE format('GRANT SELECT ON vectors.%I TO agentcy_system', tab);
  EXECUTE format('CREATE VIEW live.%1$I AS SELECT * FROM vectors.%1$I'
                 ' WHERE org_id = public.app_org() AND archived_at IS NULL', tab);
  EXECUTE format('GRANT SELECT ON live.%I TO agentcy_app', tab);
END $$;
DO $$
DECLARE
  tab text;
BEGIN
  FOR tab IN SELECT relname FROM pg_class
             WHERE relnamespace = 'live'::regnamespace AND relkind = 'v' LOOP
    EXECUTE format('DROP VIEW live.%I', tab);
    EXECUTE format('CREATE VIEW live.%1$I AS SELECT * FROM vectors.%1$I'
                   ' WHERE org_id = public.app_org() AND archived_at IS NULL', tab);
    EXECUTE format('GRANT SELECT ON live.%I TO agentcy_app', tab);
  END LOOP;
END $$;
REVOKE CREATE ON SCHEMA live, vectors FROM PUBLIC, agentcy_app, agentcy_system;

CREATE OR REPLACE FUNCTION build_vector_indexes(space uuid, storage text, distance text, m int, ef int)
RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
  one record;
BEGIN
  IF storage NOT IN ('vector', 'halfvec', 'none') OR distance NOT IN ('cosine', 'l2', 'ip') THEN
    RAISE EXCEPTION 'storage % or distance % is none that is known', storage, distance;
  END IF;
  FOR one IN SELECT i.* FROM vector_indexes(space, storage, distance, m, ef) i LOOP
    IF to_regclass(format('vectors.%I', one.name)) IS NULL THEN
      EXECUTE format('CREATE INDEX %I %s', one.name, one.definition);
    END IF;
  END LOOP;
END $$;

-- The policies of the owner follow it where the tables changed hands.
ALTER POLICY retention ON audit_log TO CURRENT_USER;
ALTER POLICY retention ON audit_anchors TO CURRENT_USER;

-- make_tenant_table is for the owner; nobody else can, and nobody else need see it answer.
REVOKE ALL ON PROCEDURE make_tenant_table(regclass, text) FROM PUBLIC;
