-- Agents, conversations, runs with their event log, tool calls, approvals, policies, audit.

CREATE TABLE agents (
  id uuid PRIMARY KEY,
  org_id uuid NOT NULL REFERENCES organizations (id) ON DELETE CASCADE,
  name text NOT NULL CHECK (name ~ '^[a-z][a-z0-9_-]{0,47}$'),
  description text NOT NULL DEFAULT '',
  instructions text NOT NULL DEFAULT '',
  model text,
  fallback_model text,
  realms text[],
  connectors text[],
  approval_defaults jsonb NOT NULL DEFAULT '{}',
  max_iterations int,
  temperature real,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  UNIQUE (org_id, id),
  UNIQUE (org_id, name)
);
CALL make_tenant_table('agents');

CREATE TABLE conversations (
  id uuid PRIMARY KEY,
  org_id uuid NOT NULL,
  user_id uuid NOT NULL,
  title text NOT NULL DEFAULT '',
  realm text,
  agent_id uuid,
  model text,
  archived boolean NOT NULL DEFAULT false,
  last_seq bigint NOT NULL DEFAULT 0,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  UNIQUE (org_id, id),
  FOREIGN KEY (org_id, user_id) REFERENCES users (org_id, id) ON DELETE CASCADE,
  FOREIGN KEY (org_id, agent_id) REFERENCES agents (org_id, id),
  FOREIGN KEY (org_id, realm) REFERENCES realms (org_id, name)
);
CREATE INDEX conversations_recent ON conversations (user_id, updated_at DESC);
CALL make_tenant_table('conversations');

CREATE TABLE conversation_reads (
  org_id uuid NOT NULL,
  conversation_id uuid NOT NULL,
  user_id uuid NOT NULL,
  last_read_seq bigint NOT NULL,
  PRIMARY KEY (conversation_id, user_id),
  FOREIGN KEY (org_id, conversation_id) REFERENCES conversations (org_id, id) ON DELETE CASCADE
);
CALL make_tenant_table('conversation_reads');

CREATE TABLE runs (
  id uuid PRIMARY KEY,
  org_id uuid NOT NULL REFERENCES organizations (id) ON DELETE CASCADE,
  kind text NOT NULL,
  conversation_id uuid,
  agent_id uuid,
  agent text NOT NULL,
  model text NOT NULL,
  principal jsonb NOT NULL,
  realm text,
  input jsonb NOT NULL,
  status text NOT NULL DEFAULT 'queued',
  finish_reason text,
  usage jsonb NOT NULL DEFAULT '{}',
  message_id uuid NOT NULL,
  parent_run_id uuid,
  on_disconnect text NOT NULL DEFAULT 'continue' CHECK (on_disconnect IN ('continue', 'cancel')),
  owner text,
  epoch bigint NOT NULL DEFAULT 0,
  lease_until timestamptz,
  cancel_requested boolean NOT NULL DEFAULT false,
  idempotency_key text,
  last_seq bigint NOT NULL DEFAULT 0,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  ended_at timestamptz,
  UNIQUE (org_id, id),
  FOREIGN KEY (org_id, conversation_id) REFERENCES conversations (org_id, id) ON DELETE CASCADE
);
CREATE UNIQUE INDEX runs_one_active ON runs (conversation_id)
  WHERE status IN ('queued', 'running', 'waiting_approval');
CREATE UNIQUE INDEX runs_idempotency ON runs (org_id, conversation_id, idempotency_key);
CREATE INDEX runs_open ON runs (lease_until)
  WHERE status IN ('queued', 'running', 'waiting_approval');
CREATE INDEX runs_recent ON runs (org_id, created_at DESC);
CALL make_tenant_table('runs');

CREATE TABLE run_events (
  org_id uuid NOT NULL,
  run_id uuid NOT NULL,
  seq bigint NOT NULL,
  type text NOT NULL,
  data jsonb NOT NULL,
  at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (run_id, seq),
  FOREIGN KEY (org_id, run_id) REFERENCES runs (org_id, id) ON DELETE CASCADE
);
CREATE INDEX run_events_at ON run_events (at);
CALL make_tenant_table('run_events');

-- Model turns of a run: what was asked and answered, so that a successor repeats no completed turn.
CREATE TABLE run_turns (
  org_id uuid NOT NULL,
  run_id uuid NOT NULL,
  turn int NOT NULL,
  messages jsonb NOT NULL,
  results jsonb NOT NULL DEFAULT '{}', -- index of a tool call → what came back, kept as it comes
  usage jsonb NOT NULL,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (run_id, turn),
  FOREIGN KEY (org_id, run_id) REFERENCES runs (org_id, id) ON DELETE CASCADE
);
CALL make_tenant_table('run_turns');

CREATE TABLE messages (
  id uuid PRIMARY KEY,
  org_id uuid NOT NULL,
  conversation_id uuid NOT NULL,
  seq bigint NOT NULL,
  role text NOT NULL CHECK (role IN ('user', 'assistant', 'system')),
  kind text NOT NULL DEFAULT 'message',
  content text NOT NULL,
  citations jsonb NOT NULL DEFAULT '[]',
  run_id uuid,
  usage jsonb,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  UNIQUE (conversation_id, seq),
  FOREIGN KEY (org_id, conversation_id) REFERENCES conversations (org_id, id) ON DELETE CASCADE
);
CALL make_tenant_table('messages');

