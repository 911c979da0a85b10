-- The fleet as the last readings and findings have it, the worst pump first.

-- name: page
-- $1 field, $2 states, $3 least severity; $4 to $6 what the last pump of the page before was sorted by, or null.
-- Pumps are sorted by `place` (worst severity first, those out of service last), then health, then id.
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
        p.pump_id, p.field_id, p.well_id, p.in_service, coalesce(s.state, 'unknown') AS state, s.since, s.time,
        s.time IS NULL OR s.time < now() - make_interval(
            secs => greatest(300, 5 * coalesce((p.nameplate ->> 'expected_interval_s')::float8, 720))
        ) AS silent,
        s.health, coalesce(s.gauge_fault, false) AS gauge_fault, s.anomaly,
        names[greatest(f.worst, a.worst)] AS severity, f.condition,
        coalesce(f.findings, 0) AS findings, coalesce(a.alerts, 0) AS alerts,
        coalesce(a.unacknowledged, 0) AS unacknowledged_alerts, coalesce(a.shelved, 0) AS shelved_alerts,
        s.latest, s.operating_point,
        CASE WHEN p.in_service THEN -coalesce(greatest(f.worst, a.worst), 0) ELSE 1 END AS place,
        coalesce(s.health, 101) AS health_place
    FROM severities, diagnostics.pumps AS p
    LEFT JOIN diagnostics.pump_status AS s USING (pump_id)
    LEFT JOIN open_findings AS f USING (pump_id)
    LEFT JOIN living_alerts AS a USING (pump_id)
    WHERE p.removed_at IS NULL AND ($1::text IS NULL OR p.field_id = $1)
)
SELECT
    pump_id, field_id, well_id, in_service, state, since, time, silent, health, gauge_fault, anomaly, severity,
    condition, findings, alerts, unacknowledged_alerts, shelved_alerts, operating_point, place, health_place,
    (SELECT jsonb_object_agg(key, value -> 'value') FROM jsonb_each(latest -> 'channels') WHERE key = ANY ($8))
        AS values
FROM fleet, severities
WHERE ($2::text[] IS NULL OR state = ANY ($2))
    AND ($3::text IS NULL OR array_position(names, severity) >= array_position(names, $3))
    AND ($4::int4 IS NULL OR (place, health_place, pump_id) > ($4, $5::float8, $6::text))
ORDER BY place, health_place, pump_id
LIMIT $7;

-- name: summary
-- How many pumps there are of each state and severity, and how many alerts; $1 field.
WITH severities AS (
    SELECT ARRAY['info', 'low', 'medium', 'high', 'critical'] AS names
), worst AS (
    SELECT p.pump_id, coalesce(s.state, 'unknown') AS state, p.in_service, (
        SELECT names[max(array_position(names, told))]
        FROM (
            SELECT severity AS told FROM diagnostics.findings AS f
            WHERE f.pump_id = p.pump_id AND cleared_at IS NULL
            UNION ALL
            SELECT priority FROM diagnostics.alerts AS a
            WHERE a.pump_id = p.pump_id AND closed_at IS NULL
                AND a.state IN ('active_unacknowledged', 'active_acknowledged', 'cleared_unacknowledged')
        ) AS told
    ) AS severity
    FROM severities, diagnostics.pumps AS p LEFT JOIN diagnostics.pump_status AS s USING (pump_id)
    WHERE p.removed_at IS NULL AND ($1::text IS NULL OR p.field_id = $1)
)
SELECT
    count(*) AS pumps, count(*) FILTER (WHERE NOT in_service) AS out_of_service,
    (SELECT jsonb_object_agg(state, n) FROM (SELECT state, count(*) AS n FROM worst GROUP BY 1) AS by_state) AS states,
    (
        SELECT jsonb_object_agg(severity, n)
        FROM (SELECT severity, count(*) AS n FROM worst WHERE severity IS NOT NULL GROUP BY 1) AS by_severity
    ) AS severities
FROM worst;
