-- Approvals by several people, and by another one than the requester.

ALTER TABLE approvals
  ADD COLUMN quorum int NOT NULL DEFAULT 1 CHECK (quorum BETWEEN 1 AND 10),
  ADD COLUMN given int NOT NULL DEFAULT 0,
  ADD COLUMN second_person boolean NOT NULL DEFAULT false,
  -- An end that nobody voted for, expiry or cancellation: when, and its audit entry.
  ADD COLUMN ended_at timestamptz,
  ADD COLUMN audit_id uuid;
CREATE INDEX approvals_ended ON approvals (ended_at) WHERE ended_at IS NOT NULL;

-- One row for each decider; the vote that completes the quorum, or the first refusal, decides.
CREATE TABLE approval_votes (
  id uuid PRIMARY KEY,
  org_id uuid NOT NULL,
  approval_id uuid NOT NULL,
  user_id uuid NOT NULL,
  api_key_id uuid,
  approved boolean NOT NULL,
  via text NOT NULL,
  note text,
  request_id text,
  audit_id uuid NOT NULL,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  UNIQUE (approval_id, user_id),
  FOREIGN KEY (org_id, approval_id) REFERENCES approvals (org_id, id) ON DELETE CASCADE
);
CREATE INDEX approval_votes_created ON approval_votes (created_at);
CALL make_tenant_table('approval_votes', 'SELECT, INSERT');

-- Arguments that hold a secret, encrypted: what another process needs to take the call up.
ALTER TABLE tool_calls ADD COLUMN args_sealed bytea;
