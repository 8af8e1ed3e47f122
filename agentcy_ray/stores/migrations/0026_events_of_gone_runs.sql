-- Events of runs that go with their conversation. Since PostgreSQL 18 a trigger runs as whoever queued
-- it, and a cascade is queued by the owner of the tables: bound by policies like everybody, it saw no
-- event and left them all. It passes this policy only inside the trigger, for the runs that are gone.
CREATE POLICY retention ON run_events TO CURRENT_USER
  USING (org_id = nullif(current_setting('app.run_gone', true), '')::uuid);

CREATE OR REPLACE FUNCTION remove_run_events() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  org uuid;
BEGIN
  FOR org IN SELECT DISTINCT g.org_id FROM gone g LOOP
    PERFORM set_config('app.run_gone', org::text, true);
    DELETE FROM run_events e USING gone g
    WHERE e.org_id = org AND g.org_id = org AND e.run_id = g.id;
  END LOOP;
  PERFORM set_config('app.run_gone', '', true);
  RETURN NULL;
END $$;
