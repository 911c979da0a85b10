-- What was measured, read from ingest's published views. The braces are filled with columns of the channel
-- catalogue and the name of a grain, never with what a caller wrote.

-- name: readings
-- A gauge's error codes are stored as they came; the channels that hold one are named beside.
SELECT time, running, trip_code, NULLIF(fault_channels, '{{}}') AS fault_channels, {columns}
FROM telemetry_v1.readings
WHERE pump_id = $1 AND time >= $2 AND time < $3
ORDER BY time
LIMIT $4;

-- name: dropped
-- Whether ingest has let readings of the span go, which then are in the archive.
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
-- Buckets in one row, as PostgreSQL's binary form of arrays: read at once, where each row would be unpacked
-- value by value. NaN stands for null, so that every value has the same length. Rows come in their order.
SELECT array_send(array_agg(bucket)) AS times, array_send(array_agg(ARRAY[{numbers}])) AS numbers
FROM ({buckets}) AS buckets;

-- name: newest
-- The newest readings first; a pump that reports by exception says a little in each. Through the view its
-- readings cannot be read in the order of time, so that the span, not the limit, bounds what is sorted.
SELECT
    time, running, trip_code, NULLIF(fault_channels, '{{}}') AS fault_channels,
    NULLIF(frozen_channels, '{{}}') AS frozen_channels, {columns}
FROM telemetry_v1.readings
WHERE pump_id = $1 AND time >= $2
ORDER BY time DESC
LIMIT $3;
