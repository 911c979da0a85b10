-- What is archived, what was done and what was asked for.

-- One row for each object, written once the object was read back and found to hold what the source held.
CREATE TABLE archiver.parts (
    dataset text NOT NULL CHECK (dataset IN ('telemetry', 'audit', 'findings')),
    field_id text NOT NULL,
    day date NOT NULL,
    part int4 NOT NULL CHECK (part BETWEEN 0 AND 9999),
    object text NOT NULL UNIQUE,
    revision int4 NOT NULL DEFAULT 1,
    rows bigint NOT NULL CHECK (rows > 0),
    bytes bigint NOT NULL,
    sha256 text NOT NULL,
    content_hash text NOT NULL,
    digest numeric NOT NULL,
    drops int8 NOT NULL,
    sole boolean NOT NULL DEFAULT false,
    etag text NOT NULL,
    footer_bytes int4 NOT NULL,
    first_time timestamptz NOT NULL,
    last_time timestamptz NOT NULL,
    pumps text[] NOT NULL,
    verified_at timestamptz NOT NULL DEFAULT now(),
    checked_at timestamptz,
    damaged text,
    protected_at timestamptz,
    PRIMARY KEY (dataset, day, field_id, part)
);
CREATE INDEX ON archiver.parts USING gin (pumps);
CREATE INDEX ON archiver.parts (checked_at NULLS FIRST);
COMMENT ON COLUMN archiver.parts.field_id IS 'Empty where the dataset is not parted by field.';
COMMENT ON COLUMN archiver.parts.sha256 IS 'Of the object.';
COMMENT ON COLUMN archiver.parts.content_hash IS 'Of its rows, whatever the form they are in.';
COMMENT ON COLUMN archiver.parts.digest IS 'Sum of the hashes of the rows in the source, while they were there.';
COMMENT ON COLUMN archiver.parts.drops IS 'How often the source had let rows of the day go when this was read.';
COMMENT ON COLUMN archiver.parts.sole IS 'Never written over: what it holds may be nowhere else.';
COMMENT ON COLUMN archiver.parts.damaged IS 'What was wrong when it was last read; null: nothing.';

-- What was told of each day that was archived whole, and what came of it.
CREATE TABLE archiver.days (
    dataset text NOT NULL,
    day date NOT NULL,
    archive_id text NOT NULL,
    rows bigint NOT NULL,
    told_at timestamptz NOT NULL DEFAULT now(),
    dropped_at timestamptz,
    refused text,
    PRIMARY KEY (dataset, day, archive_id)
);

CREATE TABLE archiver.runs (
    run_id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    asked_by text NOT NULL,
    asked_at timestamptz NOT NULL DEFAULT now(),
    state text NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'running', 'done', 'failed')),
    started_at timestamptz,
    ended_at timestamptz,
    days int4 NOT NULL DEFAULT 0,
    parts int4 NOT NULL DEFAULT 0,
    rows bigint NOT NULL DEFAULT 0,
    bytes bigint NOT NULL DEFAULT 0,
    problem text
);
CREATE INDEX ON archiver.runs (asked_at);

CREATE TABLE archiver.outbox (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    exchange text NOT NULL,
    routing_key text NOT NULL,
    headers jsonb NOT NULL,
    body bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

GRANT SELECT, INSERT, UPDATE ON archiver.parts, archiver.days, archiver.runs TO esp_archiver;
-- Taking rows with SKIP LOCKED needs the right to update one column.
GRANT SELECT, INSERT, DELETE, UPDATE (created_at) ON archiver.outbox TO esp_archiver;
GRANT USAGE ON SCHEMA archiver TO esp_archiver;
