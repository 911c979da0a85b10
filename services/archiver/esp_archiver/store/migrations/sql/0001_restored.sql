-- Readings brought back from the archive: a table of its own for each request, gone when that expires.

CREATE TABLE archiver.restores (
    restore_id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    asked_by text NOT NULL,
    asked_at timestamptz NOT NULL DEFAULT now(),
    pump_ids text[] NOT NULL,
    since timestamptz NOT NULL,
    until timestamptz NOT NULL CHECK (until > since),
    expires_at timestamptz NOT NULL,
    state text NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'running', 'done', 'failed', 'expired')),
    ended_at timestamptz,
    rows bigint NOT NULL DEFAULT 0,
    problem text
);
CREATE INDEX ON archiver.restores (asked_at);
GRANT SELECT, INSERT, UPDATE ON archiver.restores TO esp_archiver;

-- The columns of telemetry_v1.readings.
CREATE TABLE archiver.restored (
    restore_id uuid NOT NULL,
    pump_id text NOT NULL,
    time timestamptz NOT NULL,
    intake_pressure_psi float8, discharge_pressure_psi float8, intake_temp_c float8, motor_temp_c float8,
    vibration_x_g float8, vibration_y_g float8, leakage_current_ma float8, insulation_resistance_mohm float8,
    frequency_hz float8, motor_current_a float8, current_a_a float8, current_b_a float8, current_c_a float8,
    motor_voltage_v float8, power_factor float8, active_power_kw float8, motor_load_pct float8,
    drive_temp_c float8, wellhead_pressure_psi float8, casing_pressure_psi float8, wellhead_temp_c float8,
    flow_rate_bpd float8, water_cut_pct float8, choke_pct float8,
    running boolean,
    trip_code int4,
    fault_channels text[],
    frozen_channels text[],
    PRIMARY KEY (restore_id, pump_id, time)
) PARTITION BY LIST (restore_id);
GRANT SELECT, INSERT ON archiver.restored TO esp_archiver;

-- The service must not own the table to make a partition of it: hence SECURITY DEFINER.
CREATE FUNCTION archiver.begin_restore(restore_id uuid) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    name text := 'restored_' || replace(restore_id::text, '-', '');
BEGIN
    EXECUTE format('DROP TABLE IF EXISTS archiver.%I', name);
    EXECUTE format('CREATE TABLE archiver.%I PARTITION OF archiver.restored FOR VALUES IN (%L)', name, restore_id);
END $$;

CREATE FUNCTION archiver.end_restore(restore_id uuid) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '5s' AS $$
BEGIN
    EXECUTE format('DROP TABLE IF EXISTS archiver.%I', 'restored_' || replace(restore_id::text, '-', ''));
END $$;
REVOKE ALL ON FUNCTION archiver.begin_restore(uuid), archiver.end_restore(uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION archiver.begin_restore(uuid), archiver.end_restore(uuid) TO esp_archiver;

-- archive_v1: readings that were brought back, for whoever reads readings.
CREATE SCHEMA archive_v1;
CREATE VIEW archive_v1.restored AS SELECT * FROM archiver.restored;
GRANT USAGE ON SCHEMA archive_v1 TO esp_diagnostics;
GRANT SELECT ON archive_v1.restored TO esp_diagnostics;
