-- What the service owns besides telemetry: assets, refusals, data quality, and its own bookkeeping.

CREATE SCHEMA IF NOT EXISTS ingest;
REVOKE ALL ON SCHEMA ingest FROM PUBLIC;
GRANT USAGE ON SCHEMA ingest TO esp_ingest;

-- The channel catalogue as the database knows it: stored integers are value * steps_per_unit, and
-- `position` is the channel's bit in fault_mask and frozen_mask.
CREATE TABLE ingest.channels (
    position int2 PRIMARY KEY,
    name text NOT NULL UNIQUE,
    unit text NOT NULL,
    steps_per_unit int4 NOT NULL
);
INSERT INTO ingest.channels (position, name, unit, steps_per_unit) VALUES
    (0, 'intake_pressure_psi', 'psi', 20),
    (1, 'discharge_pressure_psi', 'psi', 20),
    (2, 'intake_temp_c', 'degC', 20),
    (3, 'motor_temp_c', 'degC', 20),
    (4, 'vibration_x_g', 'g_0', 1000),
    (5, 'vibration_y_g', 'g_0', 1000),
    (6, 'leakage_current_ma', 'mA', 1000),
    (7, 'insulation_resistance_mohm', 'Mohm', 100),
    (8, 'frequency_hz', 'Hz', 100),
    (9, 'motor_current_a', 'A', 10),
    (10, 'current_a_a', 'A', 10),
    (11, 'current_b_a', 'A', 10),
    (12, 'current_c_a', 'A', 10),
    (13, 'motor_voltage_v', 'V', 1),
    (14, 'power_factor', 'dimensionless', 1000),
    (15, 'active_power_kw', 'kW', 10),
    (16, 'motor_load_pct', 'percent', 10),
    (17, 'drive_temp_c', 'degC', 20),
    (18, 'wellhead_pressure_psi', 'psi', 20),
    (19, 'casing_pressure_psi', 'psi', 20),
    (20, 'wellhead_temp_c', 'degC', 20),
    (21, 'flow_rate_bpd', 'oil_bbl/day', 10),
    (22, 'water_cut_pct', 'percent', 10),
    (23, 'choke_pct', 'percent', 10);

CREATE TABLE ingest.fields (
    field_id text PRIMARY KEY,
    name text NOT NULL
);

CREATE TABLE ingest.wells (
    well_id text PRIMARY KEY,
    field_id text NOT NULL REFERENCES ingest.fields,
    name text NOT NULL
);
CREATE INDEX ON ingest.wells (field_id);

CREATE TABLE ingest.pumps (
    pump_no int4 GENERATED ALWAYS AS IDENTITY UNIQUE,
    pump_id text PRIMARY KEY,
    well_id text NOT NULL REFERENCES ingest.wells,
    model text,
    stages int4 CHECK (stages > 0),
    curve jsonb,
    motor_rated_kw float8 CHECK (motor_rated_kw > 0),
    motor_rated_current_a float8 CHECK (motor_rated_current_a > 0),
    motor_rated_voltage_v float8 CHECK (motor_rated_voltage_v > 0),
    motor_rated_frequency_hz float8 NOT NULL DEFAULT 60 CHECK (motor_rated_frequency_hz > 0),
    setting_depth_ft float8 CHECK (setting_depth_ft > 0),
    expected_interval_s float8 CHECK (expected_interval_s > 0)
);
COMMENT ON COLUMN ingest.pumps.expected_interval_s IS 'Seconds between readings; null: the pump reports by exception.';
CREATE INDEX ON ingest.pumps (well_id);

CREATE TABLE ingest.gateways (
    gateway_id text PRIMARY KEY,
    field_id text NOT NULL REFERENCES ingest.fields,
    name text NOT NULL
);

CREATE TABLE ingest.gateway_pumps (
    gateway_id text NOT NULL REFERENCES ingest.gateways ON DELETE CASCADE,
    pump_id text NOT NULL REFERENCES ingest.pumps,
    PRIMARY KEY (gateway_id, pump_id)
);
CREATE INDEX ON ingest.gateway_pumps (pump_id);

