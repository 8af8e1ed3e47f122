-- The audit log by month, and the one way to shorten it: from its oldest end, by whole days, with an
-- anchor that holds the last removed hash, so that the rest of the chain still verifies.

ALTER TABLE audit_log RENAME TO audit_log_before;
DROP INDEX audit_log_id, audit_log_ts, audit_log_action;
ALTER TABLE audit_log_before DROP CONSTRAINT audit_log_pkey;

-- A key of a partitioned table holds what it is partitioned by. That seq is unique in its
-- organisation is the work of the chain's head, which changes in the same statement.
CREATE TABLE audit_log (LIKE audit_log_before INCLUDING DEFAULTS, PRIMARY KEY (org_id, seq, ts))
  PARTITION BY RANGE (ts);
CREATE UNIQUE INDEX audit_log_id ON audit_log (id, ts);
CREATE INDEX audit_log_ts ON audit_log (org_id, ts);
CREATE INDEX audit_log_action ON audit_log (org_id, action, ts);
CALL make_tenant_table('audit_log', 'SELECT, INSERT');

-- Entries of months that have no partition. No role may reach a partition past the table's policies.
CREATE TABLE audit_log_rest PARTITION OF audit_log DEFAULT;
ALTER TABLE audit_log_rest ENABLE ROW LEVEL SECURITY;

CREATE TABLE audit_anchors (
  org_id uuid NOT NULL,
  upto_seq bigint NOT NULL,
  hash bytea NOT NULL,
  removed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (org_id, upto_seq)
);
CALL make_tenant_table('audit_anchors', 'SELECT');
GRANT INSERT ON audit_anchors TO agentcy_system;

-- The owner of the tables is bound by policies too; it passes this one only inside prune_audit.
CREATE POLICY retention ON audit_log TO CURRENT_USER
  USING (org_id = nullif(current_setting('app.audit_prune', true), '')::uuid);
CREATE POLICY retention ON audit_anchors TO CURRENT_USER
  USING (org_id = nullif(current_setting('app.audit_prune', true), '')::uuid);

-- Makes the partition of a month, unless there is one, or entries of the month lie elsewhere already.
CREATE FUNCTION make_audit_month(day date)
RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
  first timestamptz := date_trunc('month', day::timestamp) AT TIME ZONE 'UTC';
  after timestamptz := (date_trunc('month', day::timestamp) + interval '1 month') AT TIME ZONE 'UTC';
  tab text := 'audit_log_' || to_char(day, 'YYYY_MM');
BEGIN
  PERFORM pg_advisory_xact_lock(hashtext('make_audit_month'));
  IF to_regclass(tab) IS NOT NULL THEN
    RETURN false;
  END IF;
  EXECUTE format('CREATE TABLE %I (LIKE audit_log INCLUDING DEFAULTS)', tab);
  EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', tab);
  EXECUTE format('REVOKE ALL ON %I FROM PUBLIC', tab);
  EXECUTE format('ALTER TABLE audit_log ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
                 tab, first, after);
  RETURN true;
EXCEPTION WHEN check_violation THEN  -- the month's entries lie in audit_log_rest: they may stay
  RETURN false;
END $$;

-- Drops the partitions of months that are over and empty; gives how many.
CREATE FUNCTION drop_audit_months()
RETURNS int LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp
SET lock_timeout = '2s' AS $$
DECLARE
  part record;
  used boolean;
  dropped int := 0;
BEGIN
  FOR part IN
    SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent = 'audit_log'::regclass AND c.relname ~ '^audit_log_\d{4}_\d{2}$'
      AND c.relname < 'audit_log_' || to_char(now() AT TIME ZONE 'UTC', 'YYYY_MM')
  LOOP
    EXECUTE format('SELECT EXISTS (SELECT 1 FROM %I)', part.relname) INTO used;
    CONTINUE WHEN used;
    BEGIN
      LOCK TABLE audit_log IN ACCESS EXCLUSIVE MODE;  -- nobody adds to it between look and drop
      EXECUTE format('SELECT EXISTS (SELECT 1 FROM %I)', part.relname) INTO used;
      IF NOT used THEN
        EXECUTE format('DROP TABLE %I', part.relname);
        dropped := dropped + 1;
      END IF;
    EXCEPTION WHEN lock_not_available THEN
      RETURN dropped;  -- the log is busy; tomorrow then
    END;
  END LOOP;
  RETURN dropped;
END $$;

-- Removes the oldest entries of an organisation, up to the first that is not older than ``before``,
-- and keeps the hash of the last one removed. At most ``at_most`` a call; gives how many it removed
-- and the anchor. What is younger than a whole day is never removed, whatever is asked for.
CREATE FUNCTION prune_audit(org uuid, before timestamptz, at_most int)
RETURNS TABLE (removed bigint, upto bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
  today timestamptz := date_trunc('day', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC';
  cut bigint;
BEGIN
  PERFORM pg_advisory_xact_lock(hashtext('prune_audit'), hashtext(org::text));
  PERFORM set_config('app.audit_prune', org::text, true);
  before := least(before, today - interval '1 day');
  SELECT coalesce(min(e.seq) FILTER (WHERE e.ts >= before) - 1, max(e.seq)) INTO cut
  FROM (SELECT seq, ts FROM audit_log WHERE org_id = org ORDER BY seq LIMIT at_most) e;
  INSERT INTO audit_anchors (org_id, upto_seq, hash)
    SELECT org_id, seq, hash FROM audit_log WHERE org_id = org AND seq = cut;
  IF FOUND THEN
    DELETE FROM audit_log WHERE org_id = org AND seq <= cut;
    GET DIAGNOSTICS removed = ROW_COUNT;
    upto := cut;
    RETURN NEXT;
  END IF;
  PERFORM set_config('app.audit_prune', '', true);
END $$;

REVOKE ALL ON FUNCTION make_audit_month(date), drop_audit_months(),
  prune_audit(uuid, timestamptz, int) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION make_audit_month(date), drop_audit_months(),
  prune_audit(uuid, timestamptz, int) TO agentcy_system;

-- What was written so far, in months of its own.
ALTER TABLE audit_log_before NO FORCE ROW LEVEL SECURITY;
DO $$
DECLARE
  month date;
BEGIN
  FOR month IN
    SELECT DISTINCT date_trunc('month', ts AT TIME ZONE 'UTC')::date FROM audit_log_before
    UNION SELECT (date_trunc('month', now() AT TIME ZONE 'UTC') + n * interval '1 month')::date
          FROM generate_series(0, 2) n
    ORDER BY 1
  LOOP
    PERFORM make_audit_month(month);
  END LOOP;
END $$;
ALTER TABLE audit_log NO FORCE ROW LEVEL SECURITY;
INSERT INTO audit_log SELECT * FROM audit_log_before;
ALTER TABLE audit_log FORCE ROW LEVEL SECURITY;
DROP TABLE audit_log_before;
