-- Sealed secrets name the key that wrapped theirs, of whatever source: the install's own or a key
-- service, whose ids and wrapped keys have no fixed length. One value holds a packed secret:
--   2 (version) | length of the key id (2 bytes), key id | length of the wrapped key (2 bytes), wrapped
--   key | nonce (12 bytes) | ciphertext

-- Text of any bytes, and null of what is no packed secret: one damaged row stops nobody who counts.
CREATE FUNCTION sealed_key_id(packed bytea) RETURNS text LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
  AS $$
SELECT CASE WHEN length(packed) > 3 AND get_byte(packed, 0) = 2
  THEN encode(substr(packed, 4, get_byte(packed, 1) * 256 + get_byte(packed, 2)), 'escape') END
$$;

-- What was packed before: a key id of 12 bytes and a wrapped key of 60, without lengths.
SET LOCAL ROLE agentcy_system;
UPDATE pipeline_tokens
SET secret_sealed = '\x02000c'::bytea || substr(secret_sealed, 1, 12) || '\x003c'::bytea
  || substr(secret_sealed, 13)
WHERE secret_sealed IS NOT NULL;
UPDATE tool_calls
SET args_sealed = '\x02000c'::bytea || substr(args_sealed, 1, 12) || '\x003c'::bytea
  || substr(args_sealed, 13)
WHERE args_sealed IS NOT NULL;
RESET ROLE;

-- Few calls hold secrets and wait; those who re-wrap their keys need not look at all the others.
CREATE INDEX tool_calls_sealed ON tool_calls (org_id, id) WHERE args_sealed IS NOT NULL;
