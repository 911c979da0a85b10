-- The fleet by latest readings, findings and alerts, worst pump first.

-- name: page
-- $1 field, $2 states, $3 minimum severity; $4 to $6 sort key of the last pump of the page before, or null.
-- $8 to $10 silence policy: intervals, minimum seconds, interval of pumps without one. State and health of a
-- pump with an older status are unknown, whether it is silent or its diagnosis is behind.
-- Sort order: `place` (worst severity first, out of service last), then health, then id.
WITH severities AS (
    SELECT ARRAY['info', 'low', 'medium', 'high', 'critical'] AS names
), open_findings AS (
    SELECT
        pump_id, count(*) AS findings, max(array_position(names, severity)) AS worst,
        (array_agg(condition ORDER BY array_position(names, severity) DESC, confidence DESC, condition))[1] AS condition
    FROM diagnostics.findings, severities
    WHERE cleared_at IS NULL
    GROUP BY pump_id
), living_alerts AS (
    SELECT
        pump_id, count(*) FILTER (WHERE shows) AS alerts, count(*) FILTER (WHERE state LIKE '%\_unacknowledged')
            AS unacknowledged,
        count(*) FILTER (WHERE state = 'shelved') AS shelved,
        max(array_position(names, priority)) FILTER (WHERE shows) AS worst
    FROM severities, diagnostics.alerts,
        LATERAL (SELECT state IN ('active_unacknowledged', 'active_acknowledged', 'cleared_unacknowledged') AS shows) AS s
    WHERE closed_at IS NULL AND pump_id IS NOT NULL
    GROUP BY pump_id
), fleet AS (
    SELECT
        p.pump_id, p.field_id, p.well_id, p.in_service, CASE WHEN stale THEN 'unknown' ELSE s.state END AS state,
        CASE WHEN stale THEN s.time ELSE s.since END AS since, s.time,
        stale AND (act.received IS NULL OR act.received <= oldest) AS silent,
        greatest(
            0, extract(epoch FROM b.until - b.judged), extract(epoch FROM act.received - s.time)
        )::float8 AS diagnosis_lag_s,
        CASE WHEN NOT stale THEN s.health END AS health, coalesce(s.gauge_fault, false) AS gauge_fault, s.anomaly,
        names[greatest(f.worst, a.worst)] AS severity, f.condition,
        coalesce(f.findings, 0) AS findings, coalesce(a.alerts, 0) AS alerts,
        coalesce(a.unacknowledged, 0) AS unacknowledged_alerts, coalesce(a.shelved, 0) AS shelved_alerts,
        s.latest, s.operating_point,
        CASE WHEN p.in_service THEN -coalesce(greatest(f.worst, a.worst), 0) ELSE 1 END AS place,
        CASE WHEN stale THEN 101 ELSE coalesce(s.health, 101) END AS health_place
    FROM severities, diagnostics.pumps AS p
    LEFT JOIN diagnostics.pump_status AS s USING (pump_id)
    LEFT JOIN diagnostics.pump_activity AS act USING (pump_id)
    LEFT JOIN diagnostics.backlogs AS b USING (pump_id)
    CROSS JOIN LATERAL ({oldest}) AS o
    CROSS JOIN LATERAL (SELECT s.time IS NULL OR s.time < oldest AS stale) AS st
    LEFT JOIN open_findings AS f USING (pump_id)
    LEFT JOIN living_alerts AS a USING (pump_id)
    WHERE p.removed_at IS NULL AND ($1::text IS NULL OR p.field_id = $1)
)
SELECT
    f.place, f.health_place, f.pump_id,
    -- JSON is built here per row, which is several times faster than passing all columns on.
    to_json(item)::text AS item
FROM fleet AS f, severities, LATERAL (
    SELECT
        f.pump_id, f.field_id, f.well_id, f.in_service, f.state, f.since, f.time, f.silent, f.diagnosis_lag_s,
        f.health, f.gauge_fault, f.anomaly, f.severity, f.condition, f.findings, f.alerts, f.unacknowledged_alerts, f.shelved_alerts,
        f.operating_point,
        (SELECT jsonb_strip_nulls(jsonb_build_object({shown})) FROM (SELECT f.latest -> 'channels' AS c OFFSET 0) AS l)
            AS values
) AS item
WHERE ($2::text[] IS NULL OR f.state = ANY ($2))
    AND ($3::text IS NULL OR array_position(names, f.severity) >= array_position(names, $3))
    AND ($4::int4 IS NULL OR (f.place, f.health_place, f.pump_id) > ($4, $5::float8, $6::text))
ORDER BY f.place, f.health_place, f.pump_id
LIMIT $7;

-- name: summary
-- Number of pumps by state and severity; $1 field, $2 to $4 silence policy.
WITH severities AS (
    SELECT ARRAY['info', 'low', 'medium', 'high', 'critical'] AS names
), problems AS (
    SELECT pump_id, max(array_position(names, severity)) AS worst
    FROM severities, (
        SELECT pump_id, severity FROM diagnostics.findings WHERE cleared_at IS NULL
        UNION ALL
        SELECT pump_id, priority FROM diagnostics.alerts
        WHERE closed_at IS NULL AND pump_id IS NOT NULL
            AND state IN ('active_unacknowledged', 'active_acknowledged', 'cleared_unacknowledged')
    ) AS reported
    GROUP BY pump_id
), pumps AS (
    SELECT
        CASE WHEN s.time >= oldest THEN s.state ELSE 'unknown' END AS state, p.in_service, names[worst] AS severity
    FROM severities, diagnostics.pumps AS p
    LEFT JOIN diagnostics.pump_status AS s USING (pump_id)
    CROSS JOIN LATERAL ({oldest}) AS o
    LEFT JOIN problems USING (pump_id)
    WHERE p.removed_at IS NULL AND ($1::text IS NULL OR p.field_id = $1)
), by_state AS (
    SELECT jsonb_object_agg(state, n) AS states FROM (SELECT state, count(*) AS n FROM pumps GROUP BY 1) AS s
), by_severity AS (
    SELECT jsonb_object_agg(severity, n) AS severities
    FROM (SELECT severity, count(*) AS n FROM pumps WHERE severity IS NOT NULL GROUP BY 1) AS s
)
SELECT
    (SELECT count(*) FROM pumps) AS pumps, (SELECT count(*) FROM pumps WHERE NOT in_service) AS out_of_service,
    (SELECT states FROM by_state) AS states, (SELECT severities FROM by_severity) AS severities;
