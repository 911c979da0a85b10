-- telemetry_v1: the one thing of ingest's database that other services read. Engineering units, whatever
-- the engine; columns may be added, never renamed or removed.

CREATE SCHEMA telemetry_v1;

CREATE VIEW telemetry_v1.fields AS SELECT field_id, name FROM ingest.fields;

CREATE VIEW telemetry_v1.wells AS SELECT well_id, field_id, name FROM ingest.wells;

CREATE VIEW telemetry_v1.pumps AS
SELECT
    pump_id, well_id, field_id, model, stages, curve, motor_rated_kw, motor_rated_current_a, motor_rated_voltage_v,
    motor_rated_frequency_hz, setting_depth_ft, expected_interval_s
FROM ingest.pumps JOIN ingest.wells USING (well_id);

-- The scaled integers are divided, not multiplied by the resolution: the quotient is the nearest double to
-- the decimal the gauge reported (0.35, not 0.35000000000000003).
DO $$
DECLARE
    flagged text := 'CASE WHEN %1$s IS NULL THEN ''{}''::text[] ELSE ARRAY('
        'SELECT c.name FROM ingest.channels c WHERE %1$s & (1 << c.position) <> 0 ORDER BY c.position) END';
    flags text := format(flagged, 'fault_mask') || ' AS fault_channels, '
        || format(flagged, 'frozen_mask') || ' AS frozen_channels';
    assets text := 'JOIN ingest.pumps p USING (%s) JOIN ingest.wells w USING (well_id)';
    grain text;
BEGIN
    EXECUTE format(
        'CREATE VIEW telemetry_v1.readings AS '
        'SELECT p.pump_id, w.field_id, time, %s, running, trip_code, %s FROM ingest.telemetry %s',
        (SELECT string_agg(format('%1$I::float8 / %2$s AS %1$I', name, steps_per_unit), ', ' ORDER BY position)
         FROM ingest.channels),
        flags, format(assets, 'pump_no')
    );
    FOREACH grain IN ARRAY ARRAY['1min', '1hour', '1day'] LOOP
        EXECUTE format(
            'CREATE VIEW telemetry_v1.readings_%s AS '
            'SELECT p.pump_id, w.field_id, bucket, readings, '
            'running_count::float8 / NULLIF(running_known, 0) AS running_share, %s, %s '
            'FROM ingest.telemetry_%s %s',
            grain,
            (SELECT string_agg(format(
                '%1$s_sum::float8 / NULLIF(%1$s_count, 0) / %2$s AS %1$s_avg, %1$s_min::float8 / %2$s AS %1$s_min, '
                '%1$s_max::float8 / %2$s AS %1$s_max, %1$s_count',
                name, steps_per_unit), ', ' ORDER BY position)
             FROM ingest.channels),
            flags, grain, format(assets, 'pump_id')
        );
    END LOOP;
END $$;

GRANT USAGE ON SCHEMA telemetry_v1 TO esp_diagnostics, esp_archiver;
GRANT SELECT ON ALL TABLES IN SCHEMA telemetry_v1 TO esp_diagnostics, esp_archiver;
