-- Anomaly models, and outcomes of training.

-- name: active
SELECT pump_id, version, trained_at, body FROM diagnostics.models WHERE pump_id = ANY($1) AND active

-- name: described
-- A pump's model and its last training.
SELECT m.model_id, m.version, m.trained_at, m.trained_from, m.trained_to, m.samples, m.metrics,
    t.tried_at, t.outcome, t.reason, t.share
FROM (SELECT $1::text AS pump_id) AS asked
LEFT JOIN diagnostics.models AS m ON m.pump_id = asked.pump_id AND m.active
LEFT JOIN diagnostics.trainings AS t ON t.pump_id = asked.pump_id

-- name: due
-- Pumps due for training, longest waiting first: never tried, learning, or trained long ago.
SELECT p.pump_id
FROM unnest($1::text[]) AS p (pump_id)
LEFT JOIN diagnostics.trainings AS t USING (pump_id)
WHERE t.pump_id IS NULL
    OR (t.outcome = 'trained' AND t.tried_at < now() - make_interval(secs => $2))
    OR (t.outcome <> 'trained' AND t.tried_at < now() - make_interval(secs => $3))
ORDER BY t.tried_at NULLS FIRST, p.pump_id
LIMIT $4

-- name: retire
UPDATE diagnostics.models SET active = false WHERE pump_id = $1 AND active

-- name: keep
INSERT INTO diagnostics.models (model_id, pump_id, version, trained_from, trained_to, samples, body, metrics, active)
SELECT $1, $2, coalesce(max(version), 0) + 1, $3, $4, $5, $6, $7::text::jsonb, true
FROM diagnostics.models WHERE pump_id = $2
RETURNING version

-- name: forget
-- Deletes old versions beyond the newest few.
DELETE FROM diagnostics.models AS m
WHERE m.pump_id = $1 AND NOT m.active
    AND m.version <= (SELECT max(version) FROM diagnostics.models WHERE pump_id = $1) - $2

-- name: tried
INSERT INTO diagnostics.trainings (pump_id, outcome, reason, share) VALUES ($1, $2, $3, $4)
ON CONFLICT (pump_id) DO UPDATE
    SET tried_at = now(), outcome = EXCLUDED.outcome, reason = EXCLUDED.reason, share = EXCLUDED.share

-- name: unhealthy
-- Spans with findings, excluded from training.
SELECT onset, cleared_at FROM diagnostics.findings
WHERE pump_id = $1 AND condition <> 'insufficient_data' AND (cleared_at IS NULL OR cleared_at > $2)
