-- Who there is, and by what they are known. No secret stands here in the clear: passwords are Argon2id,
-- tokens and API keys are HMACs, and what must be read again (signing keys, TOTP secrets) is AES-GCM.

CREATE SCHEMA IF NOT EXISTS auth;
REVOKE ALL ON SCHEMA auth FROM PUBLIC;
GRANT USAGE ON SCHEMA auth TO esp_auth;

CREATE TABLE auth.users (
    user_id uuid PRIMARY KEY,
    username text NOT NULL UNIQUE CHECK (username = lower(username)),
    roles text[] NOT NULL CHECK (roles <@ ARRAY['admin', 'engineer', 'operator', 'viewer', 'auditor']),
    disabled boolean NOT NULL DEFAULT false,
    password_hash text NOT NULL,
    must_change_password boolean NOT NULL DEFAULT false,
    password_changed_at timestamptz NOT NULL DEFAULT now(),
    totp_secret bytea,
    totp_confirmed_at timestamptz,
    totp_step bigint,
    created_at timestamptz NOT NULL DEFAULT now(),
    created_by text NOT NULL,
    last_login_at timestamptz,
    CHECK (totp_confirmed_at IS NULL OR totp_secret IS NOT NULL)
);
COMMENT ON COLUMN auth.users.totp_step IS 'The last 30-second step whose code was accepted: a code is good once.';

-- A session is what one login began: the family of its refresh tokens.
CREATE TABLE auth.sessions (
    session_id uuid PRIMARY KEY,
    user_id uuid NOT NULL REFERENCES auth.users ON DELETE CASCADE,
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    ended_at timestamptz,
    ended_by text
);
CREATE INDEX ON auth.sessions (user_id);
CREATE INDEX ON auth.sessions (expires_at);
COMMENT ON COLUMN auth.sessions.ended_by IS 'logout, revoked, reuse, password or disabled.';

CREATE TABLE auth.refresh_tokens (
    token_hash bytea PRIMARY KEY,
    session_id uuid NOT NULL REFERENCES auth.sessions ON DELETE CASCADE,
    issued_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    used_at timestamptz
);
CREATE INDEX ON auth.refresh_tokens (session_id);

-- What failed lately, by account and by address. `subject` is an HMAC: people type passwords where their
-- name belongs, and accounts that do not exist are counted like those that do.
CREATE TABLE auth.login_attempts (
    subject bytea PRIMARY KEY,
    failures int4 NOT NULL,
    last_at timestamptz NOT NULL
);
CREATE INDEX ON auth.login_attempts (last_at);

CREATE TABLE auth.api_keys (
    key_id text PRIMARY KEY,
    name text NOT NULL,
    scopes text[] NOT NULL,
    gateway_id text,
    key_hash bytea NOT NULL UNIQUE,
    previous_key_hash bytea UNIQUE,
    previous_expires_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    created_by text NOT NULL,
    rotated_at timestamptz,
    expires_at timestamptz,
    revoked_at timestamptz,
    last_used_at timestamptz,
    CHECK ((previous_key_hash IS NULL) = (previous_expires_at IS NULL))
);
CREATE INDEX ON auth.api_keys (created_at, key_id);
CREATE INDEX ON auth.api_keys (gateway_id) WHERE gateway_id IS NOT NULL;

-- A key signs from `signs_from` until the next one does, and stays published until the last token it
-- signed has expired.
CREATE TABLE auth.signing_keys (
    kid text PRIMARY KEY,
    public_key bytea NOT NULL,
    sealed_private_key bytea NOT NULL,
    created_at timestamptz NOT NULL,
    signs_from timestamptz NOT NULL UNIQUE
);

-- Access tokens that are refused before they expire. Entries go when no token they concern can be valid.
CREATE TABLE auth.revoked_sessions (
    session_id uuid PRIMARY KEY,
    expires_at timestamptz NOT NULL
);
CREATE TABLE auth.revoked_users (
    user_id uuid PRIMARY KEY,
    not_before timestamptz NOT NULL,
    expires_at timestamptz NOT NULL
);
-- One row: locked by each change, so that versions are in the order of the commits.
CREATE TABLE auth.revocations_version (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    version bigint NOT NULL
);
INSERT INTO auth.revocations_version (version) VALUES (0);

CREATE TABLE auth.outbox (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    exchange text NOT NULL,
    routing_key text NOT NULL,
    headers jsonb NOT NULL,
    body bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

GRANT SELECT, INSERT, UPDATE, DELETE ON
    auth.users, auth.sessions, auth.refresh_tokens, auth.login_attempts, auth.revoked_sessions, auth.revoked_users
    TO esp_auth;
GRANT SELECT, INSERT, UPDATE ON auth.api_keys TO esp_auth;
GRANT SELECT, INSERT, DELETE ON auth.signing_keys TO esp_auth;
GRANT SELECT, UPDATE (version) ON auth.revocations_version TO esp_auth;
-- Taking rows with SKIP LOCKED needs the right to update one column.
GRANT SELECT, INSERT, DELETE, UPDATE (created_at) ON auth.outbox TO esp_auth;
