-- What the worker knows of pumps: their state, what was found, the models they are judged by, and who judges.

-- One row a pump, written often: room is left in pages so that rows are updated in place.
CREATE TABLE diagnostics.pump_status (
    pump_id text PRIMARY KEY,
    field_id text NOT NULL,
    time timestamptz NOT NULL,
    state text NOT NULL CHECK (state IN ('unknown', 'off', 'starting', 'running', 'changing')),
    since timestamptz NOT NULL,
    latest jsonb NOT NULL,
    operating_point jsonb NOT NULL DEFAULT '{}',
    residuals jsonb NOT NULL DEFAULT '{}',
    health float8 CHECK (health BETWEEN 0 AND 100),
    health_terms jsonb NOT NULL DEFAULT '[]',
    hypotheses jsonb NOT NULL DEFAULT '[]',
    path jsonb NOT NULL DEFAULT '[]',
    gauge_fault boolean NOT NULL DEFAULT false,
    anomaly jsonb,
    rule_version text,
    updated_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 60, autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX ON diagnostics.pump_status (field_id, pump_id);
COMMENT ON COLUMN diagnostics.pump_status.time IS 'Of the newest reading.';
COMMENT ON COLUMN diagnostics.pump_status.latest IS
'{"running": bool, "trip_code": int, "channels": {name: {"value", "time"}}}: the last known of each.';

-- `raised_at` and `cleared_at` are times of readings, so that a replay of the same readings gives the same ones.
CREATE TABLE diagnostics.findings (
    finding_id uuid PRIMARY KEY,
    pump_id text NOT NULL,
    field_id text NOT NULL,
    condition text NOT NULL,
    kind text NOT NULL CHECK (kind IN ('tree', 'anomaly')),
    severity text NOT NULL CHECK (severity IN ('info', 'low', 'medium', 'high', 'critical')),
    peak_severity text NOT NULL CHECK (peak_severity IN ('info', 'low', 'medium', 'high', 'critical')),
    confidence float8 NOT NULL CHECK (confidence BETWEEN 0 AND 1),
    onset timestamptz NOT NULL,
    raised_at timestamptz NOT NULL,
    noticed_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    cleared_at timestamptz,
    rule_version text NOT NULL,
    evidence jsonb NOT NULL DEFAULT '{"for": [], "against": [], "missing": []}',
    path jsonb NOT NULL DEFAULT '[]',
    action text NOT NULL DEFAULT ''
);
CREATE UNIQUE INDEX one_open_finding ON diagnostics.findings (pump_id, condition) WHERE cleared_at IS NULL;
CREATE INDEX ON diagnostics.findings (pump_id, condition, raised_at);
CREATE INDEX ON diagnostics.findings (raised_at, finding_id);
CREATE INDEX ON diagnostics.findings (field_id, raised_at, finding_id);
CREATE INDEX ON diagnostics.findings (cleared_at, finding_id);
CREATE INDEX ON diagnostics.findings (onset, finding_id);
CREATE INDEX ON diagnostics.findings (updated_at, finding_id);
COMMENT ON COLUMN diagnostics.findings.noticed_at IS 'When this was written; raised_at is by the readings'' clock.';

-- Spells of a pump, one after the other; starts, trips, uptime and run life are made of them.
CREATE TABLE diagnostics.state_log (
    pump_id text NOT NULL,
    started_at timestamptz NOT NULL,
    state text NOT NULL CHECK (state IN ('off', 'starting', 'running', 'unknown')),
    ended_at timestamptz CHECK (ended_at >= started_at),
    trip_code int4,
    PRIMARY KEY (pump_id, started_at)
);
CREATE UNIQUE INDEX one_open_spell ON diagnostics.state_log (pump_id) WHERE ended_at IS NULL;

-- What a worker needs to go on where another, or itself, left off. `through`: newest reading it has seen.
CREATE TABLE diagnostics.pump_snapshots (
    pump_id text PRIMARY KEY,
    partition int2 NOT NULL,
    body bytea NOT NULL,
    through timestamptz NOT NULL,
    saved_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX ON diagnostics.pump_snapshots (partition);

CREATE TABLE diagnostics.models (
    model_id uuid PRIMARY KEY,
    pump_id text NOT NULL,
    version int4 NOT NULL,
    trained_at timestamptz NOT NULL DEFAULT now(),
    trained_from timestamptz NOT NULL,
    trained_to timestamptz NOT NULL,
    samples int4 NOT NULL,
    body bytea NOT NULL,
    metrics jsonb NOT NULL DEFAULT '{}',
    active boolean NOT NULL,
    UNIQUE (pump_id, version)
);
CREATE UNIQUE INDEX one_active_model ON diagnostics.models (pump_id) WHERE active;

-- The last attempt to train each pump's model, and what is still lacking.
CREATE TABLE diagnostics.trainings (
    pump_id text PRIMARY KEY,
    tried_at timestamptz NOT NULL DEFAULT now(),
    outcome text NOT NULL CHECK (outcome IN ('trained', 'learning', 'failed')),
    reason text,
    share float8
);

CREATE TABLE diagnostics.workers (
    worker_id text PRIMARY KEY,
    seen_at timestamptz NOT NULL DEFAULT now()
);

-- Who judges the pumps of a partition. The broker gives a partition's readings to one consumer at a time; the
-- epoch keeps one that was cut off from writing what it still had in hand.
CREATE TABLE diagnostics.partitions (
    partition int2 PRIMARY KEY,
    worker_id text NOT NULL,
    epoch int8 NOT NULL DEFAULT 1,
    claimed_at timestamptz NOT NULL DEFAULT now()
);

GRANT SELECT, INSERT, UPDATE, DELETE ON
    diagnostics.pump_status, diagnostics.findings, diagnostics.state_log, diagnostics.pump_snapshots,
    diagnostics.models, diagnostics.trainings, diagnostics.workers, diagnostics.partitions
    TO esp_diagnostics;

-- findings_v1: what the archiver reads of this database; columns may be added, never renamed or removed.
CREATE SCHEMA findings_v1;
CREATE VIEW findings_v1.findings AS
SELECT
    finding_id, pump_id, field_id, condition, kind, severity, peak_severity, confidence, onset, raised_at,
    noticed_at, updated_at, cleared_at, rule_version, evidence, path, action
FROM diagnostics.findings;
GRANT USAGE ON SCHEMA findings_v1 TO esp_archiver;
GRANT SELECT ON findings_v1.findings TO esp_archiver;
