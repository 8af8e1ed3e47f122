-- Budgets: limits of an organisation, its users, agents and runs; what is reserved and spent of them.
--
-- Amounts are whole numbers, so that no fraction is lost: 1e-9 USD, tokens, milliseconds of a GPU.

CREATE TABLE budget_limits (
  id uuid PRIMARY KEY,
  org_id uuid NOT NULL REFERENCES organizations (id) ON DELETE CASCADE,
  scope text NOT NULL CHECK (scope IN ('org', 'user', 'agent', 'run')),
  subject text NOT NULL, -- '*' = each one, and the organisation itself; else usr_… or an agent's name
  unit text NOT NULL CHECK (unit IN ('usd', 'tokens', 'gpu_seconds')),
  hard bigint NOT NULL CHECK (hard >= 0), -- of a day; of a whole run where the scope is 'run'
  soft_share double precision CHECK (soft_share > 0 AND soft_share <= 1), -- NULL = nobody is asked
  updated_by uuid,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  UNIQUE (org_id, scope, subject, unit)
);
CALL make_tenant_table('budget_limits');

-- What a limit is measured against. Its row lock is what makes a hard limit exact.
CREATE TABLE budget_balances (
  org_id uuid NOT NULL REFERENCES organizations (id) ON DELETE CASCADE,
  scope text NOT NULL,
  subject text NOT NULL, -- '*' for the organisation, usr_…, an agent's name, run_…
  unit text NOT NULL,
  period text NOT NULL, -- the organisation's day, or 'run'
  spent bigint NOT NULL DEFAULT 0,
  reserved bigint NOT NULL DEFAULT 0 CHECK (reserved >= 0),
  raised boolean NOT NULL DEFAULT false, -- a person let it go on to the hard limit
  asks int NOT NULL DEFAULT 0, -- times that a person was asked and did not
  seeded_at timestamptz, -- what was spent before the limit existed is in `spent`
  PRIMARY KEY (org_id, scope, subject, unit, period)
);
CALL make_tenant_table('budget_balances');

