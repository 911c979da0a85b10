-- What every part of the service reads: pumps as diagnostics knows them, the rules, and the outbox.

CREATE SCHEMA IF NOT EXISTS diagnostics;
REVOKE ALL ON SCHEMA diagnostics FROM PUBLIC;
GRANT USAGE ON SCHEMA diagnostics TO esp_diagnostics;

-- `nameplate` is telemetry_v1.pumps' row as last seen there; the rest is diagnostics' own and stays when the
-- nameplate changes. A pump that has gone from there keeps its row, with `removed_at`.
CREATE TABLE diagnostics.pumps (
    pump_id text PRIMARY KEY,
    field_id text NOT NULL,
    well_id text NOT NULL,
    nameplate jsonb NOT NULL,
    extras jsonb NOT NULL DEFAULT '{}',
    curve jsonb,
    head_factor float8 CHECK (head_factor > 0),
    flow_factor float8 CHECK (flow_factor > 0),
    calibrated_at timestamptz,
    in_service boolean NOT NULL DEFAULT true,
    removed_at timestamptz,
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX ON diagnostics.pumps (field_id, pump_id);
COMMENT ON COLUMN diagnostics.pumps.curve IS 'A curve that a user loaded; none: the nameplate''s.';
COMMENT ON COLUMN diagnostics.pumps.head_factor IS 'Head measured over head of the curve, from the last well test.';
COMMENT ON COLUMN diagnostics.pumps.flow_factor IS 'Rate measured over virtual rate, from the last well test.';

CREATE TABLE diagnostics.rule_overrides (
    pump_id text NOT NULL REFERENCES diagnostics.pumps,
    parameter text NOT NULL,
    value float8 NOT NULL,
    set_by text NOT NULL,
    set_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (pump_id, parameter)
);

-- None active: the rules that are shipped with the service.
CREATE TABLE diagnostics.rule_sets (
    version text PRIMARY KEY,
    body text NOT NULL,
    loaded_by text NOT NULL,
    loaded_at timestamptz NOT NULL DEFAULT now(),
    active boolean NOT NULL
);
CREATE UNIQUE INDEX ON diagnostics.rule_sets (active) WHERE active;

CREATE TABLE diagnostics.outbox (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    exchange text NOT NULL,
    routing_key text NOT NULL,
    headers jsonb NOT NULL,
    body bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

GRANT SELECT, INSERT, UPDATE, DELETE ON
    diagnostics.pumps, diagnostics.rule_overrides, diagnostics.rule_sets
    TO esp_diagnostics;
-- Taking rows with SKIP LOCKED needs the right to update one column.
GRANT SELECT, INSERT, DELETE, UPDATE (created_at) ON diagnostics.outbox TO esp_diagnostics;
