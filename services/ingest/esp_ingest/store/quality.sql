-- Data quality per pump and hour.

-- name: tally
INSERT INTO ingest.quality_tally AS t (pump_no, hour, duplicates, late, rejected, conflicts)
SELECT pump_no, hour, sum(duplicates), sum(late), sum(rejected), sum(conflicts)
FROM unnest($1::int4[], $2::timestamptz[], $3::int4[], $4::int4[], $5::int4[], $6::int4[])
    AS noticed (pump_no, hour, duplicates, late, rejected, conflicts)
GROUP BY pump_no, hour ORDER BY pump_no, hour
ON CONFLICT (pump_no, hour) DO UPDATE
SET duplicates = t.duplicates + excluded.duplicates, late = t.late + excluded.late,
    rejected = t.rejected + excluded.rejected, conflicts = t.conflicts + excluded.conflicts


-- name: mark_stale
-- These pumps' hours have to be scored (again).
INSERT INTO ingest.quality_hours AS q (pump_no, hour)
SELECT DISTINCT pump_no, hour FROM unnest($1::int4[], $2::timestamptz[]) AS touched (pump_no, hour)
ORDER BY pump_no, hour
ON CONFLICT (pump_no, hour) DO UPDATE SET stale = true WHERE NOT q.stale

-- name: mark_silent
-- A pump that has reported within a week is expected in every hour until $1; longer silent, it is out of use.
INSERT INTO ingest.quality_hours (pump_no, hour)
SELECT pump_no, silent
FROM (
    SELECT pump_no, max(hour) AS hour FROM ingest.quality_hours
    WHERE readings > 0 AND hour >= $1::timestamptz - INTERVAL '7 days' GROUP BY pump_no
) AS heard CROSS JOIN LATERAL generate_series(hour + INTERVAL '1 hour', $1::timestamptz, INTERVAL '1 hour') AS silent
ON CONFLICT DO NOTHING

-- name: due
-- Up to $2 stale hours no later than $1, oldest first, locked until scored, with what is counted of each. A
-- pump's first hour begins with its first reading. Scaled integers compare as they are: pressures share one
-- resolution, and so do currents. Bits 1 and 2 of fault_mask are the two pressures'.
WITH due AS MATERIALIZED (
    SELECT pump_no, hour FROM ingest.quality_hours WHERE stale AND hour <= $1
    ORDER BY hour, pump_no LIMIT $2 FOR UPDATE SKIP LOCKED
)
SELECT
    due.pump_no, due.hour, p.pump_id, w.field_id, p.expected_interval_s, r.*,
    coalesce(t.duplicates, 0) AS duplicates, coalesce(t.late, 0) AS late,
    coalesce(t.rejected, 0) AS rejected, coalesce(t.conflicts, 0) AS conflicts,
    before.score AS score_before, q.degraded_at,
    CASE
        WHEN EXISTS (SELECT FROM ingest.quality_hours AS e WHERE e.pump_no = due.pump_no AND e.hour < due.hour)
        THEN 3600 ELSE coalesce(extract(epoch FROM due.hour + INTERVAL '1 hour' - r.first), 3600)
    END::float8 AS observed_s
FROM due
JOIN ingest.quality_hours AS q USING (pump_no, hour)
JOIN ingest.pumps AS p USING (pump_no)
JOIN ingest.wells AS w USING (well_id)
LEFT JOIN ingest.quality_tally AS t USING (pump_no, hour)
LEFT JOIN ingest.quality_hours AS before
    ON before.pump_no = due.pump_no AND before.hour = due.hour - INTERVAL '1 hour' AND NOT before.stale
CROSS JOIN LATERAL (
    SELECT
        count(*) AS readings,
        count(*) FILTER (
            WHERE fault_mask IS NOT NULL OR frozen_mask IS NOT NULL OR refused_mask IS NOT NULL
        ) AS flagged,
        coalesce(sum(bit_count(refused_mask::bit(32))), 0)::int4 AS refused_channels,
        coalesce(sum(bit_count(clamped_mask::bit(32))), 0)::int4 AS clamped_channels,
        count(*) FILTER (WHERE running) AS checked,
        count(*) FILTER (WHERE running AND (
            (discharge_pressure_psi < intake_pressure_psi AND coalesce(fault_mask, 0) & 3 = 0)
            OR 10 * abs(current_a_a + current_b_a + current_c_a - 3 * motor_current_a) > 3 * motor_current_a
        )) AS contradictory,
        count(DISTINCT date_bin('20 minutes', time, due.hour)) AS windows,
        min(time) AS first
    FROM ingest.telemetry
    WHERE telemetry.pump_no = due.pump_no AND time >= due.hour AND time < due.hour + INTERVAL '1 hour'
) AS r
ORDER BY due.hour, due.pump_no

-- name: score
UPDATE ingest.quality_hours AS q SET
    stale = false, readings = s.readings, completeness = s.completeness, validity = s.validity,
    uniqueness = s.uniqueness, timeliness = s.timeliness, consistency = s.consistency, score = s.score,
    rejected = s.rejected, refused_channels = s.refused_channels, clamped_channels = s.clamped_channels,
    computed_at = now(), degraded_at = coalesce(q.degraded_at, s.degraded_at)
FROM unnest(
    $1::int4[], $2::timestamptz[], $3::int4[], $4::float8[], $5::float8[], $6::float8[], $7::float8[], $8::float8[],
    $9::float8[], $10::timestamptz[], $11::int4[], $12::int4[], $13::int4[]
) AS s (
    pump_no, hour, readings, completeness, validity, uniqueness, timeliness, consistency, score, degraded_at,
    rejected, refused_channels, clamped_channels
)
WHERE q.pump_no = s.pump_no AND q.hour = s.hour
