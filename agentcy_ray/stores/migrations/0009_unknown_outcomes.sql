-- Calls with an unknown outcome, which a tool with a probe is asked about again for a while.

CREATE INDEX tool_calls_unknown ON tool_calls (updated_at) WHERE status = 'indeterminate';