-- A tag with a null channel is known and ignored; it may also be running or trip_code. Engineering value = value * factor + offset_.
CREATE TABLE ingest.tag_maps (
    gateway_id text NOT NULL REFERENCES ingest.gateways,
    tag text NOT NULL,
    channel text,
    unit text,
    factor float8,
    offset_ float8,
    PRIMARY KEY (gateway_id, tag)
);

CREATE TABLE ingest.quarantine (
    id uuid PRIMARY KEY,
    received_at timestamptz NOT NULL DEFAULT now(),
    gateway_id text NOT NULL,
    message_id text,
    pump_id text,
    time timestamptz,
    reason text NOT NULL,
    detail text NOT NULL,
    payload jsonb NOT NULL,
    state text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'replayed', 'discarded')),
    resolved_at timestamptz,
    resolved_by text
);
CREATE INDEX ON ingest.quarantine (received_at, id);
CREATE INDEX ON ingest.quarantine (received_at, id) WHERE state = 'pending';
CREATE INDEX ON ingest.quarantine (pump_id, received_at, id);

-- What can only be counted while it passes: it leaves no row in telemetry.
CREATE TABLE ingest.quality_tally (
    pump_no int4 NOT NULL,
    hour timestamptz NOT NULL,
    duplicates int4 NOT NULL DEFAULT 0,
    late int4 NOT NULL DEFAULT 0,
    rejected int4 NOT NULL DEFAULT 0,
    conflicts int4 NOT NULL DEFAULT 0,
    PRIMARY KEY (pump_no, hour)
);

-- One row per pump and hour; `stale` rows await (re)computation, shares are null when nothing was read.
CREATE TABLE ingest.quality_hours (
    pump_no int4 NOT NULL,
    hour timestamptz NOT NULL,
    stale boolean NOT NULL DEFAULT true,
    readings int4 NOT NULL DEFAULT 0,
    completeness float8,
    validity float8,
    uniqueness float8,
    timeliness float8,
    consistency float8,
    score float8,
    computed_at timestamptz,
    degraded_at timestamptz,
    PRIMARY KEY (pump_no, hour)
);
COMMENT ON COLUMN ingest.quality_hours.degraded_at IS 'When quality.degraded was announced for this hour; never twice.';
CREATE INDEX ON ingest.quality_hours (hour, pump_no);
CREATE INDEX ON ingest.quality_hours (hour) WHERE stale;

-- One row per committed flush: the service's own account of what it took in, for reconciliation.
CREATE TABLE ingest.ledger (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    committed_at timestamptz NOT NULL DEFAULT now(),
    worker text NOT NULL,
    messages int4 NOT NULL,
    readings int4 NOT NULL,
    stored int4 NOT NULL,
    merged int4 NOT NULL,
    duplicates int4 NOT NULL,
    quarantined int4 NOT NULL
);

-- What a flush touched, one row per hour: rollups of these pumps between first and last are out of date.
-- Append only, so that concurrent writers never wait for each other here.
CREATE TABLE ingest.dirty_buckets (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    hour timestamptz NOT NULL,
    first timestamptz NOT NULL,
    last timestamptz NOT NULL,
    pump_nos int4[] NOT NULL
);

CREATE TABLE ingest.dropped_chunks (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    day date NOT NULL,
    readings bigint NOT NULL,
    dropped_at timestamptz NOT NULL DEFAULT now(),
    dropped_by text NOT NULL
);
CREATE INDEX ON ingest.dropped_chunks (day);

CREATE TABLE ingest.outbox (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    exchange text NOT NULL,
    routing_key text NOT NULL,
    headers jsonb NOT NULL,
    body bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

GRANT SELECT, INSERT, UPDATE, DELETE
    ON ingest.fields, ingest.wells, ingest.pumps, ingest.gateways, ingest.gateway_pumps, ingest.tag_maps
    TO esp_ingest;
GRANT SELECT, INSERT, UPDATE ON ingest.quarantine, ingest.quality_tally TO esp_ingest;
GRANT SELECT, INSERT ON ingest.ledger, ingest.dirty_buckets, ingest.outbox TO esp_ingest;
GRANT SELECT ON ingest.channels, ingest.quality_hours, ingest.dropped_chunks TO esp_ingest;
