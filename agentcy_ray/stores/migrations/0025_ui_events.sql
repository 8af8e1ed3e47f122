-- What people did in the console, listed for each of them. Upkeep deletes what is older than it is kept.

CREATE TABLE ui_events (
  id uuid PRIMARY KEY,
  org_id uuid NOT NULL,
  user_id uuid NOT NULL,
  name text NOT NULL,
  target text NOT NULL DEFAULT '',
  at timestamptz NOT NULL, -- when, by the clock of the browser, within an hour of ours
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  UNIQUE (org_id, id),
  FOREIGN KEY (org_id, user_id) REFERENCES users (org_id, id) ON DELETE CASCADE
);
CREATE INDEX ui_events_user ON ui_events (org_id, user_id, id DESC);
CREATE INDEX ui_events_created ON ui_events (created_at);
CALL make_tenant_table('ui_events', 'SELECT, INSERT, DELETE');
