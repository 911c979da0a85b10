-- Findings.

-- name: open_findings
SELECT finding_id, pump_id, condition, severity, peak_severity, confidence, onset, raised_at
FROM diagnostics.findings
WHERE pump_id = ANY($1) AND cleared_at IS NULL

-- name: last_cleared
-- Last clearing of each condition of each pump after $2.
SELECT pump_id, condition, max(cleared_at) AS cleared_at
FROM diagnostics.findings
WHERE pump_id = ANY($1) AND cleared_at > $2
GROUP BY pump_id, condition

-- name: open_at
-- Findings open at each pump's given time.
SELECT finding_id, f.pump_id, condition, severity, peak_severity, confidence, onset, raised_at
FROM unnest($1::text[], $2::timestamptz[]) AS asked (pump_id, at)
JOIN diagnostics.findings AS f ON f.pump_id = asked.pump_id
WHERE raised_at <= at AND (cleared_at IS NULL OR cleared_at > at)

-- name: cleared_by
-- Last clearing of each condition of each pump before its given time.
SELECT f.pump_id, condition, max(cleared_at) AS cleared_at
FROM unnest($1::text[], $2::timestamptz[]) AS asked (pump_id, at)
JOIN diagnostics.findings AS f ON f.pump_id = asked.pump_id
WHERE cleared_at <= at
GROUP BY f.pump_id, condition

-- name: found_after
-- Findings raised after each pump's given time.
SELECT f.pump_id, condition, onset, cleared_at
FROM unnest($1::text[], $2::timestamptz[]) AS asked (pump_id, at)
JOIN diagnostics.findings AS f ON f.pump_id = asked.pump_id
WHERE raised_at > at

-- name: raise
-- Returns the ids of new findings; an open finding of the same condition is kept.
INSERT INTO diagnostics.findings (
    finding_id, pump_id, field_id, condition, kind, severity, peak_severity, confidence, onset, raised_at,
    rule_version, evidence, path, action
)
SELECT
    finding_id, pump_id, field_id, condition, kind, severity, severity, confidence, onset, raised_at, rule_version,
    evidence::jsonb, path::jsonb, action
FROM unnest(
    $1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::float8[], $8::timestamptz[],
    $9::timestamptz[], $10::text[], $11::text[], $12::text[], $13::text[]
) AS found (
    finding_id, pump_id, field_id, condition, kind, severity, confidence, onset, raised_at, rule_version, evidence,
    path, action
)
ON CONFLICT (pump_id, condition) WHERE cleared_at IS NULL DO NOTHING
RETURNING finding_id

-- name: change
UPDATE diagnostics.findings AS f
SET severity = now_known.severity, peak_severity = now_known.peak_severity, confidence = now_known.confidence,
    evidence = now_known.evidence::jsonb, path = now_known.path::jsonb, action = now_known.action,
    updated_at = now()
FROM unnest(
    $1::uuid[], $2::text[], $3::text[], $4::float8[], $5::text[], $6::text[], $7::text[]
) AS now_known (finding_id, severity, peak_severity, confidence, evidence, path, action)
WHERE f.finding_id = now_known.finding_id AND f.cleared_at IS NULL

-- name: clear
-- Returns the ids of findings that were open.
UPDATE diagnostics.findings AS f SET cleared_at = greatest(over.cleared_at, f.raised_at), updated_at = now()
FROM unnest($1::uuid[], $2::timestamptz[]) AS over (finding_id, cleared_at)
WHERE f.finding_id = over.finding_id AND f.cleared_at IS NULL
RETURNING f.finding_id

-- name: page
-- Last raised first; $12 and $13 are the last row of the page before, or null.
SELECT *
FROM diagnostics.findings
WHERE ($1::text IS NULL OR field_id = $1)
    AND ($2::text IS NULL OR pump_id = $2)
    AND ($3::text IS NULL OR condition = $3)
    AND ($4::text[] IS NULL OR severity = ANY($4))
    AND ($5::boolean IS NULL OR (cleared_at IS NULL) = $5)
    AND ($6::timestamptz IS NULL OR raised_at >= $6) AND ($7::timestamptz IS NULL OR raised_at < $7)
    AND ($8::timestamptz IS NULL OR cleared_at >= $8) AND ($9::timestamptz IS NULL OR cleared_at < $9)
    AND ($10::timestamptz IS NULL OR onset >= $10) AND ($11::timestamptz IS NULL OR onset < $11)
    AND ($12::timestamptz IS NULL OR (raised_at, finding_id) < ($12, $13::uuid))
ORDER BY raised_at DESC, finding_id DESC
LIMIT $14
