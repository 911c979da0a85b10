-- Refused readings.

-- name: keep
-- One row per refused reading, whoever sends it again; one that was replayed and refused again is pending again.
INSERT INTO ingest.quarantine AS q (id, gateway_id, message_id, pump_id, time, reason, detail, payload)
SELECT * FROM unnest(
    $1::uuid[], $2::text[], $3::text[], $4::text[], $5::timestamptz[], $6::text[], $7::text[], $8::jsonb[]
) AS refused (id) ORDER BY id
ON CONFLICT (id) DO UPDATE
SET state = 'pending', received_at = now(), reason = excluded.reason, detail = excluded.detail,
    resolved_at = NULL, resolved_by = NULL
WHERE q.state = 'replayed'
RETURNING xmax = 0 AS is_new

-- name: page
-- Newest first; a page begins after the row with received_at $7 and id $8.
SELECT id, received_at, gateway_id, message_id, pump_id, time, reason, detail, payload::text, state, resolved_at,
    resolved_by
FROM ingest.quarantine
WHERE ($1::text IS NULL OR state = $1) AND ($2::text IS NULL OR reason = $2)
  AND ($3::text IS NULL OR pump_id = $3) AND ($4::text IS NULL OR gateway_id = $4)
  AND ($5::timestamptz IS NULL OR received_at >= $5) AND ($6::timestamptz IS NULL OR received_at < $6)
  AND ($7::timestamptz IS NULL OR (received_at, id) < ($7, $8::uuid))
ORDER BY received_at DESC, id DESC LIMIT $9

-- name: one
SELECT id, received_at, gateway_id, message_id, pump_id, time, reason, detail, payload::text, state, resolved_at,
    resolved_by
FROM ingest.quarantine WHERE id = $1
