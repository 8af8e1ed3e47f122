-- API keys and invites. Of both only a SHA-256 is kept: the text is shown once.

CREATE TABLE api_keys (
  id uuid PRIMARY KEY,
  org_id uuid NOT NULL,
  user_id uuid NOT NULL, -- the owner, whose rights of the moment bound the key's
  name text NOT NULL,
  key_hash bytea NOT NULL UNIQUE CHECK (octet_length(key_hash) = 32),
  permissions text[] NOT NULL,
  realms text[], -- NULL = those of the owner
  rpm int CHECK (rpm > 0), -- requests a minute; NULL = as many as the owner's
  active boolean NOT NULL DEFAULT true, -- false once its owner was deactivated; it stays so
  expires_at timestamptz,
  last_used_at timestamptz, -- to the minute
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  UNIQUE (org_id, id),
  FOREIGN KEY (org_id, user_id) REFERENCES users (org_id, id) ON DELETE CASCADE
);
CREATE INDEX api_keys_user ON api_keys (org_id, user_id);
CALL make_tenant_table('api_keys');

-- An invite ends with whoever sent it: it hands on what they hold.
CREATE TABLE invites (
  id uuid PRIMARY KEY,
  org_id uuid NOT NULL,
  email text NOT NULL,
  role text NOT NULL CHECK (role IN ('owner', 'admin', 'member', 'viewer')),
  realms text[], -- those of the inviter; NULL = all
  token_hash bytea NOT NULL UNIQUE CHECK (octet_length(token_hash) = 32),
  invited_by uuid NOT NULL,
  expires_at timestamptz NOT NULL,
  accepted_at timestamptz,
  accepted_by uuid,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  UNIQUE (org_id, id),
  FOREIGN KEY (org_id, invited_by) REFERENCES users (org_id, id) ON DELETE CASCADE
);
CREATE INDEX invites_inviter ON invites (org_id, invited_by);
CALL make_tenant_table('invites');

-- A deleted organisation leaves its audit log and nothing else; the ledger goes too.
GRANT DELETE ON budget_entries TO agentcy_system;
