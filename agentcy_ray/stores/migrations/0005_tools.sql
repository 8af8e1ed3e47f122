-- What a tool's text means, so that no process embeds again what another one has; and when a request
-- for access was decided.

-- Not a tenant table: a row says nothing but the vector of a text, and is found only by whoever has
-- the text. Requests may not read it.
CREATE TABLE tool_vectors (
  signature text NOT NULL,
  text_sha256 bytea NOT NULL,
  vector bytea NOT NULL,
  used_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (signature, text_sha256)
);
CREATE INDEX tool_vectors_used_idx ON tool_vectors (used_at);
REVOKE ALL ON tool_vectors FROM PUBLIC;
GRANT SELECT, INSERT, UPDATE, DELETE ON tool_vectors TO agentcy_system;

ALTER TABLE access_requests ADD COLUMN decided_at timestamptz;
CREATE INDEX access_requests_open_idx ON access_requests (org_id, status, id);
