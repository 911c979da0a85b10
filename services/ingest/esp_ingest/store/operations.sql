-- What operators do to what was refused, and what they count to see that nothing is missing.

-- name: lock_refused
SELECT gateway_id, pump_id, reason, payload::text, state FROM ingest.quarantine WHERE id = $1 FOR UPDATE

-- name: resolve
UPDATE ingest.quarantine SET state = $2, resolved_at = now(), resolved_by = $3 WHERE id = $1

-- name: sums
-- The ledger's sums beside what the tables hold.
SELECT
    coalesce(sum(messages), 0)::int8 AS messages,
    coalesce(sum(readings), 0)::int8 AS readings,
    coalesce(sum(stored), 0)::int8 AS stored,
    coalesce(sum(merged), 0)::int8 AS merged,
    coalesce(sum(duplicates), 0)::int8 AS duplicates,
    coalesce(sum(quarantined), 0)::int8 AS quarantined,
    coalesce(sum(refused_channels), 0)::int8 AS refused_channels,
    (SELECT count(*) FROM ingest.telemetry) AS rows,
    (SELECT coalesce(sum(readings), 0)::int8 FROM ingest.dropped_chunks) AS rows_dropped,
    (SELECT count(*) FROM ingest.quarantine WHERE channel IS NULL) AS rows_quarantined,
    (SELECT count(*) FROM ingest.quarantine WHERE channel IS NOT NULL) AS channels_quarantined
FROM ingest.ledger

-- name: stored_rows
-- Stored rows of the keys asked for. The bounds let whole days be left out.
SELECT t.*
FROM ingest.telemetry AS t
JOIN unnest($1::int4[], $2::timestamptz[]) AS wanted (pump_no, time) USING (pump_no, time)
WHERE t.time BETWEEN $3 AND $4

-- name: quarantined_ids
-- Not those that were sent in again: they are stored by now, or lost.
SELECT id FROM ingest.quarantine WHERE id = ANY ($1) AND state <> 'replayed'
