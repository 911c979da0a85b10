-- What backups there are, what is being done about them, and how far the archive has come. All of `backups` can
-- be made again from storage.

CREATE SCHEMA IF NOT EXISTS backup;
REVOKE ALL ON SCHEMA backup FROM PUBLIC;
GRANT USAGE ON SCHEMA backup TO esp_backup;

CREATE TABLE backup.backups (
    kind text NOT NULL CHECK (kind IN ('dump', 'full', 'set')),
    place text NOT NULL,
    name text NOT NULL,
    started_at timestamptz NOT NULL,
    ended_at timestamptz NOT NULL,
    bytes bigint NOT NULL,
    stored_bytes bigint NOT NULL,
    detail jsonb NOT NULL DEFAULT '{}',
    verified_at timestamptz,
    problem text,
    gone_at timestamptz,
    PRIMARY KEY (kind, place, name)
);
CREATE INDEX ON backup.backups (started_at, kind, place, name);

CREATE TABLE backup.jobs (
    job_id uuid PRIMARY KEY,
    kind text NOT NULL CHECK (kind IN ('dump', 'full', 'set', 'verify', 'drill')),
    state text NOT NULL CHECK (state IN ('requested', 'running', 'completed', 'failed')),
    requested_by text NOT NULL,
    requested_at timestamptz NOT NULL DEFAULT now(),
    started_at timestamptz,
    ended_at timestamptz,
    error text,
    result jsonb
);
-- Whoever asks for what is being done already is told so.
CREATE UNIQUE INDEX ON backup.jobs (kind) WHERE state IN ('requested', 'running');
CREATE INDEX ON backup.jobs (requested_at, job_id);
CREATE INDEX ON backup.jobs (kind, started_at);

-- Rows of known time: which of them are in the archive, or in a restored instance, says what a loss costs.
CREATE TABLE backup.heartbeat (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    at timestamptz NOT NULL
);
CREATE TABLE backup.archiving (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    checked_at timestamptz NOT NULL,
    covered_until timestamptz,
    newest_segment text,
    waiting_segments int4 NOT NULL,
    behind boolean NOT NULL
);
-- One before and one after each moment that a drill restores to.
CREATE TABLE backup.marks (
    name text PRIMARY KEY,
    made_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE backup.outbox (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    exchange text NOT NULL,
    routing_key text NOT NULL,
    headers jsonb NOT NULL,
    body bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

GRANT SELECT, INSERT, UPDATE ON backup.backups, backup.jobs, backup.heartbeat, backup.archiving TO esp_backup;
GRANT SELECT, INSERT, DELETE ON backup.marks TO esp_backup;
GRANT SELECT, INSERT, DELETE, UPDATE (created_at) ON backup.outbox TO esp_backup;
