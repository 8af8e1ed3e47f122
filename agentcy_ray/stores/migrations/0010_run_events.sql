-- No table is written more often than this one: two events a tool call. The statement that writes them
-- holds their run's row, so the run is there, and a look-up for each event buys nothing; a trigger
-- removes the events of runs that are deleted. Events come in the order of time, so the hourly round
-- finds the old ones by a block-range index, which costs next to nothing to keep.
ALTER TABLE run_events DROP CONSTRAINT run_events_org_id_run_id_fkey;

CREATE FUNCTION remove_run_events() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  DELETE FROM run_events e USING gone g WHERE e.run_id = g.id;
  RETURN NULL;
END $$;
CREATE TRIGGER remove_events AFTER DELETE ON runs REFERENCING OLD TABLE AS gone
  FOR EACH STATEMENT EXECUTE FUNCTION remove_run_events();

DROP INDEX run_events_at;
CREATE INDEX run_events_at ON run_events USING brin (at);
