-- Failures are counted by account and address together, and forgotten by account. Those counted so far by account
-- alone are not comparable.
DELETE FROM auth.login_attempts;
ALTER TABLE auth.login_attempts ADD COLUMN account bytea;
CREATE INDEX ON auth.login_attempts (account);

-- Addresses from which an account has logged in. `subject` is an HMAC of both.
CREATE TABLE auth.known_addresses (
    subject bytea PRIMARY KEY,
    user_id uuid NOT NULL REFERENCES auth.users ON DELETE CASCADE,
    last_login_at timestamptz NOT NULL
);
CREATE INDEX ON auth.known_addresses (user_id);
CREATE INDEX ON auth.known_addresses (last_login_at);
GRANT SELECT, INSERT, UPDATE, DELETE ON auth.known_addresses TO esp_auth;
