-- Reporting and silent pumps and gateways.

-- name: turn
-- One process at a time checks; others skip.
SELECT pg_try_advisory_xact_lock(hashtextextended('diagnostics.silence', 0))

-- name: reporting
-- Pumps in service that have reported.
SELECT
    p.pump_id, p.field_id, (p.nameplate ->> 'expected_interval_s')::float8 AS interval_s,
    greatest(s.time, a.received) AS newest, a.silent_since, a.covered_by
FROM diagnostics.pumps AS p
JOIN diagnostics.pump_status AS s USING (pump_id)
LEFT JOIN diagnostics.pump_activity AS a USING (pump_id)
WHERE p.removed_at IS NULL AND p.in_service

-- name: stored
-- The newest stored reading of each pump after a given time.
SELECT asked.pump_id, r.time
FROM unnest($1::text[], $2::timestamptz[]) AS asked (pump_id, after)
CROSS JOIN LATERAL (
    SELECT max(v.time) AS time FROM telemetry_v1.readings AS v
    WHERE v.pump_id = asked.pump_id AND v.time > asked.after
) AS r
WHERE r.time IS NOT NULL

-- name: gateways
SELECT g.gateway_id, g.field_id, array_agg(p.pump_id) AS pump_ids
FROM telemetry_v1.gateways AS g JOIN telemetry_v1.gateway_pumps AS p USING (gateway_id)
GROUP BY g.gateway_id, g.field_id

-- name: gateway_activity
SELECT gateway_id, silent_since, returned_at FROM diagnostics.gateway_activity

-- name: ended
-- Silent pumps that are out of service, removed or unknown.
SELECT a.pump_id, p.field_id FROM diagnostics.pump_activity AS a
LEFT JOIN diagnostics.pumps AS p USING (pump_id)
WHERE a.silent_since IS NOT NULL AND (p.removed_at IS NOT NULL OR p.in_service IS NOT TRUE)

-- name: record_pumps
INSERT INTO diagnostics.pump_activity (pump_id, received, silent_since, covered_by)
SELECT * FROM unnest($1::text[], $2::timestamptz[], $3::timestamptz[], $4::text[])
ON CONFLICT (pump_id) DO UPDATE
    SET received = EXCLUDED.received, silent_since = EXCLUDED.silent_since, covered_by = EXCLUDED.covered_by

-- name: forget_pumps
DELETE FROM diagnostics.pump_activity WHERE pump_id = ANY($1)

-- name: record_gateways
INSERT INTO diagnostics.gateway_activity (gateway_id, silent_since, returned_at)
SELECT * FROM unnest($1::text[], $2::timestamptz[], $3::timestamptz[])
ON CONFLICT (gateway_id) DO UPDATE SET silent_since = EXCLUDED.silent_since, returned_at = EXCLUDED.returned_at

-- name: shown
SELECT pump_id, field_id, time, state, since, health, gauge_fault FROM diagnostics.pump_status
WHERE pump_id = ANY($1)
