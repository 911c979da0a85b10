-- Data of key figures.

-- name: pumps
SELECT pump_id, field_id, removed_at FROM diagnostics.pumps WHERE pump_id = $1;

-- name: pumps_of_field
-- Every pump that was in the field in a span, including removed ones.
SELECT pump_id, field_id, removed_at FROM diagnostics.pumps
WHERE field_id = $1 AND (removed_at IS NULL OR removed_at > $2)
ORDER BY pump_id;

-- name: field_exists
SELECT EXISTS (SELECT FROM telemetry_v1.fields WHERE field_id = $1)
    OR EXISTS (SELECT FROM diagnostics.pumps WHERE field_id = $1);

-- name: spells
SELECT pump_id, state, started_at, ended_at, trip_code
FROM diagnostics.state_log
WHERE pump_id = ANY($1::text[]) AND started_at < $3 AND coalesce(ended_at, $3) >= $2
ORDER BY pump_id, started_at;

-- name: lives
-- First known run of each pump; for a field also of pumps removed long ago.
SELECT p.pump_id, p.removed_at, first.started_at AS first_run_at, this.started_at AS up_since
FROM diagnostics.pumps AS p
CROSS JOIN LATERAL (
    SELECT min(s.started_at) AS started_at FROM diagnostics.state_log AS s
    WHERE s.pump_id = p.pump_id AND s.state IN ('running', 'starting')
) AS first
CROSS JOIN LATERAL (
    -- Start of the present run: first running interval after the last other one.
    SELECT min(s.started_at) AS started_at FROM diagnostics.state_log AS s
    WHERE s.pump_id = p.pump_id AND s.state IN ('running', 'starting') AND s.started_at > coalesce(
        (SELECT max(o.started_at) FROM diagnostics.state_log AS o
         WHERE o.pump_id = p.pump_id AND o.state NOT IN ('running', 'starting')),
        '-infinity'
    )
) AS this
WHERE ($1::text IS NULL OR p.pump_id = $1) AND ($2::text IS NULL OR p.field_id = $2)
ORDER BY p.pump_id;

-- name: hours
SELECT
    pump_id, bucket, running_share, flow_rate_bpd_avg AS rate, active_power_kw_avg AS power,
    flow_rate_bpd_count::float8 / NULLIF(readings, 0) AS rate_measured,
    active_power_kw_count::float8 / NULLIF(readings, 0) AS power_measured
FROM telemetry_v1.readings_1hour
WHERE pump_id = ANY($1::text[]) AND bucket >= $2 AND bucket < $3;

-- name: days
SELECT
    pump_id, bucket, running_share, flow_rate_bpd_avg AS rate, active_power_kw_avg AS power,
    flow_rate_bpd_count::float8 / NULLIF(readings, 0) AS rate_measured,
    active_power_kw_count::float8 / NULLIF(readings, 0) AS power_measured
FROM telemetry_v1.readings_1day
WHERE pump_id = ANY($1::text[]) AND bucket >= $2 AND bucket < $3;

-- name: health
SELECT pump_id, health, health_terms FROM diagnostics.pump_status WHERE pump_id = ANY($1::text[]);
