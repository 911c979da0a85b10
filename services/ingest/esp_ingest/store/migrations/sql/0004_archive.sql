-- Archiving: which raw days there are, what a day's content comes to, and which archive a day went for.

-- As arrays of names the flags are for people; whoever takes millions of rows takes the masks.
DO $$
DECLARE
    flagged text := 'CASE WHEN %1$s IS NULL THEN ''{}''::text[] ELSE ARRAY('
        'SELECT c.name FROM ingest.channels c WHERE %1$s & (1 << c.position) <> 0 ORDER BY c.position) END';
BEGIN
    EXECUTE format(
        'CREATE OR REPLACE VIEW telemetry_v1.readings AS '
        'SELECT p.pump_id, w.field_id, time, %s, running, trip_code, %s AS fault_channels, %s AS frozen_channels, '
        'fault_mask, frozen_mask '
        'FROM ingest.telemetry JOIN ingest.pumps p USING (pump_no) JOIN ingest.wells w USING (well_id)',
        (SELECT string_agg(format('%1$I::float8 / %2$s AS %1$I', name, steps_per_unit), ', ' ORDER BY position)
         FROM ingest.channels),
        format(flagged, 'fault_mask'), format(flagged, 'frozen_mask')
    );
END $$;

CREATE FUNCTION telemetry_v1.raw_days() RETURNS SETOF date
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT day FROM ingest.raw_days() AS day ORDER BY day
$$;

-- The sum of the rows' hashes does not depend on their order, and changes with any value of any row. It is only
-- ever compared with one taken from the same database a while before.
CREATE FUNCTION telemetry_v1.day_digest(day date)
RETURNS TABLE (field_id text, pump_id text, readings bigint, digest numeric)
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET jit = off AS $$
    SELECT field_id, pump_id, readings, digest
    FROM (
        SELECT pump_no, count(*) AS readings, sum(hash_record_extended(t, 0)) AS digest
        FROM ingest.telemetry AS t
        WHERE time >= day::timestamptz AND time < (day + 1)::timestamptz
        GROUP BY pump_no
    ) AS content
    JOIN ingest.pumps USING (pump_no) JOIN ingest.wells USING (well_id)
    ORDER BY field_id, pump_id
$$;

REVOKE ALL ON FUNCTION telemetry_v1.raw_days(), telemetry_v1.day_digest(date) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION telemetry_v1.raw_days(), telemetry_v1.day_digest(date) TO esp_archiver;

ALTER TABLE ingest.dropped_chunks ADD COLUMN archive_id text UNIQUE;
COMMENT ON COLUMN ingest.dropped_chunks.archive_id IS 'The archive.verified event the day went for; null: by hand.';

-- How often raw rows of a day were dropped: an export that saw fewer drops than there are now holds what is gone.
CREATE VIEW telemetry_v1.dropped_days AS
SELECT day, count(*) AS drops, sum(readings)::int8 AS readings, max(dropped_at) AS dropped_at
FROM ingest.dropped_chunks GROUP BY day;
GRANT SELECT ON telemetry_v1.dropped_days TO esp_diagnostics, esp_archiver;
