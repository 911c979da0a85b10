-- What there is to archive: read from what ingest, auth and diagnostics publish.

-- name: snapshot
SET LOCAL jit = off; SET LOCAL work_mem = '64MB'

-- name: telemetry_days
SELECT day FROM telemetry_v1.raw_days() AS day WHERE day < $1 ORDER BY day

-- name: telemetry_content
SELECT field_id, pump_id, readings, digest FROM telemetry_v1.day_digest($1)

-- name: drops
SELECT coalesce((SELECT drops FROM telemetry_v1.dropped_days WHERE day = $1), 0)

-- name: telemetry_rows
-- Fields of one width, none absent; `pump` is a position in $1. Pump after pump by the key of the table, or of the
-- column store's segments: one sort of a whole day would take longer than reading it.
SELECT
    wanted.pump::int4, time, {channels},
    coalesce(running::int4, -1), coalesce(trip_code, -2147483648), coalesce(fault_mask, 0), coalesce(frozen_mask, 0),
    coalesce(refused_mask, 0), coalesce(clamped_mask, 0)
FROM unnest($1::text[]) WITH ORDINALITY AS wanted (pump_id, pump)
CROSS JOIN LATERAL (
    SELECT * FROM telemetry_v1.readings
    WHERE readings.pump_id = wanted.pump_id AND time >= $2 AND time < $3
    ORDER BY time
) AS of_pump

-- name: audit_exists
SELECT to_regclass('audit_v1.records') IS NOT NULL

-- name: audit_days
SELECT DISTINCT (time AT TIME ZONE 'UTC')::date AS day FROM audit_v1.records WHERE time < $1 ORDER BY day

-- name: audit_content
SELECT count(*) AS rows, sum(hash_record_extended(r, 0)) AS digest
FROM audit_v1.records AS r WHERE time >= $1 AND time < $2

-- name: audit_rows
SELECT {columns} FROM audit_v1.records WHERE time >= $1 AND time < $2 ORDER BY seq

-- name: findings_exists
SELECT to_regclass('findings_v1.findings') IS NOT NULL

-- name: findings_days
-- Findings belong to the day on which they were over: from then on they do not change.
SELECT DISTINCT (cleared_at AT TIME ZONE 'UTC')::date AS day FROM findings_v1.findings WHERE cleared_at < $1 ORDER BY day

-- name: findings_content
SELECT count(*) AS rows, sum(hash_record_extended(r, 0)) AS digest
FROM (SELECT {columns} FROM findings_v1.findings WHERE cleared_at >= $1 AND cleared_at < $2) AS r

-- name: findings_rows
SELECT {columns} FROM findings_v1.findings
WHERE cleared_at >= $1 AND cleared_at < $2 ORDER BY cleared_at, finding_id
