-- Organisations, people, login sessions, realms, and the rule that makes a table a tenant's.
--
-- Row-level security is the wall between tenants. Requests run as agentcy_app, which sees the rows of
-- current_setting('app.org_id') only; the setting is transaction-local, and reading it unset is an
-- error, so a forgotten tenant fails and does not read as empty. agentcy_system (log-in look-up,
-- scheduler, job claims, retention) sees all rows through a policy of its own.

CREATE FUNCTION app_org() RETURNS uuid LANGUAGE sql STABLE PARALLEL SAFE
  AS $$ SELECT current_setting('app.org_id')::uuid $$;

CREATE FUNCTION touch_updated_at() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  NEW.updated_at := clock_timestamp();
  RETURN NEW;
END $$;

-- Turns a table with org_id into a tenant table. verbs: what agentcy_app may do with its own rows.
CREATE PROCEDURE make_tenant_table(name regclass, verbs text DEFAULT 'SELECT, INSERT, UPDATE, DELETE')
LANGUAGE plpgsql AS $$
BEGIN
  EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', name);
  EXECUTE format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', name);
  EXECUTE format('CREATE POLICY tenant ON %s TO agentcy_app USING (org_id = app_org())'
                 ' WITH CHECK (org_id = app_org())', name);
  EXECUTE format('CREATE POLICY system ON %s TO agentcy_system USING (true) WITH CHECK (true)', name);
  EXECUTE format('REVOKE ALL ON %s FROM PUBLIC', name);
  EXECUTE format('GRANT %s ON %s TO agentcy_app, agentcy_system', verbs, name);
  IF EXISTS (SELECT 1 FROM pg_attribute
             WHERE attrelid = name AND attname = 'updated_at' AND NOT attisdropped) THEN
    EXECUTE format('CREATE TRIGGER touch BEFORE UPDATE ON %s'
                   ' FOR EACH ROW EXECUTE FUNCTION touch_updated_at()', name);
  END IF;
END $$;

CREATE TABLE organizations (
  id uuid PRIMARY KEY,
  name text NOT NULL UNIQUE CHECK (name ~ '^[a-z0-9][a-z0-9-]{0,62}$'),
  display_name text NOT NULL,
  settings jsonb NOT NULL DEFAULT '{}',
  context_engine text NOT NULL DEFAULT 'basic' CHECK (context_engine IN ('basic', 'advanced')),
  audit_head_seq bigint NOT NULL DEFAULT 0,
  audit_head_hash bytea NOT NULL DEFAULT '\x0000000000000000000000000000000000000000000000000000000000000000',
  deleted_at timestamptz,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  updated_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
ALTER TABLE organizations ENABLE ROW LEVEL SECURITY;
ALTER TABLE organizations FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON organizations TO agentcy_app USING (id = app_org()) WITH CHECK (id = app_org());
CREATE POLICY system ON organizations TO agentcy_system USING (true) WITH CHECK (true);
REVOKE ALL ON organizations FROM PUBLIC;
GRANT SELECT, UPDATE ON organizations TO agentcy_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON organizations TO agentcy_system;
CREATE TRIGGER touch BEFORE UPDATE ON organizations FOR EACH ROW EXECUTE FUNCTION touch_updated_at();

CREATE TABLE users (
  id uuid PRIMARY KEY,
  org_id uuid NOT NULL REFERENCES organizations (id) ON DELETE CASCADE,
  external_id text,
  issuer text,
  email text NOT NULL,
  name text NOT NULL DEFAULT '',
  roles text[] NOT NULL,
  permissions text[] NOT NULL DEFAULT '{}',
  realms text[],
  password_hash text,
  auth_provider text NOT NULL DEFAULT 'local',
  must_change_password boolean NOT NULL DEFAULT false,
  active boolean NOT NULL DEFAULT true,
  last_login_at timestamptz,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  UNIQUE (org_id, id)
);
CREATE UNIQUE INDEX users_email ON users (org_id, lower(email));
CREATE UNIQUE INDEX users_external ON users (org_id, issuer, external_id);
CALL make_tenant_table('users');

CREATE TABLE login_sessions (
  id uuid PRIMARY KEY,
  org_id uuid NOT NULL,
  user_id uuid NOT NULL,
  family_id uuid NOT NULL,
  refresh_hash bytea NOT NULL UNIQUE,
  used_at timestamptz,
  expires_at timestamptz NOT NULL,
  revoked_at timestamptz,
  ip text,
  user_agent text,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  FOREIGN KEY (org_id, user_id) REFERENCES users (org_id, id) ON DELETE CASCADE
);
CREATE INDEX login_sessions_family ON login_sessions (family_id);
CALL make_tenant_table('login_sessions');

CREATE TABLE realms (
  org_id uuid NOT NULL REFERENCES organizations (id) ON DELETE CASCADE,
  name text NOT NULL CHECK (name ~ '^[a-z][a-z0-9_-]{0,47}$'),
  description text NOT NULL DEFAULT '',
  built_in boolean NOT NULL DEFAULT false,
  link_rules jsonb NOT NULL DEFAULT '[]',
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (org_id, name)
);
CALL make_tenant_table('realms');

CREATE TABLE idempotency_keys (
  org_id uuid NOT NULL REFERENCES organizations (id) ON DELETE CASCADE,
  route text NOT NULL,
  key text NOT NULL,
  body_sha256 bytea NOT NULL,
  status int,
  answer jsonb,
  expires_at timestamptz NOT NULL,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (org_id, route, key)
);
CALL make_tenant_table('idempotency_keys');

CREATE TABLE artifacts (
  id uuid PRIMARY KEY,
  org_id uuid NOT NULL REFERENCES organizations (id) ON DELETE CASCADE,
  name text NOT NULL,
  media_type text NOT NULL,
  kind text NOT NULL,
  bytes bigint NOT NULL,
  sha256 text NOT NULL,
  run_id uuid,
  created_by uuid,
  expires_at timestamptz,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  UNIQUE (org_id, id)
);
CALL make_tenant_table('artifacts');
