-- Late readings of dropped days; run by the owner of the schema.

-- name: day_keys
-- The keys of a day's raw rows, pump by pump, arrays in PostgreSQL's binary form. `{mask}`: a bit per measured value.
SELECT pump_no, array_send(array_agg(time)) AS times, array_send(array_agg(mask)) AS masks
FROM (
    SELECT pump_no, time, {mask} AS mask FROM ingest.telemetry WHERE time >= $1 AND time < $2 ORDER BY pump_no, time
) AS keys
GROUP BY pump_no

-- name: known
SELECT pump_no, keys FROM ingest.dropped_readings WHERE day = $1 AND pump_no = ANY ($2)

-- name: remember
INSERT INTO ingest.dropped_readings (pump_no, day, keys) VALUES ($1, $2, $3)
ON CONFLICT (pump_no, day) DO UPDATE SET keys = excluded.keys

-- name: forget_bases
DELETE FROM ingest.late_bases WHERE bucket >= $1 AND bucket < $2

-- name: unkeyed_days
-- Days of which raw rows were dropped without their keys being kept.
SELECT DISTINCT day FROM ingest.dropped_chunks WHERE day = ANY ($1::date[]) AND NOT keys_kept

-- name: raw_times
SELECT array_send(array_agg(time)) FROM ingest.telemetry WHERE pump_no = $1 AND time >= $2 AND time < $3

-- name: keep_bases
SELECT ingest.keep_late_bases($1, $2, $3)

-- name: fold
SELECT ingest.fold_late($1, $2, $3, $4, $5, $6)

-- name: watermark
-- The end of what was materialised: beyond it aggregates are made while reading.
SELECT _timescaledb_functions.to_timestamp(_timescaledb_functions.cagg_watermark(h.id))
FROM timescaledb_information.continuous_aggregates AS c
JOIN _timescaledb_catalog.hypertable AS h
    ON h.schema_name = c.materialization_hypertable_schema AND h.table_name = c.materialization_hypertable_name
WHERE c.view_schema = 'ingest' AND c.view_name = 'telemetry_1min'
