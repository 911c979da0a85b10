-- Stored readings, from ingest's published views.

-- name: windows
-- Readings of pumps within their windows, the first $4 of each, in order of time.
SELECT r.time, asked.place, {channels}, r.running, r.trip_code, r.fault_channels, r.frozen_channels,
    r.refused_mask
FROM unnest($1::text[], $2::timestamptz[], $3::timestamptz[]) WITH ORDINALITY
    AS asked (pump_id, after, until, place)
CROSS JOIN LATERAL (
    SELECT * FROM telemetry_v1.readings AS v
    WHERE v.pump_id = asked.pump_id AND v.time > asked.after AND v.time <= asked.until
    ORDER BY v.time
    LIMIT $4::int8
) AS r
ORDER BY r.time

-- name: minutes
-- Minute aggregates of a pump: the mean of each channel, and whether it ran throughout.
SELECT bucket AS time, 1::int8 AS place, {averages}, running_share, fault_channels, frozen_channels
FROM telemetry_v1.readings_1min
WHERE pump_id = $1 AND bucket >= $2 AND bucket < $3
ORDER BY bucket