-- Open reservations only: whoever deletes the row is the one who settles or releases it.
CREATE TABLE budget_reservations (
  id uuid PRIMARY KEY,
  org_id uuid NOT NULL REFERENCES organizations (id) ON DELETE CASCADE,
  user_id uuid,
  agent text NOT NULL DEFAULT '',
  run_id uuid,
  epoch bigint NOT NULL DEFAULT 0, -- of the run's owner
  turn int NOT NULL DEFAULT 0,
  model text NOT NULL DEFAULT '',
  holds jsonb NOT NULL, -- [scope, subject, unit, period, amount] of each balance
  expires_at timestamptz NOT NULL,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX budget_reservations_run ON budget_reservations (run_id);
CREATE INDEX budget_reservations_expiry ON budget_reservations (expires_at);
CALL make_tenant_table('budget_reservations');

-- Append only: every reservation, and how it was closed.
CREATE TABLE budget_entries (
  id uuid PRIMARY KEY,
  org_id uuid NOT NULL REFERENCES organizations (id) ON DELETE CASCADE,
  reservation_id uuid NOT NULL,
  kind text NOT NULL, -- reserved; settled, released, expired; late = settled after it was released
  user_id uuid,
  agent text NOT NULL DEFAULT '',
  run_id uuid,
  turn int NOT NULL DEFAULT 0,
  model text NOT NULL DEFAULT '',
  usd bigint NOT NULL DEFAULT 0,
  tokens bigint NOT NULL DEFAULT 0,
  gpu_seconds bigint NOT NULL DEFAULT 0,
  holds jsonb NOT NULL,
  at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE UNIQUE INDEX budget_entries_once ON budget_entries (reservation_id, (kind IN ('settled', 'late')))
  WHERE kind <> 'reserved';
CREATE INDEX budget_entries_reservation ON budget_entries (reservation_id);
CREATE INDEX budget_entries_turn ON budget_entries (run_id, turn) WHERE kind IN ('settled', 'late');
CREATE INDEX budget_entries_at ON budget_entries (org_id, at);
CALL make_tenant_table('budget_entries', 'SELECT, INSERT');

ALTER TABLE usage_ledger ADD COLUMN gpu_seconds double precision NOT NULL DEFAULT 0;

-- The day of an organisation now; in UTC unless its settings name another time zone.
CREATE FUNCTION budget_day(org uuid) RETURNS date LANGUAGE sql VOLATILE
  AS $$ SELECT (clock_timestamp() AT TIME ZONE coalesce(
          (SELECT settings->>'timezone' FROM organizations WHERE id = org), 'UTC'))::date $$;

-- Locks balances in one order for all callers, makes those that are missing, and says what limits them.
-- A period that is NULL is today's. `ids` are users' and runs' ids beside their texts.
--
-- A limit that was set in this very day, or on a run that is under way, counts what was used before
-- it; what a turn uses that is under way just then is not counted.
CREATE FUNCTION budget_lock(
  org uuid, scopes text[], subjects text[], ids uuid[], units text[], periods text[])
RETURNS TABLE (place bigint, period text, spent bigint, reserved bigint, raised boolean, asks int,
               hard bigint, soft_share double precision)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
  today date := budget_day(org);
BEGIN
  INSERT INTO budget_balances (org_id, scope, subject, unit, period)
  SELECT DISTINCT org, w.scope, w.subject, w.unit, coalesce(w.period, today::text)
  FROM unnest(scopes, subjects, units, periods) AS w(scope, subject, unit, period)
  WHERE NOT EXISTS (
    SELECT 1 FROM budget_balances b
    WHERE b.org_id = org AND b.scope = w.scope AND b.subject = w.subject AND b.unit = w.unit
      AND b.period = coalesce(w.period, today::text))
  ORDER BY 2, 3, 4, 5
  ON CONFLICT DO NOTHING;
  PERFORM 1 FROM budget_balances b
  WHERE b.org_id = org AND (b.scope, b.subject, b.unit, b.period) IN (
    SELECT w.scope, w.subject, w.unit, coalesce(w.period, today::text)
    FROM unnest(scopes, subjects, units, periods) AS w(scope, subject, unit, period))
  ORDER BY b.scope, b.subject, b.unit, b.period FOR UPDATE;

  IF EXISTS (
    SELECT 1 FROM unnest(scopes, subjects, units, periods) AS w(scope, subject, unit, period)
    JOIN budget_balances b ON b.org_id = org AND b.scope = w.scope AND b.subject = w.subject
      AND b.unit = w.unit AND b.period = coalesce(w.period, today::text)
    JOIN budget_limits l ON l.org_id = org AND l.scope = b.scope AND l.unit = b.unit
      AND l.subject IN (b.subject, '*')
    WHERE w.period IS NULL OR w.period = 'run'
    HAVING bool_or(b.seeded_at IS NULL OR b.seeded_at < l.created_at))
  THEN
    UPDATE budget_balances b
    SET seeded_at = clock_timestamp(), spent = greatest(b.spent, CASE
      WHEN b.scope = 'run' OR s.since >= today THEN budget_used(org, b.scope, b.subject, s.id, b.unit, today)
      ELSE 0 END)
    FROM (
      SELECT DISTINCT ON (w.scope, w.subject, w.unit) w.scope, w.subject, w.unit, w.id,
        coalesce(w.period, today::text) AS period,
        (l.created_at AT TIME ZONE coalesce(o.settings->>'timezone', 'UTC'))::date AS since,
        l.created_at
      FROM unnest(scopes, subjects, ids, units, periods) AS w(scope, subject, id, unit, period)
      JOIN organizations o ON o.id = org
      JOIN budget_limits l ON l.org_id = org AND l.scope = w.scope AND l.unit = w.unit
        AND l.subject IN (w.subject, '*')
      WHERE w.period IS NULL OR w.period = 'run'
      ORDER BY w.scope, w.subject, w.unit, l.subject = '*') s
    WHERE b.org_id = org AND b.scope = s.scope AND b.subject = s.subject AND b.unit = s.unit
      AND b.period = s.period AND (b.seeded_at IS NULL OR b.seeded_at < s.created_at);
  END IF;

  RETURN QUERY
  SELECT w.place, b.period, b.spent, b.reserved, b.raised, b.asks, l.hard, l.soft_share
  FROM unnest(scopes, subjects, units, periods)
    WITH ORDINALITY AS w(scope, subject, unit, period, place)
  JOIN budget_balances b ON b.org_id = org AND b.scope = w.scope AND b.subject = w.subject
    AND b.unit = w.unit AND b.period = coalesce(w.period, today::text)
  LEFT JOIN LATERAL (
    SELECT x.hard, x.soft_share FROM budget_limits x
    WHERE x.org_id = org AND x.scope = b.scope AND x.unit = b.unit AND x.subject IN (b.subject, '*')
    ORDER BY x.subject = '*' LIMIT 1) l ON true;
END $$;

-- What was used of a unit: today, or in all of a run. Runs that have not ended are not in the usage
-- ledger yet; one that began on an earlier day is left out until it ends.
CREATE FUNCTION budget_used(
  of_org uuid, of_scope text, of_subject text, of_id uuid, of_unit text, today date)
RETURNS bigint LANGUAGE sql STABLE AS $$
  WITH used AS (
    SELECT u.cost_usd AS usd, (u.in_tokens + u.out_tokens)::float8 AS tokens,
      u.gpu_seconds * 1000 AS gpu
    FROM usage_ledger u
    WHERE of_scope <> 'run' AND u.org_id = of_org AND u.day = today
      AND (of_scope = 'org' OR (of_scope = 'user' AND u.user_id = of_id)
           OR (of_scope = 'agent' AND u.agent = of_subject))
    UNION ALL
    SELECT coalesce((r.usage->>'cost_usd')::float8, 0),
      coalesce((r.usage->>'in_tokens')::float8, 0) + coalesce((r.usage->>'out_tokens')::float8, 0), 0
    FROM runs r JOIN organizations o ON o.id = r.org_id
    WHERE r.org_id = of_org
      AND CASE WHEN of_scope = 'run' THEN r.id = of_id ELSE
        r.status IN ('running', 'waiting_approval')
        AND (r.created_at AT TIME ZONE coalesce(o.settings->>'timezone', 'UTC'))::date = today
        AND (of_scope = 'org' OR (of_scope = 'user' AND r.principal->>'user_id' = of_subject)
             OR (of_scope = 'agent' AND r.agent = of_subject)) END
  )
  SELECT coalesce(round(sum(CASE of_unit WHEN 'usd' THEN usd * 1e9 WHEN 'tokens' THEN tokens
    ELSE gpu END)), 0)::bigint FROM used
$$;
