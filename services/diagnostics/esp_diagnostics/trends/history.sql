-- Readings and aggregates from ingest's published views. Braces are replaced by columns of the channel
-- catalogue and the name of a resolution, never by input of a caller.

-- name: readings
-- Error codes of a gauge are stored as received; fault_channels names the channels that hold one.
SELECT time, running, trip_code, NULLIF(fault_channels, '{{}}') AS fault_channels, {columns}
FROM telemetry_v1.readings
WHERE pump_id = $1 AND time >= $2 AND time < $3
ORDER BY time
LIMIT $4;

-- name: dropped
-- Whether ingest has dropped readings of the span, which are then in the archive.
SELECT EXISTS (
    SELECT FROM telemetry_v1.dropped_days
    WHERE day >= ($1 AT TIME ZONE 'UTC')::date AND day <= ($2 AT TIME ZONE 'UTC')::date
);

-- name: buckets
SELECT bucket, readings, running_share, {columns}
FROM telemetry_v1.readings_{grain}
WHERE pump_id = $1 AND bucket >= $2 AND bucket < $3
ORDER BY bucket;

-- name: merged_buckets
SELECT
    date_bin($4::interval, bucket, '2001-01-01T00:00Z') AS bucket, sum(readings) AS readings,
    sum(running_share * readings) / NULLIF(sum(readings) FILTER (WHERE running_share IS NOT NULL), 0)
        AS running_share,
    {columns}
FROM telemetry_v1.readings_{grain}
WHERE pump_id = $1 AND bucket >= $2 AND bucket < $3
GROUP BY 1
ORDER BY 1;

-- name: packed
-- Buckets in one row, in PostgreSQL's binary array format, which is decoded at once instead of value by
-- value. NaN stands for null, so that all elements have the same length. Rows are ordered.
SELECT array_send(array_agg(bucket)) AS times, array_send(array_agg(ARRAY[{numbers}])) AS numbers
FROM ({buckets}) AS buckets;

-- name: newest
-- A pump that reports by exception fills few columns per reading. The view cannot deliver readings in order
-- of time, so the span rather than the limit bounds the sort.
SELECT
    time, running, trip_code, NULLIF(fault_channels, '{{}}') AS fault_channels,
    NULLIF(frozen_channels, '{{}}') AS frozen_channels, {columns}
FROM telemetry_v1.readings
WHERE pump_id = $1 AND time >= $2
ORDER BY time DESC
LIMIT $3;
