-- Logins by OIDC. A person of an issuer is found by (issuer, subject) before their organisation is
-- known, and has no password of ours; a person with a password has no issuer.

CREATE INDEX users_of_issuer ON users (issuer, external_id) WHERE issuer IS NOT NULL;
ALTER TABLE users ADD CONSTRAINT users_provider CHECK (
  CASE auth_provider
    WHEN 'local' THEN issuer IS NULL
    WHEN 'oidc' THEN issuer IS NOT NULL AND external_id IS NOT NULL AND password_hash IS NULL
    ELSE false
  END
);

-- The mark of a password that must be changed is acted on from now on. Whoever has carried it
-- without consequence is not locked out by an upgrade: new first owners and new resets carry it.
SET LOCAL ROLE agentcy_system;
UPDATE users SET must_change_password = false WHERE must_change_password;
RESET ROLE;