CREATE TABLE tool_calls (
  id uuid PRIMARY KEY,
  org_id uuid NOT NULL REFERENCES organizations (id) ON DELETE CASCADE,
  run_id uuid,
  conversation_id uuid,
  position int NOT NULL,
  source_id uuid,
  connector text NOT NULL,
  tool text NOT NULL,
  args jsonb NOT NULL,
  args_sha256 text NOT NULL,
  effect text NOT NULL,
  status text NOT NULL DEFAULT 'routed',
  principal jsonb NOT NULL,
  context jsonb NOT NULL DEFAULT '{}',
  idempotency_key text UNIQUE,
  intent_at timestamptz,
  receipt jsonb,
  result jsonb,
  result_artifact_id uuid,
  usage_ms real,
  error jsonb,
  audit_id uuid,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  UNIQUE (org_id, id)
);
CREATE INDEX tool_calls_run ON tool_calls (run_id);
CREATE INDEX tool_calls_open ON tool_calls (status)
  WHERE status IN ('routed', 'waiting_approval', 'dispatched');
CALL make_tenant_table('tool_calls');

CREATE TABLE approvals (
  id uuid PRIMARY KEY,
  org_id uuid NOT NULL,
  run_id uuid,
  conversation_id uuid,
  tool_call_id uuid NOT NULL UNIQUE,
  connector text NOT NULL,
  source_id uuid,
  tool text NOT NULL,
  args jsonb NOT NULL,
  args_sha256 text NOT NULL,
  effect text NOT NULL,
  reasons text[] NOT NULL,
  by_policy boolean NOT NULL,
  status text NOT NULL DEFAULT 'pending',
  requested_by uuid NOT NULL,
  decided_by uuid,
  decided_via text,
  note text,
  expires_at timestamptz NOT NULL,
  decided_at timestamptz,
  consumed_at timestamptz,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  UNIQUE (org_id, id),
  FOREIGN KEY (org_id, tool_call_id) REFERENCES tool_calls (org_id, id) ON DELETE CASCADE
);
CREATE INDEX approvals_open ON approvals (org_id, status, expires_at);
CREATE INDEX approvals_run ON approvals (run_id);
CALL make_tenant_table('approvals');

CREATE TABLE access_requests (
  id uuid PRIMARY KEY,
  org_id uuid NOT NULL,
  user_id uuid NOT NULL,
  connector text NOT NULL,
  reason text NOT NULL,
  status text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'granted', 'refused')),
  decided_by uuid,
  note text,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  UNIQUE (org_id, id),
  FOREIGN KEY (org_id, user_id) REFERENCES users (org_id, id) ON DELETE CASCADE
);
CALL make_tenant_table('access_requests');

CREATE TABLE policies (
  id uuid PRIMARY KEY,
  org_id uuid NOT NULL REFERENCES organizations (id) ON DELETE CASCADE,
  name text NOT NULL,
  enabled boolean NOT NULL DEFAULT true,
  version int NOT NULL DEFAULT 1,
  starter boolean NOT NULL DEFAULT false,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  UNIQUE (org_id, id),
  UNIQUE (org_id, name)
);
CALL make_tenant_table('policies');

CREATE TABLE policy_versions (
  org_id uuid NOT NULL,
  policy_id uuid NOT NULL,
  version int NOT NULL,
  rego text NOT NULL,
  author uuid,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (policy_id, version),
  FOREIGN KEY (org_id, policy_id) REFERENCES policies (org_id, id) ON DELETE CASCADE
);
CALL make_tenant_table('policy_versions');

-- Append only: no application role may update or delete, and the chain head lies with the org.
CREATE TABLE audit_log (
  org_id uuid NOT NULL,
  seq bigint NOT NULL,
  id uuid NOT NULL,
  ts timestamptz NOT NULL,
  user_id uuid,
  api_key_id uuid,
  category text NOT NULL,
  action text NOT NULL,
  decision text NOT NULL,
  resource jsonb NOT NULL,
  policy_id text,
  rule text,
  reasons text[] NOT NULL DEFAULT '{}',
  input jsonb,
  context jsonb NOT NULL,
  prev_hash bytea NOT NULL,
  hash bytea NOT NULL,
  PRIMARY KEY (org_id, seq)
);
CREATE UNIQUE INDEX audit_log_id ON audit_log (id);
CREATE INDEX audit_log_ts ON audit_log (org_id, ts);
CREATE INDEX audit_log_action ON audit_log (org_id, action, ts);
CALL make_tenant_table('audit_log', 'SELECT, INSERT');

CREATE TABLE usage_ledger (
  id uuid PRIMARY KEY,
  org_id uuid NOT NULL REFERENCES organizations (id) ON DELETE CASCADE,
  day date NOT NULL,
  agent text NOT NULL,
  user_id uuid NOT NULL,
  model text NOT NULL,
  in_tokens bigint NOT NULL DEFAULT 0,
  out_tokens bigint NOT NULL DEFAULT 0,
  cost_usd double precision NOT NULL DEFAULT 0,
  tool_calls bigint NOT NULL DEFAULT 0,
  UNIQUE (org_id, day, agent, user_id, model)
);
CALL make_tenant_table('usage_ledger');
