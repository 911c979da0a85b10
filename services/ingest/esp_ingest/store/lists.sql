-- What operators list: refused readings and scored hours, a page at a time.

-- name: quarantine_page
-- Newest first; $8 and $9 are the last row of the previous page, or null.
SELECT id, received_at, gateway_id, message_id, pump_id, time, channel, reason, detail, state, resolved_at,
    resolved_by
FROM ingest.quarantine
WHERE ($1::text IS NULL OR reason = $1)
    AND ($2::text IS NULL OR gateway_id = $2)
    AND ($3::text IS NULL OR pump_id = $3)
    AND ($4::text IS NULL OR channel = $4)
    AND ($5::text IS NULL OR state = $5)
    AND ($6::timestamptz IS NULL OR received_at >= $6)
    AND ($7::timestamptz IS NULL OR received_at < $7)
    AND ($8::timestamptz IS NULL OR (received_at, id) < ($8, $9::uuid))
ORDER BY received_at DESC, id DESC
LIMIT $10;

-- name: quarantine_entry
SELECT * FROM ingest.quarantine WHERE id = $1;

-- name: quality_latest
-- Each pump's newest scored hour, in the order of pump ids; $3 is the last of the page before, or null.
SELECT
    p.pump_id, h.hour, h.readings, h.completeness, h.validity, h.uniqueness, h.timeliness, h.consistency,
    h.score, h.rejected, h.refused_channels, h.clamped_channels, h.computed_at
FROM ingest.pumps AS p
JOIN ingest.wells AS w USING (well_id)
CROSS JOIN LATERAL (
    SELECT * FROM ingest.quality_hours AS q
    WHERE q.pump_no = p.pump_no AND q.computed_at IS NOT NULL
    ORDER BY q.hour DESC
    LIMIT 1
) AS h
WHERE ($1::text IS NULL OR w.field_id = $1)
    AND ($2::float8 IS NULL OR h.score < $2)
    AND ($3::text IS NULL OR p.pump_id > $3)
ORDER BY p.pump_id
LIMIT $4;

-- name: quality_hours
-- One pump's scored hours, newest first; $4 is the last of the page before, or null.
SELECT
    p.pump_id, h.hour, h.readings, h.completeness, h.validity, h.uniqueness, h.timeliness, h.consistency,
    h.score, h.rejected, h.refused_channels, h.clamped_channels, h.computed_at
FROM ingest.quality_hours AS h
JOIN ingest.pumps AS p USING (pump_no)
WHERE p.pump_id = $1
    AND h.computed_at IS NOT NULL
    AND ($2::timestamptz IS NULL OR h.hour >= $2)
    AND ($3::timestamptz IS NULL OR h.hour < $3)
    AND ($4::timestamptz IS NULL OR h.hour < $4)
ORDER BY h.hour DESC
LIMIT $5;
